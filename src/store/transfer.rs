//! What is asked of a store about whole sessions.

use super::{NewMessage, NewSession, Parent};
use crate::domain::session::SessionStatus;
use crate::domain::{MessageId, Principal, SessionId, Timestamp};
use crate::error::Result;
use async_trait::async_trait;

/// A session to import.
#[derive(Debug, Clone)]
pub struct ImportSession {
    /// Its id.
    pub id: SessionId,
    /// The id it gets if another user has a session of that id.
    pub other_id: SessionId,
    /// Its fields.
    pub new: NewSession,
    /// Its status.
    pub status: SessionStatus,
    /// Put away.
    pub archived: bool,
    /// Kept at the head of lists.
    pub pinned: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its owner was last seen, if the file says so.
    pub last_seen: Option<Timestamp>,
    /// The head, if the file names one; else the last message.
    pub head_id: Option<MessageId>,
    /// Its messages, parents before children. `Parent::Head` is the message before it in this
    /// list, for the first one the head that the session has.
    pub messages: Vec<(NewMessage, Parent)>,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The session's id here.
    pub session_id: SessionId,
    /// Its title.
    pub title: String,
    /// Messages that were not there before.
    pub messages: u64,
}

/// Whole sessions, in and out.
#[async_trait]
pub trait TransferStore: Send + Sync {
    /// Adds the session, or to the caller's session of that id the messages it does not have yet:
    /// all of them or none. Errors: `session_busy`,
    /// `session_closed`, `invalid_request`.
    async fn import_session(
        &self,
        who: &Principal,
        import: ImportSession,
        now: Timestamp,
    ) -> Result<Imported>;
}
