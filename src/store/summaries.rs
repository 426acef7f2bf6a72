//! Store operations on summaries, each of which replaces the beginning of a path.

use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use async_trait::async_trait;

/// Summary of consecutive messages of a path.
///
/// A message names its parent and never changes, so the last message identifies the path: a summary
/// is valid on every branch that contains this message, and on no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSummary {
    pub first_message: MessageId,
    pub last_message: MessageId,
    /// Tokens of the path before `first_message`.
    pub tokens_before: u64,
    /// Tokens of the path up to and including `last_message`.
    pub path_tokens: u64,
    pub text: String,
    pub model: String,
}

/// Summaries: written in the background, read when a prompt is built. They can be generated again,
/// so they are neither migrated nor exported.
#[async_trait]
pub trait SummaryStore: Send + Sync {
    /// Finds the summary that covers most of the path ending with `up_to`, this message included,
    /// and nothing beyond it. `None` also if the session or the message does not exist.
    async fn find_summary(
        &self,
        session: &SessionId,
        up_to: &MessageId,
    ) -> Result<Option<PathSummary>>;

    /// Saves a summary and replaces one with the same last message. Does nothing if the session or
    /// the message is gone.
    async fn save_summary(&self, session: &SessionId, summary: &PathSummary) -> Result<()>;
}
