//! `window`: a fixed number of newest messages, as far as they fit.

use super::{AvailableTokens, BudgetShares, BudgetStrategy};
use crate::domain::memory::MemoryOptions;

const DEFAULT_LAST_MESSAGES: u32 = 20;

pub(super) struct WindowStrategy;

impl BudgetStrategy for WindowStrategy {
    fn divide_budget(&self, available: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        let total = options.max_tokens.unwrap_or(u32::MAX).min(available.window_tokens);
        let max_messages = options.last_messages.unwrap_or(DEFAULT_LAST_MESSAGES);
        BudgetShares { max_messages, ..BudgetShares::recent_only(total) }
    }
}
