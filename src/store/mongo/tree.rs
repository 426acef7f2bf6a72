//! The message tree of a session in MongoDB: branches, forks, read marks and nodes.

use super::MongoStore;
use super::documents::{MessageDoc, MessageLocationDoc, to_u32};
use super::transaction::{MongoTransaction, TransactionMode, transact};
use crate::domain::node::format_chat_id;
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::{Error, Result};
use crate::store::transaction::{MessageLocation, NodeHeader, SessionRow};
use crate::store::{NewMessage, NodePage, ReadMarkUpdate, TreeStore, rules};
use async_trait::async_trait;
use mongodb::bson::doc;
use serde::Deserialize;

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

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeHeaderDoc {
    number: i64,
    prev: MessageLocationDoc,
    last_seq: i64,
}

#[derive(Debug, Deserialize)]
struct NodeMessagesDoc {
    messages: Vec<MessageDoc>,
}

impl MongoTransaction {
    /// All nodes of a session without their messages, by number.
    pub(super) async fn load_node_headers(
        &mut self,
        session: &SessionId,
    ) -> Result<Vec<NodeHeader>> {
        let pipeline = vec![
            doc! { "$match": { "sessionId": session.as_str() } },
            doc! { "$project": { "number": 1, "prev": 1, "lastSeq": 1 } },
            doc! { "$sort": { "number": 1 } },
        ];
        let nodes = self.collections.nodes.clone();
        let found: Vec<NodeHeaderDoc> = self.run_pipeline(&nodes, pipeline).await?;
        let line = |line: NodeHeaderDoc| NodeHeader {
            number: to_u32(line.number),
            prev: line.prev.location(),
            last_seq: to_u32(line.last_seq),
        };
        Ok(found.into_iter().map(line).collect())
    }

    /// The messages of one node up to and including a location, oldest first.
    pub(super) async fn load_node_messages(
        &mut self,
        row: &SessionRow,
        up_to: MessageLocation,
    ) -> Result<Vec<(MessageLocation, NewMessage)>> {
        let nodes = self.collections.nodes.clone();
        let filter = doc! { "_id": format_chat_id(&row.session.id, up_to.node) };
        let found: Option<NodeMessagesDoc> =
            self.find_one(&nodes, filter, Some(doc! { "messages": 1 })).await?;
        // Missing only if the session was deleted since its document was read.
        let node = found.ok_or_else(Error::session_not_found)?;
        let messages = node.messages.into_iter();
        messages
            .map(|message| (MessageLocation { seq: to_u32(message.seq), ..up_to }, message))
            .take_while(|(at, _)| at.seq <= up_to.seq)
            .map(|(at, message)| Ok((at, message.into_new_message(row)?)))
            .collect()
    }
}
