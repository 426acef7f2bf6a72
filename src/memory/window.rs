//! The strategies that take the newest messages verbatim, as bounds on the reading of a path's tail.

use super::budget::MESSAGE_OVERHEAD;
use crate::domain::memory::{MemoryOptions, Strategy};
use crate::store::TailBounds;

/// How many messages `window` takes unless it is told.
pub(super) const LAST_MESSAGES: u32 = 20;

/// What a strategy may read, given the default budget and what the context window leaves.
pub(super) fn bounds(
    strategy: Strategy,
    options: MemoryOptions,
    default_tokens: u32,
    left: u32,
) -> TailBounds {
    let (messages, tokens) = match strategy {
        Strategy::Buffer => (u32::MAX, options.max_tokens.unwrap_or(u32::MAX)),
        Strategy::Window => {
            (options.last_messages.unwrap_or(LAST_MESSAGES), options.max_tokens.unwrap_or(u32::MAX))
        }
        Strategy::Token | Strategy::Auto => {
            (u32::MAX, options.max_tokens.unwrap_or(default_tokens))
        }
    };
    TailBounds { messages, tokens: tokens.min(left), overhead: MESSAGE_OVERHEAD, parts: 0 }
}
