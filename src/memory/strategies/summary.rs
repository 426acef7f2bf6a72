//! `summary`: the newest messages within a budget, behind a summary of what came before.

use super::{AvailableTokens, BudgetShares, BudgetStrategy, total_budget};
use crate::domain::memory::MemoryOptions;

/// The part of the budget for the summary.
const SUMMARY_DIVISOR: u32 = 4;

pub(super) struct SummaryStrategy;

impl BudgetStrategy for SummaryStrategy {
    fn divide_budget(&self, room: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        let all = total_budget(room, options);
        BudgetShares { summary: all / SUMMARY_DIVISOR, ..BudgetShares::recent_only(all) }
    }
}
