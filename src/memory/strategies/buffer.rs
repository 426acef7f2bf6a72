//! `buffer`: as much of the path as the model's context window holds.

use super::{AvailableTokens, BudgetShares, BudgetStrategy};
use crate::domain::memory::MemoryOptions;

pub(super) struct BufferStrategy;

impl BudgetStrategy for BufferStrategy {
    fn divide_budget(&self, available: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        let max_tokens = options.max_tokens.unwrap_or(u32::MAX);
        BudgetShares::recent_only(max_tokens.min(available.window_tokens))
    }
}
