//! `buffer`: all of the path that the model's context window holds.

use super::{AvailableTokens, BudgetShares, BudgetStrategy};
use crate::domain::memory::MemoryOptions;

pub(super) struct BufferStrategy;

impl BudgetStrategy for BufferStrategy {
    fn divide_budget(&self, room: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        BudgetShares::recent_only(options.max_tokens.unwrap_or(u32::MAX).min(room.window_tokens))
    }
}
