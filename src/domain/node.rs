//! Nodes: a session's messages are kept in bounded runs, each one contiguous piece of one path.
//!
//! The rule is the same for every store: a message joins its parent's node if the parent is that
//! node's last message and the node is not closed; else it opens the next node. So the tail of a
//! path is read node to node, whatever was edited or switched, and appending touches one small
//! run.

use super::{MessageId, MessageType, SessionId, UserId};
use serde::Serialize;
use utoipa::ToSchema;

/// A node is closed once it holds this many messages …
pub const MAX_NODE_MESSAGES: u32 = 10_000;
/// … or once the next message would bring it over this many bytes.
pub const MAX_NODE_BYTES: u64 = 128 * 1024;
/// What a message takes beside its text and parts: ids, role, times, counts.
const MESSAGE_OVERHEAD_BYTES: u64 = 256;

/// Invariant: every stored message is in exactly one node, and a node is a contiguous run of one
/// path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFill {
    /// Messages in the node.
    pub messages: u32,
    /// Their size, as [`message_size`] counts it.
    pub bytes: u64,
    /// Whether the new message's parent is the node's last message.
    pub ends_with_parent: bool,
}

/// Where a new message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePlacement {
    /// Behind its parent, in the parent's node.
    AppendToParent,
    /// Into the session's next node.
    OpenNode,
}

/// Bytes a message counts for in its node.
pub fn message_size(content: &str, parts: &str) -> u64 {
    (content.len() + parts.len()) as u64 + MESSAGE_OVERHEAD_BYTES
}

/// Where a message of `size` bytes goes, given its parent's node; `None` is a root, without parent.
///
/// A message larger than [`MAX_NODE_BYTES`] finds no node with room, opens one, and closes it.
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

/// The public name of a session's `number`th node, counted from 1.
pub fn format_chat_id(session: &SessionId, number: u32) -> String {
    format!("chat_{session}_{number}")
}

/// Which of a session's nodes a public name means; `None` if it is no name of such a node.
pub fn parse_chat_id(session: &SessionId, chat_id: &str) -> Option<u32> {
    let number = chat_id.rsplit_once('_')?.1.parse().ok()?;
    (self::format_chat_id(session, number) == chat_id).then_some(number)
}

/// A node as people-to-people chats read it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatNode {
    /// Its name: `chat_<sessionId>_<number>`.
    pub chat_id: String,
    /// When its first message was written, in seconds since 1970.
    pub created_at: i64,
    /// Its messages, oldest first.
    pub messages: Vec<NodeMessage>,
}

/// A message of a node.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeMessage {
    /// The message's id.
    #[serde(rename = "_id")]
    #[schema(value_type = String)]
    pub id: MessageId,
    /// The user who sent it, or `assistant`.
    #[schema(value_type = String)]
    pub sender_id: UserId,
    /// Its text.
    pub text: String,
    /// When it was written, in seconds since 1970.
    pub timestamp: i64,
    /// What it mainly is.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// Whether someone other than its sender has read up to it.
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
