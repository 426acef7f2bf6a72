//! Paths through the messages of a session, read node by node.
//!
//! A node is a contiguous run of one path and names the message before it, so the way back from any
//! message is a chain of nodes, each read as a range of keys. The cost follows the result: one
//! small row per node, plus some messages of other branches that are in between.

use super::rows::{message_key, seq_from_key};
use crate::domain::{Message, MessageId, Role};
use crate::error::Result;
use crate::store::transaction::{
    LocatedMessage, MAX_SEARCHED_CHILDREN, MessageLocation, describe_siblings,
};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;

/// One node's part of a path: its messages with seqs from `first` to `last`.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathSegment {
    pub(super) node: u32,
    pub(super) first: u32,
    pub(super) last: u32,
    /// The node's messages are so far apart that an index finds them faster than a scan.
    is_sparse: bool,
}

/// The nodes of a path, newest first.
pub(super) struct PathSegments<'a> {
    db: &'a Connection,
    session: i64,
    next: Option<MessageLocation>,
}

/// The path that ends at `from`, this message included.
pub(super) fn path_segments(
    db: &Connection,
    session: i64,
    from: Option<MessageLocation>,
) -> PathSegments<'_> {
    PathSegments { db, session, next: from }
}

impl Iterator for PathSegments<'_> {
    type Item = Result<PathSegment>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.next.take()?;
        Some(self.read_segment(at))
    }
}

impl PathSegments<'_> {
    fn read_segment(&mut self, at: MessageLocation) -> Result<PathSegment> {
        let sql = "SELECT first_seq, last_seq, messages, prev_node, prev_seq FROM nodes \
                   WHERE session = ?1 AND number = ?2";
        let mut statement = self.db.prepare_cached(sql)?;
        let (segment, previous) = statement.query_row((self.session, at.node), |row| {
            let (first, last, messages): (u32, u32, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
            // Seqs count the messages of all branches. Skipping a few of them costs less than an
            // index lookup per message, skipping thousands does not.
            let is_sparse = last - first >= 4 * messages + 64;
            let previous = MessageLocation { node: row.get(3)?, seq: row.get(4)? };
            Ok((PathSegment { node: at.node, first, last: at.seq, is_sparse }, previous))
        })?;
        self.next = Some(previous).filter(|previous| previous.seq > 0);
        Ok(segment)
    }
}

