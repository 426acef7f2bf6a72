//! `auto`: recent messages verbatim, a summary of what came before, and what of it belongs to the
//! new message.

use super::{AvailableTokens, BudgetShares, BudgetStrategy, total_budget};
use crate::domain::memory::MemoryOptions;

/// The parts of the budget for the summary and for what is recalled, unless it is told. What is
/// recalled is new in each turn, so no provider has it cached: it is kept small.
const SHARE_DIVISOR: u32 = 8;

pub(super) struct AutoStrategy;

impl BudgetStrategy for AutoStrategy {
    fn divide_budget(&self, room: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        let all = total_budget(room, options);
        let recalled = options.recall_tokens.unwrap_or(all / SHARE_DIVISOR).min(all);
        let summary = (all / SHARE_DIVISOR).min(all - recalled);
        BudgetShares { summary, recalled, ..BudgetShares::recent_only(all) }
    }
}
