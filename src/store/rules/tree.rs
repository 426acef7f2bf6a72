//! The message tree of a session: moving the head, forking a path, reading nodes, and read marks.

use super::append::{append_message, save_session};
use super::posts::ensure_idle;
use super::sessions::get_session;
use crate::domain::node::{ChatNode, NodeMessage, format_chat_id};
use crate::domain::principal::AccessLevel;
use crate::domain::title::SessionTitle;
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::{Error, Result};
use crate::store::transaction::{
    LocatedMessage, MessageLocation, NodeHeader, SessionRow, StoreTransaction,
};
use crate::store::{NewMessage, NewSession, NodePage, ReadMarkUpdate};
use std::collections::HashSet;

/// A page of nodes ends once their texts have this many bytes.
const MAX_PAGE_BYTES: usize = 8 << 20;
/// A path is copied in one transaction if the session has at most this many messages up to its end,
/// and the path at most [`MAX_SHORT_FORK_NODES`] nodes.
const MAX_SHORT_FORK_MESSAGES: u32 = 200;
const MAX_SHORT_FORK_NODES: usize = 2;

/// Makes the newest leaf below a message the head.
pub(in crate::store) async fn set_head(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    message: &MessageId,
    now: Timestamp,
) -> Result<Session> {
    let found = find_leaf(tx, principal, id, message).await?;
    // Nothing can change within the transaction.
    move_head(tx, principal, id, found, now).await?.ok_or_else(Error::message_not_found)
}

/// The newest leaf below a message, in a state of its session.
#[derive(Clone, Copy)]
pub(in crate::store) struct FoundLeaf {
    leaf: MessageLocation,
    messages_count: u32,
    created_at: Timestamp,
}

/// Finds the leaf that [`set_head`] makes the head. Reads the headers of all nodes.
pub(in crate::store) async fn find_leaf(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    message: &MessageId,
) -> Result<FoundLeaf> {
    let row = get_session(tx, principal, id, AccessLevel::Participant).await?;
    let located = tx.find_message(&row, message).await?.ok_or_else(Error::message_not_found)?;
    ensure_idle(&row)?;
    let leaf = find_newest_leaf(&tx.list_nodes(&row).await?, located.location);
    let Session { messages_count, created_at, .. } = row.session;
    Ok(FoundLeaf { leaf, messages_count, created_at })
}

/// Makes a leaf the head; `None` if messages were added since it was found.
pub(in crate::store) async fn move_head(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    found: FoundLeaf,
    now: Timestamp,
) -> Result<Option<Session>> {
    let mut row = get_session(tx, principal, id, AccessLevel::Participant).await?;
    let state = (row.session.messages_count, row.session.created_at);
    if state != (found.messages_count, found.created_at) {
        return Ok(None);
    }
    ensure_idle(&row)?;
    let leaf = found.leaf;
    // Selecting the active branch changes nothing, not even the time of the last update.
    if row.head != Some(leaf) {
        row.session.head_id = Some(tx.read_user_message(&row, leaf).await?.id);
        row.head = Some(leaf);
        save_session(tx, &mut row, now).await?;
    }
    Ok(Some(row.into_session_with_nodes()))
}

/// Moves the head back to its parent if `head` is the head and not a root.
pub(in crate::store) async fn pop_head(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    head: &MessageId,
    now: Timestamp,
) -> Result<Option<Session>> {
    let mut row = get_session(tx, principal, id, AccessLevel::Participant).await?;
    let located = tx.find_message(&row, head).await?.ok_or_else(Error::message_not_found)?;
    ensure_idle(&row)?;
    let parent = match tx.read_user_message(&row, located.location).await?.parent_id {
        Some(parent) if row.head == Some(located.location) => {
            tx.find_message(&row, &parent).await?
        }
        _ => None,
    };
    let Some(parent) = parent else { return Ok(None) };
    row.session.head_id = Some(parent.id);
    row.head = Some(parent.location);
    save_session(tx, &mut row, now).await?;
    Ok(Some(row.into_session_with_nodes()))
}

/// Finds the newest message among `root` and its descendants. It is a leaf, because its
/// children would be newer.
fn find_newest_leaf(nodes: &[NodeHeader], root: MessageLocation) -> MessageLocation {
    let mut newest = root;
    let mut subtree = HashSet::from([root.node]);
    // The parent of a node is in a node with a smaller number, so a single pass decides for each
    // node whether it belongs to the subtree.
    for node in nodes {
        // Of the branches that leave the root's own node, only those at or after the
        // root belong to it.
        let is_below = node.number == root.node
            || node.prev.is_some_and(|prev| {
                subtree.contains(&prev.node) && (prev.node != root.node || prev.seq >= root.seq)
            });
        if is_below {
            subtree.insert(node.number);
        }
        if is_below && node.last_seq > newest.seq {
            newest = MessageLocation { node: node.number, seq: node.last_seq };
        }
    }
    newest
}

/// A path that is to be copied, and the fields of the copy.
pub(in crate::store) struct ForkSource {
    pub(in crate::store) row: SessionRow,
    pub(in crate::store) fields: NewSession,
    /// The last message of each node's part of the path, oldest first.
    pub(in crate::store) path: Vec<MessageLocation>,
}

