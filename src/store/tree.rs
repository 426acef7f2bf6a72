//! Store operations on the message tree of a session.

use crate::domain::node::ChatNode;
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use async_trait::async_trait;

/// Result of [`TreeStore::mark_seen`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMarkUpdate {
    /// The id of the message, even if it was named by its client message id.
    pub message_id: MessageId,
    /// `false` if the mark was already at this message or after it.
    pub has_moved: bool,
}

/// A page of nodes, in the order of their numbers.
#[derive(Debug, Default)]
pub struct NodePage {
    pub nodes: Vec<ChatNode>,
    /// First node of the next page; `None` on the last one.
    pub next_node: Option<u32>,
}

/// The message tree: moving the head, forking a path, reading nodes, and read marks.
#[async_trait]
pub trait TreeStore: Send + Sync {
    /// Makes the newest leaf below a message the head, or the message itself if it has no
    /// children. The session's version does not change. Errors: `session_not_found`,
    /// `message_not_found`, `session_busy`.
    async fn set_head(
        &self,
        principal: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session>;

    /// Moves the head back to its parent if `head` is the head and has a parent; otherwise returns
    /// `None`. The former head stays in the tree as a branch. Errors: `session_not_found`,
    /// `message_not_found`, `session_busy`.
    async fn pop_head(
        &self,
        principal: &Principal,
        session: &SessionId,
        head: &MessageId,
        now: Timestamp,
    ) -> Result<Option<Session>>;

    /// Copies the path that ends with a message into a new session owned by the caller: completely
    /// or not at all. Errors: `session_not_found`, `message_not_found`.
    async fn fork_session(
        &self,
        principal: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session>;

    /// Moves the caller's read mark forward to a message. All messages with a seq up to it, on
    /// every branch, count as read. Version and times do not change. Errors: `session_not_found`,
    /// `message_not_found`.
    async fn mark_seen(
        &self,
        principal: &Principal,
        session: &SessionId,
        up_to: &MessageId,
    ) -> Result<ReadMarkUpdate>;

    /// Reads up to `limit` nodes starting with the number `first`; fewer if they are large. Errors:
    /// `session_not_found`.
    async fn list_nodes(
        &self,
        principal: &Principal,
        session: &SessionId,
        first: u32,
        limit: u32,
    ) -> Result<NodePage>;
}
