//! `auto`: recent messages verbatim, a summary of earlier ones, and recalled messages.

use super::{AvailableTokens, BudgetShares, BudgetStrategy, total_budget};
use crate::domain::memory::MemoryOptions;

/// Summary and recalled messages each get this fraction (1/8) of the budget by default. Recalled
/// messages differ in each turn, so no provider can cache them: their share is small.
const SHARE_DIVISOR: u32 = 8;

pub(super) struct AutoStrategy;

impl BudgetStrategy for AutoStrategy {
    fn divide_budget(&self, available: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        let total = total_budget(available, options);
        let recalled = options.recall_tokens.unwrap_or(total / SHARE_DIVISOR).min(total);
        let summary = (total / SHARE_DIVISOR).min(total - recalled);
        BudgetShares { summary, recalled, ..BudgetShares::recent_only(total) }
    }
}
