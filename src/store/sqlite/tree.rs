//! The message tree in SQLite, node by node.

use super::SqliteStore;
use super::transaction::{SqliteTransaction, run_ready};
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use crate::store::{NodePage, ReadMarkUpdate, TreeStore, rules};
use async_trait::async_trait;

/// How often a head is looked for again because messages were added meanwhile.
const MAX_HEAD_ATTEMPTS: usize = 3;

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
        // The leaf is found by a reader: the writer would read all nodes while others wait for it.
        for _ in 0..MAX_HEAD_ATTEMPTS {
            let (reader, id, below) = (principal.clone(), session.clone(), message.clone());
            let found = self
                .run_read(move |db| {
                    let mut tx = SqliteTransaction::new(db);
                    run_ready(rules::find_leaf(&mut tx, &reader, &id, &below))
                })
                .await?;
            let (writer, id) = (principal.clone(), session.clone());
            let moved = self
                .transact(async move |tx| rules::move_head(tx, &writer, &id, found, now).await)
                .await?;
            if let Some(session) = moved {
                return Ok(session);
            }
        }
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
        let source = {
            let (principal, session, message) =
                (principal.clone(), session.clone(), message.clone());
            self.run_read(move |db| {
                let mut tx = SqliteTransaction::new(db);
                run_ready(rules::find_fork_source(&mut tx, &principal, &session, &message))
            })
            .await?
        };
        if !source.is_short() {
            return self.fork_in_steps(&principal, source, now).await;
        }
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
