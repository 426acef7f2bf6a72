//! `recall`: the earlier messages that belong to the new one, beside the newest.

use super::{Divide, Room, Shares, budget};
use crate::domain::memory::MemoryOptions;

/// The part of the budget for what is recalled, unless it is told.
const PART: u32 = 2;

pub(super) struct Recall;

impl Divide for Recall {
    fn divide(&self, room: Room, options: MemoryOptions) -> Shares {
        let all = budget(room, options);
        let recalled = options.recall_tokens.unwrap_or(all / PART).min(all);
        Shares { recalled, ..Shares::verbatim(all) }
    }
}
