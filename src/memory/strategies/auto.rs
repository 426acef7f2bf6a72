//! `auto`: recent messages verbatim, a summary of what came before, and what of it belongs to the
//! new message.

use super::{Divide, Room, Shares, budget};
use crate::domain::memory::MemoryOptions;

/// The parts of the budget for the summary and for what is recalled, unless it is told. What is
/// recalled is new in each turn, so no provider has it cached: it is kept small.
const PART: u32 = 8;

pub(super) struct Auto;

impl Divide for Auto {
    fn divide(&self, room: Room, options: MemoryOptions) -> Shares {
        let all = budget(room, options);
        let recalled = options.recall_tokens.unwrap_or(all / PART).min(all);
        let summary = (all / PART).min(all - recalled);
        Shares { summary, recalled, ..Shares::verbatim(all) }
    }
}
