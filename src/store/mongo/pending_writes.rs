//! The writes that a commit lists in the session's document (`pending`), and how they are applied:
//! a new node is inserted as one document, and messages for an existing node are appended to it in
//! one update.

use super::Collections;
use super::documents::{MessageDoc, MessageLocationDoc, NodeDoc, to_document, to_u32};
use super::errors::{MAX_DOCUMENT_BYTES, check_message_size, is_duplicate_key};
use super::ledger_entries::apply_usage;
use crate::domain::node::format_chat_id;
use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use crate::store::stored_values::to_i64;
use crate::store::transaction::{LocatedMessage, MessageInsert, MessageLocation};
use mongodb::bson::{Bson, Document, doc};
use mongodb::{ClientSession, Collection};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// Messages that a transaction adds to the nodes of one session.
#[derive(Default)]
pub(super) struct PendingWrites {
    /// Content key of that session.
    pub(super) content_key: Option<SessionId>,
    /// Size of each node used so far, staged messages included.
    pub(super) node_fills: HashMap<u32, NodeFillDoc>,
    new_nodes: BTreeMap<u32, NodeDoc>,
    appended_messages: BTreeMap<u32, Vec<MessageDoc>>,
    /// Size of these messages.
    pub(super) bytes: usize,
    /// Messages by ids and client ids that the rules asked to preload, also those without any.
    pub(super) known_names: HashMap<String, Vec<LocatedMessage>>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeFillDoc {
    pub(super) count: i64,
    pub(super) bytes: i64,
    pub(super) last_seq: i64,
    pub(super) path_tokens: i64,
}

impl PendingWrites {
    /// Adds a message of a session that has this content key and was created at a revision.
    pub(super) fn add_message(
        &mut self,
        key: &SessionId,
        created_revision: i64,
        insert: MessageInsert<'_>,
    ) -> Result<()> {
        let size = usize::try_from(insert.size).unwrap_or(usize::MAX);
        check_message_size(size, MAX_DOCUMENT_BYTES)?;
        self.bytes = self.bytes.saturating_add(size);
        let stored = MessageDoc::new(insert)?;
        self.add_known_names(insert);
        let number = insert.location.node;
        let fill = self.node_fills.entry(number).or_default();
        fill.add_message(insert);
        if insert.opens_node {
            let node = open_node(key, created_revision, insert, stored);
            self.new_nodes.insert(number, node);
        // The node is new in this transaction: extend the document that will be inserted.
        } else if let Some(node) = self.new_nodes.get_mut(&number) {
            node.count = fill.count;
            node.bytes = fill.bytes;
            node.last_seq = fill.last_seq;
            node.path_tokens = fill.path_tokens;
            node.messages.push(stored);
        // The node exists in the database: append to it after the commit.
        } else {
            self.appended_messages.entry(number).or_default().push(stored);
        }
        Ok(())
    }

    /// Preloaded names must include messages of this transaction: an import refers to its own.
    fn add_known_names(&mut self, insert: MessageInsert<'_>) {
        let message = insert.message;
        let located = LocatedMessage { id: message.id.clone(), location: insert.location };
        for name in [Some(&message.id), message.client_message_id.as_ref()].into_iter().flatten() {
            if let Some(known) = self.known_names.get_mut(name.as_str()) {
                known.push(located.clone());
            }
        }
    }

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
            let (Some(first), Some(fill), Some(key)) =
                (messages.first(), self.node_fills.get(node), &self.content_key)
            else {
                continue;
            };
            joined.push(doc! {
                "node": format_chat_id(key, *node),
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

impl NodeFillDoc {
    fn add_message(&mut self, insert: MessageInsert<'_>) {
        self.count += 1;
        self.bytes += to_i64(insert.size);
        self.last_seq = insert.location.seq.into();
        self.path_tokens = to_i64(insert.path_tokens);
    }
}

/// A node with its first message.
fn open_node(
    key: &SessionId,
    created_revision: i64,
    insert: MessageInsert<'_>,
    first: MessageDoc,
) -> NodeDoc {
    let MessageInsert { message, location: at, parent, size, path_tokens, .. } = insert;
    let prev = parent.map_or(MessageLocation { node: 0, seq: 0 }, |parent| parent.location);
    NodeDoc {
        id: format_chat_id(key, at.node),
        session_id: key.to_string(),
        created_revision,
        number: at.node.into(),
        prev: MessageLocationDoc { node: prev.node.into(), seq: prev.seq.into() },
        first_id: message.id.to_string(),
        first_seq: at.seq.into(),
        last_seq: at.seq.into(),
        count: 1,
        bytes: to_i64(size),
        path_tokens: to_i64(path_tokens),
        created_at: first.created_at,
        messages: vec![first],
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
        append_messages(&collections.nodes, joined, &mut transaction).await?;
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

/// Appends messages to a node, unless it has them.
async fn append_messages(
    nodes: &Collection<Document>,
    joined: &Document,
    transaction: &mut Option<&mut ClientSession>,
) -> mongodb::error::Result<()> {
    let (Ok(node), Some(first_seq)) = (joined.get_str("node"), joined.get("behind")) else {
        return Ok(());
    };
    // Sequence numbers grow, so a node that ends at or after the first of these messages already
    // contains them, and the filter makes this update a no-op.
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
    let update = nodes.update_one(not_applied, update);
    match transaction {
        Some(session) => update.session(&mut **session).await?,
        None => update.await?,
    };
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
