//! What is asked of a store about searching in what was said.
//!
//! The words of messages are kept beside the turns' path: a message is stored without them, and the
//! session says durably how far its words are kept. Titles are found at once.

use crate::domain::search::{SearchMatch, SearchQuery};
use crate::domain::{MessageId, Principal, Role, Session, SessionId, Timestamp};
use crate::error::Result;
use async_trait::async_trait;

/// A session with messages whose words are not kept yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexBacklog {
    /// The session.
    pub session_id: SessionId,
    /// The seq of the last message whose words are.
    pub indexed_seq: u32,
}

/// The words of one message.
#[derive(Debug, Clone)]
pub struct MessageWords {
    /// Its seq.
    pub seq: u32,
    /// Its id.
    pub id: MessageId,
    /// Who speaks.
    pub role: Role,
    /// When it was written.
    pub created_at: Timestamp,
    /// The words, as `domain::search` folds them.
    pub words: Vec<String>,
}

/// The words of some messages of a session.
#[derive(Debug, Clone)]
pub struct SessionWords {
    /// The session as it was read.
    pub session: Session,
    /// The seq behind which these messages follow …
    pub after_seq: u32,
    /// … without a gap.
    pub messages: Vec<MessageWords>,
}

/// Words, kept and found.
#[async_trait]
pub trait SearchStore: Send + Sync {
    /// Sessions with words to keep, not too many.
    async fn list_index_backlog(&self) -> Result<Vec<IndexBacklog>>;

    /// Keeps words of messages of some sessions. Changes nothing of a session that is gone, or
    /// where somebody was faster.
    async fn index_words(&self, words: Vec<SessionWords>) -> Result<()>;

    /// Takes a small step towards an index in which nothing is left of deleted words. Whether there
    /// are more to take. The first step begins with all that is there now.
    async fn merge_index(&self, is_first: bool) -> Result<bool>;

    /// The newest messages in sessions of `who` that hold all terms, one more than the limit.
    async fn search_messages(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<Vec<SearchMatch>>;

    /// The newest sessions of `who` whose titles do, one more than the limit.
    async fn search_titles(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<Vec<SearchMatch>>;
}
