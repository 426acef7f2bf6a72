//! What is asked of a store about the tree that a session's messages form.

use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use async_trait::async_trait;

/// The tree of a session's messages: its head moved, one of its paths copied.
#[async_trait]
pub trait TreeStore: Send + Sync {
    /// Makes the newest leaf below a message the session's head, the message itself if nothing
    /// stands below it. The session's version stays, as with every message. Errors:
    /// `session_not_found`, `message_not_found`, `session_busy`.
    async fn move_head(
        &self,
        who: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session>;

    /// Copies the path that ends with a message into a new session of the caller's: all of it or
    /// nothing. Errors: `session_not_found`, `message_not_found`.
    async fn fork(
        &self,
        who: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session>;
}
