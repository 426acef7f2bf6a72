//! Pages of messages: where a page ends.

use crate::error::Error;
use crate::store::MessageQuery;

/// A page ends early once it holds this many bytes, because attachments are large.
const MAX_PAGE_BYTES: usize = 8 << 20;

/// Collects the messages of a page, until one more than fits is offered: that one shows that there
/// are more.
#[derive(Debug)]
pub(in crate::store) struct MessagePageBuilder<T> {
    limit: usize,
    bytes: usize,
    messages: Vec<T>,
    has_more: bool,
}

impl<T> MessagePageBuilder<T> {
    pub(in crate::store) fn new(query: &MessageQuery) -> Self {
        let limit = query.limit as usize;
        Self { limit, bytes: 0, messages: Vec::new(), has_more: false }
    }

    /// Adds a message of a number of bytes. Returns `false` if the page was full without it.
    pub(in crate::store) fn push(&mut self, message: T, bytes: usize) -> bool {
        // Checked before a message is added, so a page has at least one, however large.
        if self.messages.len() == self.limit || self.bytes > MAX_PAGE_BYTES {
            self.has_more = true;
            return false;
        }
        self.bytes += bytes;
        self.messages.push(message);
        true
    }

    /// Reverses the messages, which were read newest first.
    pub(in crate::store) fn reversed(mut self) -> Self {
        self.messages.reverse();
        self
    }

    /// Returns the messages, and whether there are more of them.
    pub(in crate::store) fn finish(self) -> (Vec<T>, bool) {
        (self.messages, self.has_more)
    }
}

/// The page of a path cannot start at a message of another branch.
pub(in crate::store) fn anchor_off_path() -> Error {
    Error::invalid_field("after", "must be a message of the active path, or be used with view=all")
}
