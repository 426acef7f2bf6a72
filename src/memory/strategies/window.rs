//! `window`: the last so many messages, as far as they fit.

use super::{Divide, Room, Shares};
use crate::domain::memory::MemoryOptions;

/// How many messages it takes unless it is told.
const LAST_MESSAGES: u32 = 20;

pub(super) struct Window;

impl Divide for Window {
    fn divide(&self, room: Room, options: MemoryOptions) -> Shares {
        let all = options.max_tokens.unwrap_or(u32::MAX).min(room.left);
        let messages = options.last_messages.unwrap_or(LAST_MESSAGES);
        Shares { messages, ..Shares::verbatim(all) }
    }
}
