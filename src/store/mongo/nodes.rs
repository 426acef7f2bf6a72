//! Writes messages into their nodes.
//!
//! A transaction stages new messages in memory. They are committed as part of the session's
//! document (`pending`) and then applied: a new node is inserted as one document, and messages for
//! an existing node are appended to it in one update.

use super::Collections;
use super::documents::{MessageDoc, MessageLocationDoc, NodeDoc, to_document, to_u32};
use super::errors::is_duplicate_key;
use super::ledger::apply_usage;
use super::paths::NameLookup;
use super::transaction::MongoTransaction;
use crate::domain::node::{NodeFill, format_chat_id};
use crate::domain::{MessageId, SessionId};
use crate::error::{Error, Result};
use crate::store::stored_values::to_i64;
use crate::store::transaction::{LocatedMessage, MessageInsert, MessageLocation};
use mongodb::bson::{Bson, Document, doc};
use mongodb::{ClientSession, Collection};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// Messages that a transaction adds to the nodes of one session.
#[derive(Default)]
pub(super) struct PendingWrites {
    session_id: Option<SessionId>,
    /// Size of each node used so far, staged messages included.
    node_fills: HashMap<u32, NodeFillDoc>,
    new_nodes: BTreeMap<u32, NodeDoc>,
    appended_messages: BTreeMap<u32, Vec<MessageDoc>>,
    /// All ids and client ids of the session's messages, if the rules asked to preload them.
    known_names: Option<HashMap<String, Vec<LocatedMessage>>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeFillDoc {
    count: i64,
    bytes: i64,
    last_seq: i64,
    path_tokens: i64,
}

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
        let known = self.pending_writes_for(session).await?.node_fills.get(&at.node).copied();
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
        let known = self.pending_writes_for(session).await?.node_fills.get(&at.node).copied();
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
        let MessageInsert { message, location: at, parent, opens_node, size, path_tokens } = insert;
        let created_revision = self.loaded.as_ref().map_or(0, |loaded| loaded.created_revision);
        let writes = self.pending_writes_for(session).await?;
        let stored = MessageDoc::new(insert)?;
        // Preloaded names must include messages of this transaction: an import refers to its own.
        if let Some(names) = &mut writes.known_names {
            let located = LocatedMessage { id: message.id.clone(), location: at };
            for name in
                [Some(&message.id), message.client_message_id.as_ref()].into_iter().flatten()
            {
                names.entry(name.to_string()).or_default().push(located.clone());
            }
        }
        let seq = i64::from(at.seq);
        let bytes = to_i64(size);
        let empty = NodeFillDoc { count: 0, bytes: 0, last_seq: 0, path_tokens: 0 };
        let fill = writes.node_fills.entry(at.node).or_insert(empty);
        fill.count += 1;
        fill.bytes += bytes;
        fill.last_seq = seq;
        fill.path_tokens = to_i64(path_tokens);
        if opens_node {
            let prev = parent.map_or(MessageLocation { node: 0, seq: 0 }, |parent| parent.location);
            let node = NodeDoc {
                id: format_chat_id(session, at.node),
                session_id: session.to_string(),
                born: created_revision,
                number: at.node.into(),
                prev: MessageLocationDoc { node: prev.node.into(), seq: prev.seq.into() },
                first_id: message.id.to_string(),
                first_seq: seq,
                last_seq: seq,
                count: 1,
                bytes,
                path_tokens: to_i64(path_tokens),
                created_at: stored.created_at,
                messages: vec![stored],
            };
            writes.new_nodes.insert(at.node, node);
        // The node is new in this transaction: extend the document that will be inserted.
        } else if let Some(node) = writes.new_nodes.get_mut(&at.node) {
            node.count += 1;
            node.bytes += bytes;
            node.last_seq = seq;
            node.path_tokens = to_i64(path_tokens);
            node.messages.push(stored);
        // The node exists in the database: append to it after the commit.
        } else {
            writes.appended_messages.entry(at.node).or_default().push(stored);
        }
        Ok(())
    }

    /// Loads the ids and client ids of all messages of a session, for a transaction that looks up
    /// many of them. One query in place of one per message.
    pub(super) async fn load_message_names(&mut self, session: &SessionId) -> Result<()> {
        self.pending_writes_for(session).await?;
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
    async fn pending_writes_for(&mut self, session: &SessionId) -> Result<&mut PendingWrites> {
        // Writes are committed with the loaded session's document, so they must belong to it.
        if !self.is_loaded(session) {
            return Err(Error::internal("messages staged for a session that is not loaded"));
        }
        self.pending_writes.session_id.get_or_insert_with(|| session.clone());
        Ok(&mut self.pending_writes)
    }
}