impl ForkSource {
    /// Whether the path is so short that one transaction copies it.
    pub(in crate::store) fn is_short(&self) -> bool {
        let last_seq = self.path.last().map_or(0, |last| last.seq);
        self.path.len() <= MAX_SHORT_FORK_NODES && last_seq <= MAX_SHORT_FORK_MESSAGES
    }
}

pub(in crate::store) async fn find_fork_source(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    message: &MessageId,
) -> Result<ForkSource> {
    let row = get_session(tx, principal, id, AccessLevel::Participant).await?;
    let last = tx.find_message(&row, message).await?.ok_or_else(Error::message_not_found)?;
    let path = build_node_path(&tx.list_nodes(&row).await?, last.location);
    Ok(ForkSource { fields: copy_session_fields(&row.session, principal), row, path })
}

/// Requires that a session is still there and still the same one. Errors: `session_not_found`.
pub(in crate::store) async fn find_same_session(
    tx: &mut impl StoreTransaction,
    row: &SessionRow,
) -> Result<()> {
    match tx.find_session(&row.session.id).await? {
        Some(found) if found.session.created_at == row.session.created_at => Ok(()),
        _ => Err(Error::session_not_found()),
    }
}

/// Copies the path that ends with a message into a new session owned by the caller, in one
/// transaction.
pub(in crate::store) async fn fork_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    message: &MessageId,
    now: Timestamp,
) -> Result<Session> {
    let ForkSource { row: source, fields, path } =
        find_fork_source(tx, principal, id, message).await?;
    let mut row = tx.insert_session(&principal.user, &SessionId::generate(), &fields, now).await?;
    let mut parent: Option<LocatedMessage> = None;
    for up_to in path {
        for (_, message) in tx.node_messages(&source, up_to).await? {
            // Copies go through the normal append, so the fork gets nodes, seqs and token
            // sums of its own.
            let at = append_message(tx, &mut row, &message, parent.as_ref()).await?;
            parent = Some(LocatedMessage { id: message.id, location: at });
        }
    }
    save_session(tx, &mut row, now).await?;
    Ok(row.into_session_with_nodes())
}

/// Splits the path that ends at `last` by nodes: the last message of each part, oldest first.
fn build_node_path(nodes: &[NodeHeader], last: MessageLocation) -> Vec<MessageLocation> {
    // Node numbers start at 1 and have no gaps, so a number leads to its header.
    let previous =
        |at: &MessageLocation| nodes.get(at.node as usize - 1).and_then(|node| node.prev);
    let mut path: Vec<_> = std::iter::successors(Some(last), previous).collect();
    path.reverse();
    path
}

/// The fields that a fork takes over, all that shape the conversation. Participants and status are
/// not copied, and the project only if it is the caller's.
fn copy_session_fields(source: &Session, principal: &Principal) -> NewSession {
    NewSession {
        id: None,
        title: SessionTitle { text: source.title.clone(), source: source.title_source },
        project_id: source.project_id.clone().filter(|_| source.owner == principal.user),
        participants: Vec::new(),
        invited: Vec::new(),
        meta: source.meta.clone(),
        user_meta: source.user_meta.clone(),
        theme: source.theme.clone(),
        settings: source.settings.clone(),
    }
}

/// Moves a user's read mark forward.
pub(in crate::store) async fn mark_seen(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    up_to: &MessageId,
) -> Result<ReadMarkUpdate> {
    let mut row = get_session(tx, principal, id, AccessLevel::Participant).await?;
    let located = tx.find_message(&row, up_to).await?.ok_or_else(Error::message_not_found)?;
    let mark = row.read_marks.entry(principal.user.to_string()).or_default();
    // Requests can arrive out of order: a mark never moves back.
    let has_moved = located.location.seq > *mark;
    if has_moved {
        *mark = located.location.seq;
        tx.save_read_marks(&row).await?;
    }
    Ok(ReadMarkUpdate { message_id: located.id, has_moved })
}

/// Reads nodes starting with the number `first`.
pub(in crate::store) async fn list_nodes(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    first: u32,
    limit: u32,
) -> Result<NodePage> {
    let row = get_session(tx, principal, id, AccessLevel::Participant).await?;
    let headers = tx.list_nodes(&row).await?;
    let mut page = NodePage::default();
    let mut bytes = 0;
    for header in headers.iter().filter(|header| header.number >= first) {
        // Checked before a node is added, so a page has at least one, however large.
        if page.nodes.len() == limit as usize || bytes >= MAX_PAGE_BYTES {
            page.next_node = Some(header.number);
            break;
        }
        let last = MessageLocation { node: header.number, seq: header.last_seq };
        let node = build_node(&row, header.number, tx.node_messages(&row, last).await?);
        bytes += node.messages.iter().map(|message| message.text.len()).sum::<usize>();
        page.nodes.push(node);
    }
    Ok(page)
}

fn build_node(
    row: &SessionRow,
    number: u32,
    messages: Vec<(MessageLocation, NewMessage)>,
) -> ChatNode {
    let message = |(at, message): (MessageLocation, NewMessage)| NodeMessage {
        seen: row.is_seen(at.seq, &message.sender_id),
        id: message.id,
        sender_id: message.sender_id,
        text: message.body.content,
        timestamp: message.created_at.as_seconds(),
        kind: message.body.kind,
    };
    let messages: Vec<_> = messages.into_iter().map(message).collect();
    ChatNode {
        chat_id: format_chat_id(&row.session.id, number),
        created_at: messages.first().map_or(0, |first| first.timestamp),
        messages,
    }
}
