//! `buffer`: all of the path that the model's context window holds.

use super::{Divide, Room, Shares};
use crate::domain::memory::MemoryOptions;

pub(super) struct Buffer;

impl Divide for Buffer {
    fn divide(&self, room: Room, options: MemoryOptions) -> Shares {
        Shares::verbatim(options.max_tokens.unwrap_or(u32::MAX).min(room.left))
    }
}