impl PendingWrites {
    fn messages(&self) -> impl Iterator<Item = (u32, &MessageDoc)> {
        let new = self.new_nodes.iter().map(|(number, node)| (*number, &node.messages));
        let appended = self.appended_messages.iter().map(|(node, messages)| (*node, messages));
        new.chain(appended).flat_map(|(node, messages)| messages.iter().map(move |one| (node, one)))
    }

    /// Finds a staged message.
    pub(super) fn find_message(&self, at: MessageLocation) -> Option<&MessageDoc> {
        self.messages().map(|(_, message)| message).find(|message| to_u32(message.seq) == at.seq)
    }

    /// Finds the staged messages that match.
    pub(super) fn find_messages(
        &self,
        matches: impl Fn(&MessageDoc) -> bool,
    ) -> impl Iterator<Item = LocatedMessage> {
        let found = self.messages().filter(move |(_, message)| matches(message));
        found.map(|(node, message)| LocatedMessage {
            id: MessageId::new_unchecked(message.id.as_str()),
            location: MessageLocation { node, seq: to_u32(message.seq) },
        })
    }

    /// Builds the `pending` document that [`apply_pending`] reads; empty if there is nothing to
    /// write.
    pub(super) fn into_document(self) -> Result<Document> {
        let mut pending = Document::new();
        if !self.new_nodes.is_empty() {
            let opened = self.new_nodes.values().map(to_document).collect::<Result<Vec<_>>>()?;
            pending.insert("opened", opened);
        }
        let mut joined = Vec::new();
        for (node, messages) in &self.appended_messages {
            let (Some(first), Some(fill), Some(session)) =
                (messages.first(), self.node_fills.get(node), &self.session_id)
            else {
                continue;
            };
            joined.push(doc! {
                "node": format_chat_id(session, *node),
                "behind": first.seq,
                "messages": messages.iter().map(to_document).collect::<Result<Vec<_>>>()?,
                "count": fill.count,
                "bytes": fill.bytes,
                "lastSeq": fill.last_seq,
                "pathTokens": fill.path_tokens,
            });
        }
        if !joined.is_empty() {
            pending.insert("joined", joined);
        }
        Ok(pending)
    }
}

/// Applies the `pending` writes of a committed transaction.
///
/// Invariant: idempotent. Any instance may apply the same document any number of times, also at the
/// same time as another.
pub(super) async fn apply_pending(
    collections: &Collections,
    pending: &Document,
    mut transaction: Option<&mut ClientSession>,
) -> mongodb::error::Result<()> {
    let listed =
        |field| pending.get_array(field).into_iter().flatten().filter_map(Bson::as_document);
    for node in listed("opened") {
        let is_new = insert_if_absent(&collections.nodes, node, &mut transaction).await?;
        if !is_new {
            // Usually the same node, inserted earlier. But it may belong to a deleted session that
            // had the same id, if a slow instance applied its `pending` after the deletion. Then
            // it has an older revision and is replaced.
            let leftover = doc! { "_id": node.get("_id"), "born": { "$lt": node.get("born") } };
            collections.nodes.replace_one(leftover, node).await?;
        }
    }
    for joined in listed("joined") {
        let (Ok(node), Some(first_seq)) = (joined.get_str("node"), joined.get("behind")) else {
            continue;
        };
        // Sequence numbers grow, so a node that ends at or after the first of these messages
        // already contains them, and the filter makes this update a no-op.
        let not_applied = doc! { "_id": node, "lastSeq": { "$lt": first_seq } };
        let update = doc! {
            "$push": { "messages": { "$each": joined.get("messages") } },
            "$set": {
                "count": joined.get("count"),
                "bytes": joined.get("bytes"),
                "lastSeq": joined.get("lastSeq"),
                "pathTokens": joined.get("pathTokens"),
            },
        };
        let update = collections.nodes.update_one(not_applied, update);
        match &mut transaction {
            Some(session) => update.session(&mut **session).await?,
            None => update.await?,
        };
    }
    // Turn and batch number are unique in the log, and the ledger counts a turn id once.
    if let Ok(batch) = pending.get_document("log") {
        insert_if_absent(&collections.turn_log, batch, &mut transaction).await?;
    }
    if let Ok(entry) = pending.get_document("usage") {
        apply_usage(collections, entry).await?;
    }
    Ok(())
}

/// Inserts a document unless its key exists. Returns whether it was inserted.
async fn insert_if_absent(
    collection: &Collection<Document>,
    document: &Document,
    transaction: &mut Option<&mut ClientSession>,
) -> mongodb::error::Result<bool> {
    let insert = collection.insert_one(document);
    let inserted = match transaction {
        Some(session) => insert.session(&mut **session).await,
        None => insert.await,
    };
    match inserted {
        Ok(_) => Ok(true),
        // Any error aborts a MongoDB transaction, so inside of one a duplicate cannot be ignored.
        Err(error) if is_duplicate_key(&error) && transaction.is_none() => Ok(false),
        Err(error) => Err(error),
    }
}
