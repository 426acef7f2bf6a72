//! Nodes: a session's messages are stored in bounded runs, each a contiguous piece of one path.
//!
//! The rule is the same in every store: a message is appended to its parent's node if the parent is
//! the last message of that node and the node is not full; otherwise it opens the session's next
//! node. Reading the tail of a path therefore means reading whole nodes, whatever was edited or
//! switched, and appending touches one small run.

use super::{MessageId, MessageType, SessionId, UserId};
use serde::Serialize;
use utoipa::ToSchema;

/// Number of messages in a full node.
pub const MAX_NODE_MESSAGES: u32 = 10_000;
/// A node is also full if the next message would take it over this many bytes.
pub const MAX_NODE_BYTES: u64 = 128 * 1024;
/// Bytes counted for a message in addition to its text and parts: ids, role, timestamps, counters.
const MESSAGE_OVERHEAD_BYTES: u64 = 256;

/// The state of a parent's node. Invariant: every stored message is in exactly one node, and a node
/// is a contiguous run of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFill {
    pub messages: u32,
    /// Total size as counted by [`message_size`].
    pub bytes: u64,
    /// Whether the parent is the last message of the node; only then can a message be appended.
    pub ends_with_parent: bool,
}

/// The node that a new message goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePlacement {
    /// The parent's node.
    AppendToParent,
    /// The session's next node.
    OpenNode,
}

/// The size that a message counts for in its node, in bytes.
pub fn message_size(content: &str, parts: &str) -> u64 {
    (content.len() + parts.len()) as u64 + MESSAGE_OVERHEAD_BYTES
}

/// Places a message of `size` bytes, given its parent's node; `None` for a root.
///
/// A message larger than [`MAX_NODE_BYTES`] opens a node and fills it alone.
pub fn choose_placement(parent: Option<NodeFill>, size: u64) -> NodePlacement {
    let has_room = |node: NodeFill| {
        node.ends_with_parent
            && node.messages < MAX_NODE_MESSAGES
            && node.bytes.saturating_add(size) <= MAX_NODE_BYTES
    };
    if parent.is_some_and(has_room) {
        NodePlacement::AppendToParent
    } else {
        NodePlacement::OpenNode
    }
}

/// The public id of a session's `number`th node, starting at 1.
pub fn format_chat_id(session: &SessionId, number: u32) -> String {
    format!("chat_{session}_{number}")
}

/// The node number in a public id; `None` if it is not the canonical id of a node of this session.
pub fn parse_chat_id(session: &SessionId, chat_id: &str) -> Option<u32> {
    let number = chat_id.rsplit_once('_')?.1.parse().ok()?;
    // Formatting the number again rejects other spellings of it (`+3`, `03`) and ids of other
    // sessions, even if one session id is a prefix of another.
    (self::format_chat_id(session, number) == chat_id).then_some(number)
}

/// A node in the format of people-to-people chat clients.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatNode {
    /// Node id: `chat_<sessionId>_<number>`.
    pub chat_id: String,
    /// Time of the first message, in seconds since 1970.
    pub created_at: i64,
    /// Messages, oldest first.
    pub messages: Vec<NodeMessage>,
}

/// A message of a node.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeMessage {
    /// Message id.
    #[serde(rename = "_id")]
    #[schema(value_type = String)]
    pub id: MessageId,
    /// User who sent the message, or `assistant`.
    #[schema(value_type = String)]
    pub sender_id: UserId,
    /// Message text.
    pub text: String,
    /// Time the message was written, in seconds since 1970.
    pub timestamp: i64,
    /// Primary content type.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// Whether a participant other than the sender has read it.
    pub seen: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILL: NodeFill = NodeFill { messages: 3, bytes: 1000, ends_with_parent: true };

    #[test]
    fn message_joins_parent_only_at_end_of_open_node() {
        assert_eq!(choose_placement(Some(FILL), 400), NodePlacement::AppendToParent);
        assert_eq!(choose_placement(None, 400), NodePlacement::OpenNode);
        assert_eq!(
            choose_placement(Some(NodeFill { ends_with_parent: false, ..FILL }), 400),
            NodePlacement::OpenNode
        );
        assert_eq!(
            choose_placement(Some(NodeFill { messages: MAX_NODE_MESSAGES, ..FILL }), 400),
            NodePlacement::OpenNode
        );
        assert_eq!(
            choose_placement(Some(NodeFill { messages: MAX_NODE_MESSAGES - 1, ..FILL }), 400),
            NodePlacement::AppendToParent
        );
    }

    #[test]
    fn chat_id_parses_only_in_canonical_form() {
        let session = SessionId::new_unchecked("user1_user2");
        assert_eq!(format_chat_id(&session, 3), "chat_user1_user2_3");
        assert_eq!(parse_chat_id(&session, "chat_user1_user2_3"), Some(3));
        for other in [
            "chat_user1_user2_03",
            "chat_user1_user2_+3",
            "chat_user1_3",
            "user1_user2_3",
            "chat_user1_user2_",
            "chat_user1_user2_99999999999",
            "3",
            "",
        ] {
            assert_eq!(parse_chat_id(&session, other), None, "{other}");
        }
    }

    #[test]
    fn node_stays_within_byte_limit() {
        assert_eq!(
            choose_placement(Some(FILL), MAX_NODE_BYTES - 1000),
            NodePlacement::AppendToParent
        );
        assert_eq!(choose_placement(Some(FILL), MAX_NODE_BYTES - 999), NodePlacement::OpenNode);
        assert_eq!(
            choose_placement(Some(NodeFill { messages: 1, bytes: MAX_NODE_BYTES * 2, ..FILL }), 1),
            NodePlacement::OpenNode
        );
    }
}
