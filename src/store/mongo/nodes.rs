//! Stages new messages in the transaction.
//!
//! They stay in memory until the commit, see `pending_writes.rs`. Reads of what a new message
//! depends on (the fill level of its node, the ids that are in use) include the staged ones.

use super::documents::to_u32;
use super::paths::NameLookup;
use super::pending_writes::{NodeFillDoc, PendingWrites};
use super::transaction::MongoTransaction;
use crate::domain::node::{NodeFill, format_chat_id};
use crate::domain::{MessageId, SessionId};
use crate::error::{Error, Result};
use crate::store::transaction::{LocatedMessage, MessageInsert, MessageLocation};
use mongodb::bson::doc;
use serde::Deserialize;
use std::collections::HashMap;

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

impl MongoTransaction {
    pub(super) async fn load_node_fill(
        &mut self,
        session: &SessionId,
        at: MessageLocation,
    ) -> Result<NodeFill> {
        let known = self.pending_writes_for(session)?.node_fills.get(&at.node).copied();
        let fill = match known {
            Some(fill) => fill,
            None => {
                let nodes = self.collections.nodes.clone();
                let filter = doc! { "_id": format_chat_id(session, at.node) };
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

    /// Tokens of the path up to and including a message.
    pub(super) async fn load_path_tokens(
        &mut self,
        session: &SessionId,
        at: MessageLocation,
    ) -> Result<u64> {
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
    pub(super) async fn stage_message(
        &mut self,
        session: &SessionId,
        insert: MessageInsert<'_>,
    ) -> Result<()> {
        let created_revision = self.loaded.as_ref().map_or(0, |loaded| loaded.created_revision);
        let writes = self.pending_writes_for(session)?;
        writes.add_message(session, created_revision, insert)
    }

    /// Loads the ids and client ids of all messages of a session, for a transaction that looks up
    /// many of them. One query in place of one per message.
    pub(super) async fn load_message_names(&mut self, session: &SessionId) -> Result<()> {
        self.pending_writes_for(session)?;
        let pipeline = vec![
            doc! { "$match": { "sessionId": session.as_str() } },
            doc! { "$project": {
                "number": 1, "messages.id": 1, "messages.clientMessageId": 1, "messages.seq": 1,
            } },
        ];
        let nodes = self.collections.nodes.clone();
        let found: Vec<MessageNamesDoc> = self.run_pipeline(&nodes, pipeline).await?;
        let mut names: HashMap<String, Vec<LocatedMessage>> = HashMap::new();
        for node in found {
            for name in node.messages {
                let at = MessageLocation { node: to_u32(node.number), seq: to_u32(name.seq) };
                let located =
                    LocatedMessage { id: MessageId::new_unchecked(name.id.as_str()), location: at };
                for name in [Some(name.id), name.client_message_id].into_iter().flatten() {
                    names.entry(name).or_default().push(located.clone());
                }
            }
        }
        self.pending_writes.known_names = Some(names);
        Ok(())
    }

    /// Looks a message up in the preloaded names, in no order; `None` if they were not loaded.
    pub(super) fn find_known_messages(
        &self,
        session: &SessionId,
        id: &MessageId,
        names: NameLookup,
    ) -> Option<Vec<LocatedMessage>> {
        let known = self.pending_writes.known_names.as_ref()?;
        if self.pending_writes.session_id.as_ref() != Some(session) {
            return None;
        }
        let mut all_located = known.get(id.as_str()).cloned().unwrap_or_default();
        all_located.retain(|located| names == NameLookup::IdOrClientId || located.id == *id);
        Some(all_located)
    }

    /// The pending writes of the loaded session.
    fn pending_writes_for(&mut self, session: &SessionId) -> Result<&mut PendingWrites> {
        // Writes are committed with the loaded session's document, so they must belong to it.
        if !self.is_loaded(session) {
            return Err(Error::internal("messages staged for a session that is not loaded"));
        }
        self.pending_writes.session_id.get_or_insert_with(|| session.clone());
        Ok(&mut self.pending_writes)
    }
}
