//! Appending one message to a session: its position, its node, and the head and
//! counters of the session.
//!
//! Every stored message passes through [`append_message`], so the invariants of nodes, head and
//! counters are maintained here and nowhere else.

use crate::domain::message::{MESSAGE_TOKEN_OVERHEAD, truncate_preview};
use crate::domain::node::{self, NodePlacement};
use crate::domain::title::{SessionTitle, TitleSource};
use crate::domain::{Role, Timestamp};
use crate::error::{Error, Result};
use crate::store::transaction::{
    LocatedMessage, MAX_SEQ, MessageInsert, MessageLocation, SessionRow, StoreTransaction,
};
use crate::store::{MessageParent, NewMessage};

/// Resolves the parent of a new message; `None` makes it a root. Errors: `message_not_found`.
pub(super) async fn resolve_parent(
    tx: &mut impl StoreTransaction,
    row: &SessionRow,
    parent: &MessageParent,
) -> Result<Option<LocatedMessage>> {
    match parent {
        MessageParent::Root => Ok(None),
        MessageParent::Head => Ok(row.located_head()),
        MessageParent::Message(id) => {
            Ok(Some(tx.find_message(row, id).await?.ok_or_else(Error::message_not_found)?))
        }
    }
}

/// Stores a message below its parent and makes it the head. Updates `row` in memory, so that
/// further messages can follow; [`save_session`] writes it back.
///
/// Invariant: `messages_count` is the number of messages and the highest seq; the head is the last
/// message of the active path; each message is in exactly one node.
pub(super) async fn append_message(
    tx: &mut impl StoreTransaction,
    row: &mut SessionRow,
    message: &NewMessage,
    parent: Option<&LocatedMessage>,
) -> Result<MessageLocation> {
    let seq = row.session.messages_count + 1;
    if seq > MAX_SEQ {
        return Err(Error::invalid_field(
            "sessionId",
            "must name a session with fewer than 16,777,215 messages",
        ));
    }
    let size = node::message_size(&message.body.content, message.body.parts.as_json());
    // A message joins the node of its parent only if that message is the node's last one. So each
    // node stays a contiguous run of one path, whichever branches are added.
    let (node, opens_node) = match parent {
        Some(parent) => {
            let fill = tx.node_fill(row, parent.location).await?;
            match node::choose_placement(Some(fill), size) {
                NodePlacement::AppendToParent => (parent.location.node, false),
                NodePlacement::OpenNode => (row.node_count + 1, true),
            }
        }
        None => (row.node_count + 1, true),
    };
    let at = MessageLocation { node, seq };
    // The sum is stored with each message: all instances cut a path at the same places, and none
    // has to read the path for that.
    let before = match parent {
        Some(parent) => tx.path_tokens(row, parent.location).await?,
        None => 0,
    };
    let path_tokens = before + u64::from(message.tokens) + u64::from(MESSAGE_TOKEN_OVERHEAD);
    tx.insert_message(
        row,
        MessageInsert { message, location: at, parent, opens_node, size, path_tokens },
    )
    .await?;

    row.node_count = row.node_count.max(node);
    let session = &mut row.session;
    session.messages_count = seq;
    session.head_id = Some(message.id.clone());
    row.head = Some(at);
    session.last_message = Some(truncate_preview(&message.body.content).to_owned());
    // A message that was written earlier and is stored now must not move the time back.
    session.last_message_at = session.last_message_at.max(Some(message.created_at));
    // An owner who writes has also seen the session.
    if message.role == Role::User && message.sender_id == session.owner {
        session.last_seen = session.last_seen.max(Some(message.created_at));
    }
    Ok(at)
}

/// Names the session after a user message, unless it has a title already.
pub(super) async fn apply_auto_title(
    tx: &mut impl StoreTransaction,
    row: &mut SessionRow,
    message: &NewMessage,
) -> Result<()> {
    if message.role != Role::User || row.session.title_source != TitleSource::Default {
        return Ok(());
    }
    let Some(title) = SessionTitle::from_first_message(&message.body.content) else {
        return Ok(());
    };
    tx.set_title(row, &title).await?;
    // Keeps `row` equal to the stored session, because callers return it.
    row.session.version += 1;
    row.session.title = title.text;
    row.session.title_source = title.source;
    Ok(())
}

/// Writes back what [`append_message`] changed.
pub(super) async fn save_session(
    tx: &mut impl StoreTransaction,
    row: &mut SessionRow,
    now: Timestamp,
) -> Result<()> {
    row.session.updated_at = now;
    tx.save_counters(row).await
}
