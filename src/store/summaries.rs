//! What is asked of a store about summaries: texts that stand for the beginning of a path.

use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use async_trait::async_trait;

/// A text that stands for messages of a path, up to one of them.
///
/// A message names the one before it and never changes, so the last message alone says which path it
/// is: a summary is right on each branch that has that message, and on no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSummary {
    /// The first message it stands for.
    pub first_message: MessageId,
    /// The last one.
    pub last_message: MessageId,
    /// Tokens of the path before the first one …
    pub tokens_before: u64,
    /// … and up to the last one.
    pub path_tokens: u64,
    /// What it says.
    pub text: String,
    /// The model that wrote it.
    pub model: String,
}

/// Summaries: written beside the turns, read by them. They can be made anew, so they do not move from
/// store to store and are not exported.
#[async_trait]
pub trait SummaryStore: Send + Sync {
    /// The summary that stands for most of the path that ends with `up_to`, this message included,
    /// and for nothing beyond it. `None` if there is none; a session or message that does not exist
    /// has none.
    async fn find_summary(
        &self,
        session: &SessionId,
        up_to: &MessageId,
    ) -> Result<Option<PathSummary>>;

    /// Keeps a summary; one that ends with the same message makes way. Nothing happens if the
    /// session or the message is gone.
    async fn save_summary(&self, session: &SessionId, summary: &PathSummary) -> Result<()>;
}
