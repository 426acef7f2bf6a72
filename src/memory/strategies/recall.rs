//! `recall`: recalled messages and the newest messages.

use super::{AvailableTokens, BudgetShares, BudgetStrategy, total_budget};
use crate::domain::memory::MemoryOptions;

/// Recalled messages get this fraction (1/2) of the budget by default.
const RECALL_DIVISOR: u32 = 2;

pub(super) struct RecallStrategy;

impl BudgetStrategy for RecallStrategy {
    fn divide_budget(&self, available: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        let total = total_budget(available, options);
        let recalled = options.recall_tokens.unwrap_or(total / RECALL_DIVISOR).min(total);
        BudgetShares { recalled, ..BudgetShares::recent_only(total) }
    }
}
