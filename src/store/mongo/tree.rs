//! The message tree of a session in MongoDB: branches, forks, read marks and nodes.

use super::MongoStore;
use super::transaction::{TransactionMode, transact};
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use crate::store::{NodePage, ReadMarkUpdate, TreeStore, rules};
use async_trait::async_trait;

#[async_trait]
impl TreeStore for MongoStore {
    async fn set_head(
        &self,
        principal: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        transact!(self, |tx| rules::set_head(tx, principal, session, message, now).await)
    }

    async fn pop_head(
        &self,
        principal: &Principal,
        session: &SessionId,
        head: &MessageId,
        now: Timestamp,
    ) -> Result<Option<Session>> {
        transact!(self, |tx| rules::pop_head(tx, principal, session, head, now).await)
    }

    async fn fork_session(
        &self,
        principal: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        let source = transact!(self, TransactionMode::READ, |tx| {
            rules::find_fork_source(tx, principal, session, message).await
        })?;
        if !source.is_short() {
            return self.fork_in_steps(principal, source, now).await;
        }
        transact!(self, TransactionMode::MULTI_DOCUMENT, |tx| {
            rules::fork_session(tx, principal, session, message, now).await
        })
    }

    async fn mark_seen(
        &self,
        principal: &Principal,
        session: &SessionId,
        up_to: &MessageId,
    ) -> Result<ReadMarkUpdate> {
        transact!(self, |tx| rules::mark_seen(tx, principal, session, up_to).await)
    }

    async fn list_nodes(
        &self,
        principal: &Principal,
        session: &SessionId,
        first: u32,
        limit: u32,
    ) -> Result<NodePage> {
        transact!(self, TransactionMode::READ, |tx| rules::list_nodes(
            tx, principal, session, first, limit
        )
        .await)
    }
}
