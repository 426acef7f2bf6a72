//! Paths through a session's messages, read node by node.
//!
//! A node is one contiguous run of one path and names the message before it, so the way back from
//! any message is a chain of nodes, each read as a range of keys. Nothing here reads more of a
//! session than it gives back, apart from one small row per node.

use super::rows::{Location, message_key, seq_of_key};
use crate::domain::{Message, MessageId};
use crate::error::Result;
use rusqlite::{Connection, OptionalExtension, Row};
use std::ops::ControlFlow;

/// One node's part of a path: the messages of `node` from `first` up to `last`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) node: u32,
    pub(super) first: u32,
    pub(super) last: u32,
}

/// The nodes of the path that ends at a location, newest first.
pub(super) struct Segments<'a> {
    db: &'a Connection,
    session: i64,
    next: Option<Location>,
}

/// The way back from `from`, itself included.
pub(super) fn segments(db: &Connection, session: i64, from: Option<Location>) -> Segments<'_> {
    Segments { db, session, next: from }
}

impl Iterator for Segments<'_> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.next.take()?;
        let read = || -> Result<(u32, Option<Location>)> {
            let sql = "SELECT first_seq, prev_node, prev_seq FROM nodes WHERE session = ?1 AND number = ?2";
            Ok(self.db.prepare_cached(sql)?.query_row((self.session, at.node), |row| {
                let previous = Location { node: row.get(1)?, seq: row.get(2)? };
                Ok((row.get(0)?, Some(previous).filter(|previous| previous.seq > 0)))
            })?)
        };
        let (first, previous) = match read() {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        self.next = previous;
        Some(Ok(Segment { node: at.node, first, last: at.seq }))
    }
}

/// Visits the messages of the path that ends at `from`, newest first, until `visit` breaks.
/// `select` is what to read of each, from `messages`, the key first.
pub(super) fn walk_back(
    db: &Connection,
    session: i64,
    from: Option<Location>,
    select: &str,
    mut visit: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let sql = format!("{select} WHERE key BETWEEN ?1 AND ?2 AND node = ?3 ORDER BY key DESC");
    let mut statement = db.prepare_cached(&sql)?;
    for segment in segments(db, session, from) {
        let segment = segment?;
        let range =
            (message_key(session, segment.first), message_key(session, segment.last), segment.node);
        let mut rows = statement.query(range)?;
        while let Some(row) = rows.next()? {
            if visit(row)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Visits the messages of the path that ends at `head`, oldest first, beginning behind `anchor`,
/// until `visit` breaks. `false` if the anchor is not on that path.
pub(super) fn walk_forward(
    db: &Connection,
    session: i64,
    head: Option<Location>,
    anchor: Location,
    select: &str,
    mut visit: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>>,
) -> Result<bool> {
    let mut chain = Vec::new();
    let mut is_on_path = false;
    for segment in segments(db, session, head) {
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
    let sql = format!("{select} WHERE key BETWEEN ?1 AND ?2 AND node = ?3 ORDER BY key");
    let mut statement = db.prepare_cached(&sql)?;
    for segment in chain.into_iter().rev() {
        let first = if segment.node == anchor.node { anchor.seq + 1 } else { segment.first };
        let range = (message_key(session, first), message_key(session, segment.last), segment.node);
        let mut rows = statement.query(range)?;
        while let Some(row) = rows.next()? {
            if visit(row)?.is_break() {
                return Ok(true);
            }
        }
    }
    Ok(true)
}

/// Where the message with this id lies; failing that, the newest one that a client named so.
pub(super) fn locate(db: &Connection, session: i64, id: &MessageId) -> Result<Option<Location>> {
    let location = |row: &Row<'_>| Ok(Location { node: row.get(1)?, seq: seq_of_key(row.get(0)?) });
    let by_id = "SELECT key, node FROM messages WHERE session = ?1 AND id = ?2";
    let found = db.prepare_cached(by_id)?.query_row((session, id.as_str()), location).optional()?;
    if found.is_some() {
        return Ok(found);
    }
    let by_client_id = "SELECT key, node FROM messages WHERE session = ?1 AND client_message_id = ?2 ORDER BY key DESC LIMIT 1";
    Ok(db.prepare_cached(by_client_id)?.query_row((session, id.as_str()), location).optional()?)
}

/// Fills in the siblings of each message: the messages with the same parent, oldest first.
pub(super) fn add_siblings(db: &Connection, session: i64, messages: &mut [Message]) -> Result<()> {
    for message in messages {
        let parent =
            message.parent_id.as_ref().map(|id| locate(db, session, id)).transpose()?.flatten();
        let children = children(db, session, parent)?;
        message.sibling_ids = children.into_iter().map(|(_, id)| MessageId::trusted(id)).collect();
    }
    Ok(())
}

/// Seq and id of the messages under a parent (or, without one, of the roots), oldest first: the one
/// behind it in its own node, and the first of each node that begins behind it.
pub(super) fn children(
    db: &Connection,
    session: i64,
    parent: Option<Location>,
) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    if let Some(parent) = parent {
        found.extend(next_in_node(db, session, parent)?);
    }
    let sql = "SELECT first_seq, first_id FROM nodes WHERE session = ?1 AND prev_seq = ?2";
    let mut statement = db.prepare_cached(sql)?;
    let behind = parent.map_or(0, |parent| parent.seq);
    for child in statement.query_map((session, behind), |row| Ok((row.get(0)?, row.get(1)?)))? {
        found.push(child?);
    }
    found.sort_unstable();
    Ok(found)
}

/// The message behind this one in its own node.
fn next_in_node(db: &Connection, session: i64, at: Location) -> Result<Option<(u32, String)>> {
    let sql = "SELECT last_seq FROM nodes WHERE session = ?1 AND number = ?2";
    let last: u32 = db.prepare_cached(sql)?.query_row((session, at.node), |row| row.get(0))?;
    let sql = "SELECT key, id FROM messages WHERE key BETWEEN ?1 AND ?2 AND node = ?3 ORDER BY key LIMIT 1";
    let range = (message_key(session, at.seq + 1), message_key(session, last), at.node);
    let next = |row: &Row<'_>| Ok((seq_of_key(row.get(0)?), row.get(1)?));
    Ok(db.prepare_cached(sql)?.query_row(range, next).optional()?)
}
