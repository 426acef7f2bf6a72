//! The strategies: each divides what memory may take of the prompt, and reads nothing. One file
//! each, behind one trait; [`of`] is the list.

mod auto;
mod buffer;
mod recall;
mod summary;
mod token;
mod window;

use crate::domain::memory::{MemoryOptions, MemoryStrategy};

/// What is divided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// What the model's context window leaves for memory, whatever the new message is.
    pub(super) left: u32,
    /// What memory takes unless somebody says otherwise.
    pub(super) usual: u32,
}

/// What each part of memory may take, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// All parts together.
    pub(super) all: u32,
    /// The summary of what is no longer verbatim; 0 where there is none.
    pub(super) summary: u32,
    /// Earlier messages that belong to the new one; 0 where none are recalled.
    pub(super) recalled: u32,
    /// Most messages verbatim; the rest of the tokens is theirs.
    pub(super) messages: u32,
}

impl Shares {
    /// All of it for recent messages.
    pub(super) const fn verbatim(all: u32) -> Self {
        Self { all, summary: 0, recalled: 0, messages: u32::MAX }
    }

    /// What recent messages may take.
    pub(super) const fn recent(&self) -> u32 {
        self.all.saturating_sub(self.summary).saturating_sub(self.recalled)
    }

    /// The same division of less room.
    #[must_use]
    pub(super) fn within(self, room: u32) -> Self {
        if room >= self.all {
            return self;
        }
        let part = |tokens: u32| {
            let part = u64::from(tokens) * u64::from(room) / u64::from(self.all);
            u32::try_from(part).unwrap_or(u32::MAX)
        };
        Self {
            all: room,
            summary: part(self.summary),
            recalled: part(self.recalled),
            messages: self.messages,
        }
    }
}

/// A way to choose what of a session goes into the prompt.
///
/// Invariant: whatever the options are, `all` is at most what is left, and the parts are within it.
/// It must not depend on the new message: the recent messages are cut at the same places from turn
/// to turn only while their share stays the same.
pub(super) trait Divide {
    /// What each part may take.
    fn divide(&self, room: Room, options: MemoryOptions) -> Shares;
}

/// The strategy of this name.
pub(super) fn of(strategy: MemoryStrategy) -> &'static dyn Divide {
    match strategy {
        MemoryStrategy::Auto => &auto::Auto,
        MemoryStrategy::Buffer => &buffer::Buffer,
        MemoryStrategy::Window => &window::Window,
        MemoryStrategy::Token => &token::Token,
        MemoryStrategy::Summary => &summary::Summary,
        MemoryStrategy::Recall => &recall::Recall,
    }
}

/// What a strategy with a budget may take in all.
fn budget(room: Room, options: MemoryOptions) -> u32 {
    options.max_tokens.unwrap_or(room.usual).min(room.left)
}
