//! Nodes in MongoDB, and the messages that are inserted into them.
//!
//! New messages stay in memory until the commit, see `pending_writes.rs`. Reads of what a new
//! message depends on (the fill level of its node, the ids that are in use) include them.

use super::documents::{MessageDoc, MessageLocationDoc, to_u32};
use super::paths::NameLookup;
use super::pending_writes::{NodeFillDoc, PendingWrites};
use super::transaction::MongoTransaction;
use crate::domain::node::{NodeFill, format_chat_id};
use crate::domain::{MessageId, SessionId};
use crate::error::{Error, Result};
use crate::store::NewMessage;
use crate::store::transaction::{
    LocatedMessage, MessageInsert, MessageLocation, NodeHeader, NodeTransaction, SessionRow,
};
use mongodb::bson::doc;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageNamesDoc {
    number: i64,
    messages: Vec<MessageNameDoc>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageNameDoc {
    id: String,
    client_message_id: Option<String>,
    seq: i64,
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

impl NodeTransaction for MongoTransaction {
    async fn node_fill(&mut self, row: &SessionRow, at: MessageLocation) -> Result<NodeFill> {
        let session = &row.session.id;
        let known = self.pending_writes_for(session)?.node_fills.get(&at.node).copied();
        let fill = match known {
            Some(fill) => fill,
            None => {
                let nodes = self.collections.nodes.clone();
                let filter = doc! { "_id": format_chat_id(&self.content_key(session), at.node) };
                let projection = doc! { "count": 1, "bytes": 1, "lastSeq": 1, "pathTokens": 1 };
                let found: Option<NodeFillDoc> =
                    self.find_one(&nodes, filter, Some(projection)).await?;
                let fill = found.ok_or_else(Error::message_not_found)?;
                self.pending_writes.node_fills.insert(at.node, fill);
                fill
            }
        };
        Ok(NodeFill {
            messages: to_u32(fill.count),
            bytes: fill.bytes.unsigned_abs(),
            ends_with_parent: to_u32(fill.last_seq) == at.seq,
        })
    }

    async fn path_tokens(&mut self, row: &SessionRow, at: MessageLocation) -> Result<u64> {
        let session = &row.session.id;
        let known = self.pending_writes_for(session)?.node_fills.get(&at.node).copied();
        // For the last message of a node its fill has the number; that saves reading the message.
        let known = known.filter(|fill| to_u32(fill.last_seq) == at.seq);
        let stored = match known {
            Some(fill) => fill.path_tokens,
            None => self.load_message_doc(session, at).await?.path_tokens,
        };
        Ok(stored.unsigned_abs())
    }

    /// Adds a message to the pending writes. Nothing is sent before the commit.
    async fn insert_message(&mut self, row: &SessionRow, insert: MessageInsert<'_>) -> Result<()> {
        let session = &row.session.id;
        let created_revision = self.loaded.as_ref().map_or(0, |loaded| loaded.created_revision);
        let key = self.content_key(session);
        self.pending_writes_for(session)?.add_message(&key, created_revision, insert)
    }

    /// Two queries in place of one per message, each for an index of its own.
    async fn preload_messages(&mut self, row: &SessionRow, ids: Vec<MessageId>) -> Result<()> {
        let session = &row.session.id;
        let key = self.content_key(session);
        self.pending_writes_for(session)?;
        let list: Vec<&str> = ids.iter().map(MessageId::as_str).collect();
        let is_named = doc! { "$or": [
            { "$in": ["$$message.id", &list] },
            { "$in": ["$$message.clientMessageId", &list] },
        ] };
        let names_stage = doc! {
            "$project": { "number": 1, "messages": { "$map": {
                "input": {
                    "$filter": { "input": "$messages", "as": "message", "cond": is_named },
                },
                "as": "message",
                "in": {
                    "id": "$$message.id",
                    "clientMessageId": "$$message.clientMessageId",
                    "seq": "$$message.seq",
                },
            } } },
        };
        let nodes = self.collections.nodes.clone();
        let mut found: BTreeMap<i64, MessageNamesDoc> = BTreeMap::new();
        for field in ["messages.id", "messages.clientMessageId"] {
            let is_named = doc! { "sessionId": key.as_str(), field: { "$in": &list } };
            let pipeline = vec![doc! { "$match": is_named }, names_stage.clone()];
            let named: Vec<MessageNamesDoc> = self.run_pipeline(&nodes, pipeline).await?;
            found.extend(named.into_iter().map(|node| (node.number, node)));
        }
        let mut names: HashMap<String, Vec<LocatedMessage>> =
            ids.iter().map(|id| (id.to_string(), Vec::new())).collect();
        for node in found.into_values() {
            for name in node.messages {
                let at = MessageLocation { node: to_u32(node.number), seq: to_u32(name.seq) };
                let located =
                    LocatedMessage { id: MessageId::new_unchecked(name.id.as_str()), location: at };
                for name in [Some(name.id), name.client_message_id].into_iter().flatten() {
                    if let Some(known) = names.get_mut(&name) {
                        known.push(located.clone());
                    }
                }
            }
        }
        self.pending_writes.known_names = names;
        Ok(())
    }

    async fn list_nodes(&mut self, row: &SessionRow) -> Result<Vec<NodeHeader>> {
        self.load_node_headers(&row.session.id).await
    }

    async fn node_messages(
        &mut self,
        row: &SessionRow,
        up_to: MessageLocation,
    ) -> Result<Vec<(MessageLocation, NewMessage)>> {
        let nodes = self.collections.nodes.clone();
        let filter = doc! { "_id": format_chat_id(&self.content_key(&row.session.id), up_to.node) };
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

impl MongoTransaction {
    /// All nodes of a session without their messages, by number.
    pub(super) async fn load_node_headers(
        &mut self,
        session: &SessionId,
    ) -> Result<Vec<NodeHeader>> {
        let pipeline = vec![
            doc! { "$match": { "sessionId": self.content_key(session).as_str() } },
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

    /// Looks a message up in the preloaded names, in no order; `None` if it is not one of them.
    pub(super) fn find_known_messages(
        &self,
        session: &SessionId,
        id: &MessageId,
        names: NameLookup,
    ) -> Option<Vec<LocatedMessage>> {
        if self.pending_writes.content_key.as_ref() != Some(&self.content_key(session)) {
            return None;
        }
        let mut all_located = self.pending_writes.known_names.get(id.as_str())?.clone();
        all_located.retain(|located| names == NameLookup::IdOrClientId || located.id == *id);
        Some(all_located)
    }

    /// The pending writes of the loaded session.
    fn pending_writes_for(&mut self, session: &SessionId) -> Result<&mut PendingWrites> {
        // Writes are committed with the loaded session's document, so they must belong to it.
        if !self.is_loaded(session) {
            return Err(Error::internal("messages staged for a session that is not loaded"));
        }
        let key = self.content_key(session);
        self.pending_writes.content_key.get_or_insert(key);
        Ok(&mut self.pending_writes)
    }
}
