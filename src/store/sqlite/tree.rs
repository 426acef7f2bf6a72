//! The tree of a session's messages in SQLite, node by node.

use super::SqliteStore;
use super::paths::walk_node;
use super::rows::{SELECT_MESSAGE, stored_message};
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use crate::store::work::{Location, NodeLine, SessionRow};
use crate::store::{NewMessage, TreeStore, rules};
use async_trait::async_trait;
use rusqlite::Connection;
use std::ops::ControlFlow;

#[async_trait]
impl TreeStore for SqliteStore {
    async fn move_head(
        &self,
        who: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        let (who, session, message) = (who.clone(), session.clone(), message.clone());
        self.step(async move |step| rules::move_head(step, &who, &session, &message, now).await)
            .await
    }

    async fn fork(
        &self,
        who: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        let (who, session, message) = (who.clone(), session.clone(), message.clone());
        self.step(async move |step| rules::fork(step, &who, &session, &message, now).await).await
    }
}

/// The session's nodes without their messages, by number.
pub(super) fn nodes(db: &Connection, session: i64) -> Result<Vec<NodeLine>> {
    let sql = "SELECT number, prev_node, prev_seq, last_seq FROM nodes WHERE session = ?1 \
               ORDER BY number";
    let mut statement = db.prepare_cached(sql)?;
    let lines = statement.query_map([session], |row| {
        let prev = Location { node: row.get(1)?, seq: row.get(2)? };
        Ok(NodeLine {
            number: row.get(0)?,
            prev: Some(prev).filter(|prev| prev.seq > 0),
            last_seq: row.get(3)?,
        })
    })?;
    Ok(lines.collect::<Result<_, _>>()?)
}

/// The messages of one node up to a place in it, oldest first.
pub(super) fn run(db: &Connection, row: &SessionRow, up_to: Location) -> Result<Vec<NewMessage>> {
    let mut found = Vec::new();
    walk_node(db, row.key, up_to, SELECT_MESSAGE, |message| {
        found.push(stored_message(message, row)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
