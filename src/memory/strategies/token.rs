//! `token`: the newest messages within a budget.

use super::{AvailableTokens, BudgetShares, BudgetStrategy, total_budget};
use crate::domain::memory::MemoryOptions;

pub(super) struct TokenStrategy;

impl BudgetStrategy for TokenStrategy {
    fn divide_budget(&self, available: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        BudgetShares::recent_only(total_budget(available, options))
    }
}
