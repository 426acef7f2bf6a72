//! Adding one message to a session: its place, its node, the session's head and counters.
//!
//! Every message that this store holds came through [`append`], so the invariants of nodes, head
//! and counters are kept here and nowhere else.

use super::paths::locate;
use super::rows::{Location, MAX_SEQ, SessionRow, message_key, to_json};
use super::sessions;
use crate::domain::message::preview;
use crate::domain::node::{self, NodeFill, Placement};
use crate::domain::title::{Title, TitleSource};
use crate::domain::{MessageId, Role, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::store::{NewMessage, Parent};
use rusqlite::{Connection, params};

/// A message's parent as found.
#[derive(Debug, Clone)]
pub(super) struct Under {
    pub(super) id: MessageId,
    pub(super) at: Location,
}

/// Finds the message under which a new one stands; `None` makes it a root. Errors:
/// `message_not_found`.
pub(super) fn resolve(db: &Connection, row: &SessionRow, parent: &Parent) -> Result<Option<Under>> {
    match parent {
        Parent::Root => Ok(None),
        Parent::Head => Ok(head(row)),
        Parent::Message(id) => {
            let at = locate(db, row.key, id)?.ok_or_else(Error::message_not_found)?;
            let sql = "SELECT id FROM messages WHERE key = ?1";
            let id: String = db
                .prepare_cached(sql)?
                .query_row([message_key(row.key, at.seq)], |found| found.get(0))?;
            Ok(Some(Under { id: MessageId::trusted(id), at }))
        }
    }
}

/// The session's head as a parent.
pub(super) fn head(row: &SessionRow) -> Option<Under> {
    let id = row.session.head_id.clone()?;
    Some(Under { id, at: row.head? })
}

/// Stores a message behind its parent and makes it the head. `row` is brought up to date, so that
/// further messages can follow; [`save_counters`] writes it back.
///
/// Invariant: `messages` is the number of messages and the highest seq; `head` names the newest
/// message of the active path; each message is in exactly one node.
pub(super) fn append(
    db: &Connection,
    row: &mut SessionRow,
    message: &NewMessage,
    parent: Option<&Under>,
) -> Result<Location> {
    let seq = row.session.messages_count + 1;
    if seq > MAX_SEQ {
        return Err(Error::invalid(
            "sessionId",
            "must name a session with fewer than 16,777,215 messages",
        ));
    }
    let size = node::size_of_message(&message.body.content, message.body.parts.as_json());
    let at = Location { node: settle(db, row, message, parent, seq, size)?, seq };
    insert(db, row.key, at, message, parent)?;

    let session = &mut row.session;
    session.messages_count = seq;
    session.head_id = Some(message.id.clone());
    row.head = Some(at);
    session.last_message = Some(preview(&message.body.content).to_owned());
    // A message that was written earlier, and stored now, takes no time back.
    session.last_message_at = session.last_message_at.max(Some(message.created_at));
    if message.role == Role::User && message.sender_id == session.owner {
        session.last_seen = session.last_seen.max(Some(message.created_at));
    }
    Ok(at)
}

/// Finds the message's node by the rule in `domain::node`, and counts the message into it.
fn settle(
    db: &Connection,
    row: &mut SessionRow,
    message: &NewMessage,
    parent: Option<&Under>,
    seq: u32,
    size: u64,
) -> Result<u32> {
    let fill = parent.map(|parent| fill_of(db, row.key, parent.at)).transpose()?;
    let size_stored = i64::try_from(size).unwrap_or(i64::MAX);
    if let (Placement::Join, Some(parent)) = (node::place(fill, size), parent) {
        let sql = "UPDATE nodes SET last_seq = ?3, messages = messages + 1, bytes = bytes + ?4 \
                   WHERE session = ?1 AND number = ?2";
        db.prepare_cached(sql)?.execute((row.key, parent.at.node, seq, size_stored))?;
        return Ok(parent.at.node);
    }
    row.node_count += 1;
    let (prev_node, prev_seq) = parent.map_or((0, 0), |parent| (parent.at.node, parent.at.seq));
    db.prepare_cached("INSERT INTO nodes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?5, 1, ?7, ?8)")?
        .execute(params![
            row.key,
            row.node_count,
            prev_node,
            prev_seq,
            seq,
            message.id.as_str(),
            size_stored,
            message.created_at.as_millis(),
        ])?;
    Ok(row.node_count)
}

fn fill_of(db: &Connection, session: i64, parent: Location) -> Result<NodeFill> {
    let sql = "SELECT messages, bytes, last_seq FROM nodes WHERE session = ?1 AND number = ?2";
    Ok(db.prepare_cached(sql)?.query_row((session, parent.node), |row| {
        let bytes: i64 = row.get(1)?;
        let ends_with_parent = row.get::<_, u32>(2)? == parent.seq;
        Ok(NodeFill { messages: row.get(0)?, bytes: bytes.unsigned_abs(), ends_with_parent })
    })?)
}

fn insert(
    db: &Connection,
    session: i64,
    at: Location,
    message: &NewMessage,
    parent: Option<&Under>,
) -> Result<()> {
    let (body, reply) = (&message.body, &message.reply);
    let inserted = db
        .prepare_cached(
            "INSERT INTO messages VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        )?
        .execute(params![
            message_key(session, at.seq),
            session,
            at.node,
            message.id.as_str(),
            parent.map(|parent| parent.id.as_str()),
            message.role.as_str(),
            message.sender_id.as_str(),
            body.kind.as_str(),
            body.content,
            (!body.parts.is_empty()).then(|| body.parts.as_json()),
            reply.status.as_str(),
            reply.model,
            reply.finish_reason.map(|reason| reason.as_str()),
            message.client_message_id.as_ref().map(|id| id.as_str()),
            reply.error.as_ref().map(to_json).transpose()?,
            reply.usage.as_ref().map(to_json).transpose()?,
            message.tokens,
            message.created_at.as_millis(),
        ]);
    match inserted {
        Err(error)
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
        {
            Err(Error::new(
                Kind::IdTaken,
                format!("the session has a message with the id {} already", message.id),
            ))
        }
        other => other.map(|_| ()).map_err(Error::from),
    }
}

/// Names the session after its first user message, unless something has named it already.
pub(super) fn name_after(
    db: &Connection,
    row: &mut SessionRow,
    message: &NewMessage,
) -> Result<()> {
    if message.role != Role::User || row.session.title_source != TitleSource::Default {
        return Ok(());
    }
    let Some(title) = Title::from_first_message(&message.body.content) else {
        return Ok(());
    };
    sessions::name(db, row.key, &title)?;
    row.session.version += 1;
    row.session.title = title.text;
    row.session.title_source = title.source;
    Ok(())
}

/// Writes back what [`append`] moved.
pub(super) fn save_counters(db: &Connection, row: &mut SessionRow, now: Timestamp) -> Result<()> {
    let session = &mut row.session;
    session.updated_at = now;
    let activity = session.last_message_at.unwrap_or(session.created_at);
    db.prepare_cached(
        "UPDATE sessions SET messages = ?2, nodes = ?3, head_id = ?4, head_seq = ?5, head_node = ?6, \
         last_message = ?7, last_message_at = ?8, activity_at = ?9, last_seen = ?10, updated_at = ?11 WHERE key = ?1",
    )?
    .execute(params![
        row.key,
        session.messages_count,
        row.node_count,
        session.head_id.as_ref().map(|id| id.as_str()),
        row.head.map(|head| head.seq),
        row.head.map(|head| head.node),
        session.last_message,
        session.last_message_at.map(Timestamp::as_millis),
        activity.as_millis(),
        session.last_seen.map(Timestamp::as_millis),
        now.as_millis(),
    ])?;
    Ok(())
}
