//! What is asked of a store about the tree that a session's messages form.

use crate::domain::node::ChatNode;
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use async_trait::async_trait;

/// Where a user's read mark stands after a message was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMarkUpdate {
    /// The message that was named, by its own id.
    pub message_id: MessageId,
    /// Whether the mark moved; it stays where it is if it stood there, or further, already.
    pub has_moved: bool,
}

/// A page of nodes, by number.
#[derive(Debug, Default)]
pub struct NodePage {
    /// The nodes.
    pub nodes: Vec<ChatNode>,
    /// The number of the node that comes next, if there are more.
    pub next_node: Option<u32>,
}

/// The tree of a session's messages: its head moved, one of its paths copied, its nodes read, and
/// how far each user has read.
#[async_trait]
pub trait TreeStore: Send + Sync {
    /// Makes the newest leaf below a message the session's head, the message itself if nothing
    /// stands below it. The session's version stays, as with every message. Errors:
    /// `session_not_found`, `message_not_found`, `session_busy`.
    async fn set_head(
        &self,
        principal: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session>;

    /// Makes the message that the head stands under the head, if `head` still is it and stands under
    /// one; none if not. What was the head stays, beside the path. Errors: `session_not_found`,
    /// `message_not_found`, `session_busy`.
    async fn pop_head(
        &self,
        principal: &Principal,
        session: &SessionId,
        head: &MessageId,
        now: Timestamp,
    ) -> Result<Option<Session>>;

    /// Copies the path that ends with a message into a new session of the caller's: all of it or
    /// nothing. Errors: `session_not_found`, `message_not_found`.
    async fn fork_session(
        &self,
        principal: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session>;

    /// Moves the read mark of `who` forward to a message. All messages of the session with a seq up
    /// to it, of every branch, count as read by them. Neither version nor times move. Errors:
    /// `session_not_found`, `message_not_found`.
    async fn mark_seen(
        &self,
        principal: &Principal,
        session: &SessionId,
        up_to: &MessageId,
    ) -> Result<ReadMarkUpdate>;

    /// The session's nodes from the number `first` on, `limit` at the most; fewer where they are
    /// large. Errors: `session_not_found`.
    async fn list_nodes(
        &self,
        principal: &Principal,
        session: &SessionId,
        first: u32,
        limit: u32,
    ) -> Result<NodePage>;
}
