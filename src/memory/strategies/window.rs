//! `window`: the last so many messages, as far as they fit.

use super::{AvailableTokens, BudgetShares, BudgetStrategy};
use crate::domain::memory::MemoryOptions;

/// How many messages it takes unless it is told.
const DEFAULT_LAST_MESSAGES: u32 = 20;

pub(super) struct WindowStrategy;

impl BudgetStrategy for WindowStrategy {
    fn divide_budget(&self, room: AvailableTokens, options: MemoryOptions) -> BudgetShares {
        let all = options.max_tokens.unwrap_or(u32::MAX).min(room.window_tokens);
        let messages = options.last_messages.unwrap_or(DEFAULT_LAST_MESSAGES);
        BudgetShares { max_messages: messages, ..BudgetShares::recent_only(all) }
    }
}