/// Visits the messages of the path that ends at `from`, newest first, until `visit` breaks.
/// `select` reads from `messages` and has the key as its first column.
pub(super) fn walk_backward(
    db: &Connection,
    session: i64,
    from: Option<MessageLocation>,
    select: &str,
    mut visit: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    for segment in path_segments(db, session, from) {
        if segment?.visit_messages(db, session, select, "DESC", &mut visit)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Visits the messages of the path that ends at `head`, oldest first, starting after `anchor`,
/// until `visit` breaks. Returns `false` if the anchor is not on that path.
pub(super) fn walk_forward(
    db: &Connection,
    session: i64,
    head: Option<MessageLocation>,
    anchor: MessageLocation,
    select: &str,
    mut visit: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>>,
) -> Result<bool> {
    // Nodes are linked backward only, so the chain is collected from the head.
    let mut chain = Vec::new();
    let mut is_on_path = false;
    for segment in path_segments(db, session, head) {
        let segment = segment?;
        chain.push(segment);
        if segment.node == anchor.node {
            is_on_path = segment.last >= anchor.seq;
            break;
        }
    }
    if !is_on_path {
        return Ok(false);
    }
    for mut segment in chain.into_iter().rev() {
        if segment.node == anchor.node {
            segment.first = anchor.seq + 1;
        }
        if segment.visit_messages(db, session, select, "ASC", &mut visit)?.is_break() {
            break;
        }
    }
    Ok(true)
}

/// Visits the messages of one node up to and including `up_to`, oldest first.
pub(super) fn walk_node(
    db: &Connection,
    session: i64,
    up_to: MessageLocation,
    select: &str,
    mut visit: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    if let Some(segment) = path_segments(db, session, Some(up_to)).next() {
        let _ = segment?.visit_messages(db, session, select, "ASC", &mut visit)?;
    }
    Ok(())
}

impl PathSegment {
    fn visit_messages(
        &self,
        db: &Connection,
        session: i64,
        select: &str,
        order: &str,
        visit: &mut impl FnMut(&Row<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        // SQLite has no statistics on single nodes, so the choice is made here.
        let index = if self.is_sparse { "INDEXED BY messages_of_node" } else { "NOT INDEXED" };
        let sql = format!(
            "{select} {index} WHERE session = ?1 AND node = ?2 AND key BETWEEN ?3 AND ?4 ORDER BY key {order}"
        );
        let mut statement = db.prepare_cached(&sql)?;
        let range =
            (session, self.node, message_key(session, self.first), message_key(session, self.last));
        let mut rows = statement.query(range)?;
        while let Some(row) = rows.next()? {
            if visit(row)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

pub(super) fn find_message_by_id(
    db: &Connection,
    session: i64,
    id: &MessageId,
) -> Result<Option<LocatedMessage>> {
    let sql = "SELECT key, node, id FROM messages WHERE session = ?1 AND id = ?2";
    Ok(db
        .prepare_cached(sql)?
        .query_row((session, id.as_str()), decode_located_message)
        .optional()?)
}

fn decode_located_message(row: &Row<'_>) -> rusqlite::Result<LocatedMessage> {
    let at = MessageLocation { node: row.get(1)?, seq: seq_from_key(row.get(0)?) };
    Ok(LocatedMessage { id: MessageId::new_unchecked(row.get::<_, String>(2)?), location: at })
}

/// Finds a message by its id or, failing that, the newest message with this client message id.
pub(super) fn find_message(
    db: &Connection,
    session: i64,
    id: &MessageId,
) -> Result<Option<LocatedMessage>> {
    let found = find_message_by_id(db, session, id)?;
    if found.is_some() {
        return Ok(found);
    }
    let sql = "SELECT key, node, id FROM messages WHERE session = ?1 AND client_message_id = ?2 \
               ORDER BY key DESC LIMIT 1";
    Ok(db
        .prepare_cached(sql)?
        .query_row((session, id.as_str()), decode_located_message)
        .optional()?)
}

/// Finds the newest message whose id or client message id is `id`.
pub(super) fn find_newest_message(
    db: &Connection,
    session: i64,
    id: &MessageId,
) -> Result<Option<LocatedMessage>> {
    let sql = "SELECT key, node, id FROM messages WHERE key = (SELECT max(key) FROM ( \
               SELECT key FROM messages WHERE session = ?1 AND id = ?2 \
               UNION ALL SELECT key FROM messages WHERE session = ?1 AND client_message_id = ?2))";
    Ok(db
        .prepare_cached(sql)?
        .query_row((session, id.as_str()), decode_located_message)
        .optional()?)
}

/// Fills in the siblings of each message. Those of one parent are read once.
pub(super) fn add_siblings(db: &Connection, session: i64, messages: &mut [Message]) -> Result<()> {
    let mut by_parent: HashMap<Option<MessageId>, Vec<LocatedMessage>> = HashMap::new();
    for message in messages {
        let siblings = match by_parent.entry(message.parent_id.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let siblings = list_siblings(db, session, message.parent_id.as_ref())?;
                unknown.insert(siblings)
            }
        };
        describe_siblings(message, siblings);
    }
    Ok(())
}

/// Lists the children of a message, named by its id, or the roots, oldest first.
pub(super) fn list_siblings(
    db: &Connection,
    session: i64,
    parent: Option<&MessageId>,
) -> Result<Vec<LocatedMessage>> {
    let parent = parent.map(|id| find_message_by_id(db, session, id)).transpose()?.flatten();
    list_children(db, session, parent.map(|parent| parent.location))
}

/// Lists the children of a message, or the roots, oldest first: the message after it in its own
/// node, and the first one of each node that starts after it.
pub(super) fn list_children(
    db: &Connection,
    session: i64,
    parent: Option<MessageLocation>,
) -> Result<Vec<LocatedMessage>> {
    let mut found = Vec::new();
    if let Some(parent) = parent {
        found.extend(find_next_in_node(db, session, parent)?);
    }
    let sql = "SELECT first_seq, number, first_id FROM nodes WHERE session = ?1 AND prev_seq = ?2";
    let mut statement = db.prepare_cached(sql)?;
    let after = parent.map_or(0, |parent| parent.seq);
    let first = |row: &Row<'_>| {
        let at = MessageLocation { seq: row.get(0)?, node: row.get(1)? };
        Ok(LocatedMessage { id: MessageId::new_unchecked(row.get::<_, String>(2)?), location: at })
    };
    for child in statement.query_map((session, after), first)? {
        found.push(child?);
    }
    found.sort_unstable_by_key(|child| child.location.seq);
    Ok(found)
}

/// Finds the oldest reply among the first children of a message. Only roles are read.
pub(super) fn find_first_reply(
    db: &Connection,
    session: i64,
    parent: MessageLocation,
) -> Result<Option<MessageLocation>> {
    let next = find_next_in_node(db, session, parent)?.map(|next| next.location);
    let sql = "SELECT child.seq, child.node FROM \
               (SELECT ?2 AS seq, ?3 AS node WHERE ?2 IS NOT NULL \
                UNION ALL SELECT * FROM (SELECT first_seq, number FROM nodes \
                WHERE session = ?1 AND prev_seq = ?4 ORDER BY number LIMIT ?5)) AS child \
               JOIN messages ON key = ?6 + child.seq WHERE role = ?7 \
               ORDER BY child.seq LIMIT 1";
    let values = params![
        session,
        next.map(|next| next.seq),
        next.map(|next| next.node),
        parent.seq,
        MAX_SEARCHED_CHILDREN,
        message_key(session, 0),
        Role::Assistant.as_str(),
    ];
    let location = |row: &Row<'_>| Ok(MessageLocation { seq: row.get(0)?, node: row.get(1)? });
    Ok(db.prepare_cached(sql)?.query_row(values, location).optional()?)
}

/// The message after this one in its own node.
fn find_next_in_node(
    db: &Connection,
    session: i64,
    at: MessageLocation,
) -> Result<Option<LocatedMessage>> {
    let sql = "SELECT key, node, id FROM messages INDEXED BY messages_of_node \
               WHERE session = ?1 AND node = ?2 AND key > ?3 ORDER BY key LIMIT 1";
    let after = (session, at.node, message_key(session, at.seq));
    Ok(db.prepare_cached(sql)?.query_row(after, decode_located_message).optional()?)
}
