//! Messages into their nodes. A step gathers them: they are part of its commit, and go into their
//! nodes right behind it, a new node in one piece, an old one's new messages in one update.

use super::Collections;
use super::documents::{MessageDoc, MessageLocationDoc, NodeDoc, to_document, to_i64, to_u32};
use super::errors::is_duplicate_key;
use super::ledger::apply_usage;
use super::paths::NameLookup;
use super::transaction::MongoTransaction;
use crate::domain::node::{NodeFill, format_chat_id};
use crate::domain::{MessageId, SessionId};
use crate::error::{Error, Result};
use crate::store::transaction::{LocatedMessage, MessageInsert, MessageLocation};
use mongodb::bson::{Bson, Document, doc};
use mongodb::{ClientSession, Collection};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// What a step adds to a session's nodes, before it is written.
#[derive(Default)]
pub(super) struct PendingWrites {
    session_id: Option<SessionId>,
    /// How full the nodes are that were looked at, what is gathered included.
    node_fills: HashMap<u32, NodeFillDoc>,
    new_nodes: BTreeMap<u32, NodeDoc>,
    appended_messages: BTreeMap<u32, Vec<MessageDoc>>,
    /// Every name of the session's messages, if many are looked for.
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
    /// How full a message's node is.
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
                let only = doc! { "count": 1, "bytes": 1, "lastSeq": 1, "pathTokens": 1 };
                let found: Option<NodeFillDoc> = self.find_one(&nodes, filter, Some(only)).await?;
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

    /// Tokens of the path up to a message. Of a node's last one its fill says it.
    pub(super) async fn load_path_tokens(
        &mut self,
        session: &SessionId,
        at: MessageLocation,
    ) -> Result<u64> {
        let known = self.pending_writes_for(session).await?.node_fills.get(&at.node).copied();
        let known = known.filter(|fill| to_u32(fill.last_seq) == at.seq);
        let stored = match known {
            Some(fill) => fill.path_tokens,
            None => self.load_message_doc(session, at).await?.path_tokens,
        };
        Ok(stored.unsigned_abs())
    }

    /// Gathers a message for its node.
    pub(super) async fn stage_message(
        &mut self,
        session: &SessionId,
        placed: MessageInsert<'_>,
    ) -> Result<()> {
        let MessageInsert { message, location: at, parent, opens_node, size, path_tokens } = placed;
        let born = self.loaded.as_ref().map_or(0, |current| current.created_revision);
        let gathered = self.pending_writes_for(session).await?;
        let stored = MessageDoc::new(placed)?;
        if let Some(names) = &mut gathered.known_names {
            let place = LocatedMessage { id: message.id.clone(), location: at };
            for name in
                [Some(&message.id), message.client_message_id.as_ref()].into_iter().flatten()
            {
                names.entry(name.to_string()).or_default().push(place.clone());
            }
        }
        let (seq, bytes) = (i64::from(at.seq), i64::try_from(size).unwrap_or(i64::MAX));
        let empty = NodeFillDoc { count: 0, bytes: 0, last_seq: 0, path_tokens: 0 };
        let fill = gathered.node_fills.entry(at.node).or_insert(empty);
        fill.count += 1;
        fill.bytes += bytes;
        fill.last_seq = seq;
        fill.path_tokens = to_i64(path_tokens);
        if opens_node {
            let prev = parent.map_or(MessageLocation { node: 0, seq: 0 }, |parent| parent.location);
            let node = NodeDoc {
                id: format_chat_id(session, at.node),
                session_id: session.to_string(),
                born,
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
            gathered.new_nodes.insert(at.node, node);
        } else if let Some(node) = gathered.new_nodes.get_mut(&at.node) {
            node.count += 1;
            node.bytes += bytes;
            node.last_seq = seq;
            node.path_tokens = to_i64(path_tokens);
            node.messages.push(stored);
        } else {
            gathered.appended_messages.entry(at.node).or_default().push(stored);
        }
        Ok(())
    }

    /// Reads all names of a session's messages at once, for a step that will ask for many.
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
                let place =
                    LocatedMessage { id: MessageId::new_unchecked(name.id.as_str()), location: at };
                for name in [Some(name.id), name.client_message_id].into_iter().flatten() {
                    names.entry(name).or_default().push(place.clone());
                }
            }
        }
        self.pending_writes.known_names = Some(names);
        Ok(())
    }

    /// What is known without asking: where the messages with this name lie, in no order.
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
        let mut places = known.get(id.as_str()).cloned().unwrap_or_default();
        places.retain(|place| names == NameLookup::IdOrClientId || place.id == *id);
        Some(places)
    }

    /// What is gathered for this session; what was for another is written.
    async fn pending_writes_for(&mut self, session: &SessionId) -> Result<&mut PendingWrites> {
        if !self.is_loaded(session) {
            return Err(Error::internal("a step stores messages in another session than it read"));
        }
        self.pending_writes.session_id.get_or_insert_with(|| session.clone());
        Ok(&mut self.pending_writes)
    }
}

