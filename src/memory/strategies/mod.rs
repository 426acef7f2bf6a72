//! The strategies: each divides what memory may take of the prompt, and reads nothing. One file
//! each, behind one trait; [`find_strategy`] is the list.

mod auto;
mod buffer;
mod recall;
mod summary;
mod token;
mod window;

use crate::domain::memory::{MemoryOptions, MemoryStrategy};

/// What is divided.
#[derive(Debug, Clone, Copy)]
pub(super) struct AvailableTokens {
    /// What the model's context window leaves for memory, whatever the new message is.
    pub(super) window_tokens: u32,
    /// What memory takes unless somebody says otherwise.
    pub(super) default_tokens: u32,
}

/// What each part of memory may take, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BudgetShares {
    /// All parts together.
    pub(super) total: u32,
    /// The summary of what is no longer verbatim; 0 where there is none.
    pub(super) summary: u32,
    /// Earlier messages that belong to the new one; 0 where none are recalled.
    pub(super) recalled: u32,
    /// Most messages verbatim; the rest of the tokens is theirs.
    pub(super) max_messages: u32,
}

impl BudgetShares {
    /// All of it for recent messages.
    pub(super) const fn recent_only(all: u32) -> Self {
        Self { total: all, summary: 0, recalled: 0, max_messages: u32::MAX }
    }

    /// What recent messages may take.
    pub(super) const fn recent_tokens(&self) -> u32 {
        self.total.saturating_sub(self.summary).saturating_sub(self.recalled)
    }

    /// The same division of less room.
    #[must_use]
    pub(super) fn scaled_to(self, room: u32) -> Self {
        if room >= self.total {
            return self;
        }
        let part = |tokens: u32| {
            let part = u64::from(tokens) * u64::from(room) / u64::from(self.total);
            u32::try_from(part).unwrap_or(u32::MAX)
        };
        Self {
            total: room,
            summary: part(self.summary),
            recalled: part(self.recalled),
            max_messages: self.max_messages,
        }
    }
}

/// A way to choose what of a session goes into the prompt.
///
/// Invariant: whatever the options are, `all` is at most what is left, and the parts are within it.
/// It must not depend on the new message: the recent messages are cut at the same places from turn
/// to turn only while their share stays the same.
pub(super) trait BudgetStrategy {
    /// What each part may take.
    fn divide_budget(&self, room: AvailableTokens, options: MemoryOptions) -> BudgetShares;
}

/// The strategy of this name.
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

/// What a strategy with a budget may take in all.
fn total_budget(room: AvailableTokens, options: MemoryOptions) -> u32 {
    options.max_tokens.unwrap_or(room.default_tokens).min(room.window_tokens)
}
