//! `summary`: the newest messages within a budget, after a summary of earlier ones.

use super::{AvailableTokens, BudgetShares, BudgetStrategy, total_budget};
use crate::domain::memory::MemoryOptions;

/// The summary gets this fraction (1/4) of the budget.
const SUMMARY_DIVISOR: u32 = 4;

pub(super) struct SummaryStrategy;

impl BudgetStrategy for SummaryStrategy {
    fn divide_budget(&self, available: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        let total = total_budget(available, options);
        BudgetShares { summary: total / SUMMARY_DIVISOR, ..BudgetShares::recent_only(total) }
    }
}
