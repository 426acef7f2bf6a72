//! `token`: the newest messages within a budget.

use super::{Divide, Room, Shares, budget};
use crate::domain::memory::MemoryOptions;

pub(super) struct Token;

impl Divide for Token {
    fn divide(&self, room: Room, options: MemoryOptions) -> Shares {
        Shares::verbatim(budget(room, options))
    }
}