impl PendingWrites {
    fn messages(&self) -> impl Iterator<Item = (u32, &MessageDoc)> {
        let opened = self.new_nodes.iter().map(|(node, opened)| (*node, &opened.messages));
        let joined = self.appended_messages.iter().map(|(node, messages)| (*node, messages));
        opened
            .chain(joined)
            .flat_map(|(node, messages)| messages.iter().map(move |one| (node, one)))
    }

    /// A message that is not written yet.
    pub(super) fn find_message(&self, at: MessageLocation) -> Option<&MessageDoc> {
        self.messages().map(|(_, message)| message).find(|message| to_u32(message.seq) == at.seq)
    }

    /// Where messages lie that are not written yet and for which this holds.
    pub(super) fn find_messages(
        &self,
        holds: impl Fn(&MessageDoc) -> bool,
    ) -> impl Iterator<Item = LocatedMessage> {
        let found = self.messages().filter(move |(_, message)| holds(message));
        found.map(|(node, message)| LocatedMessage {
            id: MessageId::new_unchecked(message.id.as_str()),
            location: MessageLocation { node, seq: to_u32(message.seq) },
        })
    }

    /// What is to be carried out behind the commit.
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

/// Does what a committed step still has to do. Done again, by whomever, it changes nothing.
pub(super) async fn apply_pending(
    tables: &Collections,
    pending: &Document,
    mut transaction: Option<&mut ClientSession>,
) -> mongodb::error::Result<()> {
    let listed =
        |field| pending.get_array(field).into_iter().flatten().filter_map(Bson::as_document);
    for node in listed("opened") {
        let is_new = insert_if_absent(&tables.nodes, node, &mut transaction).await?;
        if !is_new {
            // Not of this session, but of one that had its name and was deleted: written too late by
            // somebody who was slow.
            let ghost = doc! { "_id": node.get("_id"), "born": { "$lt": node.get("born") } };
            tables.nodes.replace_one(ghost, node).await?;
        }
    }
    for joined in listed("joined") {
        let (Ok(node), Some(behind)) = (joined.get_str("node"), joined.get("behind")) else {
            continue;
        };
        // A node that ends behind these messages has them.
        let before = doc! { "_id": node, "lastSeq": { "$lt": behind } };
        let update = doc! {
            "$push": { "messages": { "$each": joined.get("messages") } },
            "$set": {
                "count": joined.get("count"),
                "bytes": joined.get("bytes"),
                "lastSeq": joined.get("lastSeq"),
                "pathTokens": joined.get("pathTokens"),
            },
        };
        let update = tables.nodes.update_one(before, update);
        match &mut transaction {
            Some(session) => update.session(&mut **session).await?,
            None => update.await?,
        };
    }
    if let Ok(end) = pending.get_document("log") {
        insert_if_absent(&tables.turn_log, end, &mut transaction).await?;
    }
    if let Ok(entry) = pending.get_document("usage") {
        apply_usage(tables, entry).await?;
    }
    Ok(())
}

/// Adds a document that may be there already. Whether it was not.
async fn insert_if_absent(
    table: &Collection<Document>,
    document: &Document,
    transaction: &mut Option<&mut ClientSession>,
) -> mongodb::error::Result<bool> {
    let insert = table.insert_one(document);
    let inserted = match transaction {
        Some(session) => insert.session(&mut **session).await,
        None => insert.await,
    };
    match inserted {
        Ok(_) => Ok(true),
        Err(error) if is_duplicate_key(&error) && transaction.is_none() => Ok(false),
        Err(error) => Err(error),
    }
}
