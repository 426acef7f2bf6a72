//! The message tree in SQLite, node by node.

use super::SqliteStore;
use super::paths::walk_node;
use super::rows::{SELECT_MESSAGE, decode_new_message, seq_from_key};
use super::transaction::{SqliteTransaction, run_ready};
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use crate::store::transaction::{MessageLocation, NodeHeader, SessionRow};
use crate::store::{NewMessage, NodePage, ReadMarkUpdate, TreeStore, rules};
use async_trait::async_trait;
use rusqlite::Connection;
use std::ops::ControlFlow;

#[async_trait]
impl TreeStore for SqliteStore {
    async fn set_head(
        &self,
        principal: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        let principal = principal.clone();
        let session = session.clone();
        let message = message.clone();
        self.transact(async move |tx| {
            rules::set_head(tx, &principal, &session, &message, now).await
        })
        .await
    }

    async fn pop_head(
        &self,
        principal: &Principal,
        session: &SessionId,
        head: &MessageId,
        now: Timestamp,
    ) -> Result<Option<Session>> {
        let principal = principal.clone();
        let session = session.clone();
        let head = head.clone();
        self.transact(async move |tx| rules::pop_head(tx, &principal, &session, &head, now).await)
            .await
    }

    async fn fork_session(
        &self,
        principal: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        let principal = principal.clone();
        let session = session.clone();
        let message = message.clone();
        self.transact(async move |tx| {
            rules::fork_session(tx, &principal, &session, &message, now).await
        })
        .await
    }

    async fn mark_seen(
        &self,
        principal: &Principal,
        session: &SessionId,
        up_to: &MessageId,
    ) -> Result<ReadMarkUpdate> {
        let principal = principal.clone();
        let session = session.clone();
        let up_to = up_to.clone();
        self.transact(async move |tx| rules::mark_seen(tx, &principal, &session, &up_to).await)
            .await
    }

    async fn list_nodes(
        &self,
        principal: &Principal,
        session: &SessionId,
        first: u32,
        limit: u32,
    ) -> Result<NodePage> {
        let principal = principal.clone();
        let session = session.clone();
        self.run_read(move |db| {
            run_ready(rules::list_nodes(
                &mut SqliteTransaction::new(db),
                &principal,
                &session,
                first,
                limit,
            ))
        })
        .await
    }
}

pub(super) fn list_nodes(db: &Connection, session: i64) -> Result<Vec<NodeHeader>> {
    let sql = "SELECT number, prev_node, prev_seq, last_seq FROM nodes WHERE session = ?1 \
               ORDER BY number";
    let mut statement = db.prepare_cached(sql)?;
    let headers = statement.query_map([session], |row| {
        let prev = MessageLocation { node: row.get(1)?, seq: row.get(2)? };
        Ok(NodeHeader {
            number: row.get(0)?,
            // Zeros are stored for a node that starts with a root.
            prev: Some(prev).filter(|prev| prev.seq > 0),
            last_seq: row.get(3)?,
        })
    })?;
    Ok(headers.collect::<Result<_, _>>()?)
}

/// Messages of one node up to and including `up_to`, oldest first.
pub(super) fn node_messages(
    db: &Connection,
    key: i64,
    row: &SessionRow,
    up_to: MessageLocation,
) -> Result<Vec<(MessageLocation, NewMessage)>> {
    let mut found = Vec::new();
    walk_node(db, key, up_to, SELECT_MESSAGE, |message| {
        let at = MessageLocation { seq: seq_from_key(message.get(0)?), ..up_to };
        found.push((at, decode_new_message(message, row)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
