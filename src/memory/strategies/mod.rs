//! Memory strategies: each divides the token budget of memory and does no I/O. [`find_strategy`]
//! lists them.

mod auto;
mod buffer;
mod recall;
mod summary;
mod token;
mod window;

use crate::domain::memory::{MemoryOptions, MemoryStrategy};

/// Tokens that a strategy divides.
#[derive(Debug, Clone, Copy)]
pub(super) struct AvailableTokens {
    /// Tokens that the context window leaves for memory if the new message is ignored.
    pub(super) window_tokens: u32,
    /// Budget if the options set none.
    pub(super) default_tokens: u32,
}

/// Token budget of each part of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BudgetShares {
    /// Upper bound of all parts together.
    pub(super) total: u32,
    /// For the summary; 0 if the strategy has none.
    pub(super) summary: u32,
    /// For recalled messages; 0 if the strategy recalls none.
    pub(super) recalled: u32,
    /// Upper bound of the messages in the window, which gets the tokens that the other parts leave.
    pub(super) max_messages: u32,
}

impl BudgetShares {
    /// Everything for the window.
    pub(super) const fn recent_only(total: u32) -> Self {
        Self { total, summary: 0, recalled: 0, max_messages: u32::MAX }
    }

    /// For the window.
    pub(super) const fn recent_tokens(&self) -> u32 {
        self.total.saturating_sub(self.summary).saturating_sub(self.recalled)
    }

    /// Scales the shares down to `available` tokens; shares that fit stay unchanged.
    #[must_use]
    pub(super) fn scaled_to(self, available: u32) -> Self {
        if available >= self.total {
            return self;
        }
        let scale = |tokens: u32| {
            let scaled = u64::from(tokens) * u64::from(available) / u64::from(self.total);
            u32::try_from(scaled).unwrap_or(u32::MAX)
        };
        Self {
            total: available,
            summary: scale(self.summary),
            recalled: scale(self.recalled),
            max_messages: self.max_messages,
        }
    }
}

/// Divides the token budget of memory.
///
/// Invariant: for all options, `total` is at most `window_tokens`, and summary and recalled
/// messages together are at most `total`. The result must not depend on the new message: the window
/// is cut at the same messages from turn to turn only while its share stays the same.
pub(super) trait BudgetStrategy {
    /// Returns the budget of each part.
    fn divide_budget(&self, available: AvailableTokens, options: MemoryOptions) -> BudgetShares;
}

pub(super) fn find_strategy(strategy: MemoryStrategy) -> &'static dyn BudgetStrategy {
    match strategy {
        MemoryStrategy::Auto => &auto::AutoStrategy,
        MemoryStrategy::Buffer => &buffer::BufferStrategy,
        MemoryStrategy::Window => &window::WindowStrategy,
        MemoryStrategy::Token => &token::TokenStrategy,
        MemoryStrategy::Summary => &summary::SummaryStrategy,
        MemoryStrategy::Recall => &recall::RecallStrategy,
    }
}

/// Budget of the strategies that have one: the requested or default tokens, within the window.
fn total_budget(available: AvailableTokens, options: MemoryOptions) -> u32 {
    options.max_tokens.unwrap_or(available.default_tokens).min(available.window_tokens)
}
