//! `recall`: the earlier messages that belong to the new one, beside the newest.

use super::{AvailableTokens, BudgetShares, BudgetStrategy, total_budget};
use crate::domain::memory::MemoryOptions;

/// The part of the budget for what is recalled, unless it is told.
const RECALL_DIVISOR: u32 = 2;

pub(super) struct RecallStrategy;

impl BudgetStrategy for RecallStrategy {
    fn divide_budget(&self, room: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        let all = total_budget(room, options);
        let recalled = options.recall_tokens.unwrap_or(all / RECALL_DIVISOR).min(all);
        BudgetShares { recalled, ..BudgetShares::recent_only(all) }
    }
}
