//! Store operations of the full-text search.
//!
//! Indexing runs in the background: messages are stored without index terms, and each session
//! records durably up to which message it is indexed. Titles are indexed at once.
//!
//! Each session also records the version of its words. A new version of the tokenizer rebuilds the
//! index session by session; until a session's last message is reached, it is outdated and found by
//! its old words. Its new messages do not wait for that.

use crate::domain::search::{SearchMatch, SearchQuery};
use crate::domain::{MessageId, Principal, Role, Session, SessionId, Timestamp};
use crate::error::Result;
use async_trait::async_trait;

/// A session with messages that are not indexed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexBacklog {
    pub session_id: SessionId,
    /// Seq of the last message with words, of whatever version.
    pub indexed_seq: u32,
}

/// Index terms of one message.
#[derive(Debug, Clone)]
pub struct MessageWords {
    pub seq: u32,
    pub id: MessageId,
    pub role: Role,
    pub created_at: Timestamp,
    /// Words as folded by [`crate::domain::search`].
    pub words: Vec<String>,
}

/// Index terms of consecutive messages of a session.
#[derive(Debug, Clone)]
pub struct SessionWords {
    /// The session, read together with the messages.
    pub session: Session,
    /// Seq that precedes the messages.
    pub after_seq: u32,
    /// Their seqs follow `after_seq` without gaps.
    pub messages: Vec<MessageWords>,
}

impl SessionWords {
    /// Seq of the last message.
    pub fn last_seq(&self) -> u32 {
        self.messages.last().map_or(self.after_seq, |message| message.seq)
    }
}

/// Indexing and searching messages and titles.
#[async_trait]
pub trait SearchStore: Send + Sync {
    /// Lists some of the sessions that have messages to index.
    async fn list_index_backlog(&self) -> Result<Vec<IndexBacklog>>;

    /// Lists some of the sessions whose words, or those of the title, an older version made. The
    /// list is also empty while another instance is working on them.
    async fn list_outdated_index(&self) -> Result<Vec<SessionId>>;

    /// Adds index terms. Leaves out sessions that are gone or that another instance has indexed
    /// meanwhile.
    async fn index_words(&self, words: Vec<SessionWords>) -> Result<()>;

    /// Replaces the index terms of some messages of an outdated session. With the last ones, those
    /// of the title are replaced too and the session is no longer outdated. Returns whether it was
    /// until now; nothing is written if not, or if another instance is working on it.
    async fn rebuild_words(&self, words: SessionWords, is_last: bool) -> Result<bool>;

    /// Performs one small step of merging the index, after which deleted words no longer occupy
    /// space. Returns whether more steps are needed. The first step starts a merge of all that is
    /// present at that time.
    async fn merge_index(&self, is_first: bool) -> Result<bool>;

    /// Finds the newest messages that contain all terms, in sessions that `principal` may see, up
    /// to one more than the limit.
    async fn search_messages(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<Vec<SearchMatch>>;

    /// Finds the newest sessions whose titles contain all terms and that `principal` may see, up to
    /// one more than the limit.
    async fn search_titles(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<Vec<SearchMatch>>;
}
