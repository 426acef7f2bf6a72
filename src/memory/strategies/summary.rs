//! `summary`: the newest messages within a budget, behind a summary of what came before.

use super::{Divide, Room, Shares, budget};
use crate::domain::memory::MemoryOptions;

/// The part of the budget for the summary.
const PART: u32 = 4;

pub(super) struct Summary;

impl Divide for Summary {
    fn divide(&self, room: Room, options: MemoryOptions) -> Shares {
        let all = budget(room, options);
        Shares { summary: all / PART, ..Shares::verbatim(all) }
    }
}
