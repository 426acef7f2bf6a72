//! Messages found in their nodes, and the ways between them.
//!
//! A node holds a run of one path and names the message before it, so the way back from any message
//! is a chain of nodes, each read by its key. What lies beside a path is found by an index.

use super::documents::{LocatedMessageDoc, MessageDoc, MessageLocationDoc, to_u32};
use super::transaction::MongoTransaction;
use crate::domain::node::format_chat_id;
use crate::domain::{Message, MessageId, SessionId};
use crate::error::{Error, Result};
use crate::store::transaction::{LocatedMessage, MessageLocation, SessionRow};
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};

/// Which names of a message to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameLookup {
    /// Its id.
    IdOnly,
    /// Its id, or the name that its client gave it.
    IdOrClientId,
}

/// The names of some messages of a node.
#[derive(Debug, Deserialize)]
struct NodeMessageIdsDoc {
    number: i64,
    messages: Vec<MessageIdDoc>,
}

#[derive(Debug, Deserialize)]
struct MessageIdDoc {
    id: String,
    seq: i64,
}

/// A node with the messages that were asked for.
#[derive(Debug, Deserialize)]
struct SelectedMessagesDoc {
    messages: Vec<MessageDoc>,
}

/// Where a node begins.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeStartDoc {
    number: i64,
    prev: MessageLocationDoc,
    first_id: String,
    first_seq: i64,
}

impl NodeStartDoc {
    fn into_located_message(self) -> LocatedMessage {
        let at = MessageLocation { node: to_u32(self.number), seq: to_u32(self.first_seq) };
        LocatedMessage { id: MessageId::new_unchecked(self.first_id), location: at }
    }
}

/// The stage that keeps, of a node's messages, the names of those for which `holds` is true of
/// `$$message`.
fn message_ids_stage(holds: Document) -> Document {
    doc! { "$project": { "number": 1, "messages": { "$map": {
        "input": { "$filter": { "input": "$messages", "as": "message", "cond": holds } },
        "as": "message",
        "in": { "id": "$$message.id", "seq": "$$message.seq" },
    } } } }
}

impl MongoTransaction {
    /// Where the message with this id lies; failing that, the newest one that a client named so.
    pub(super) async fn locate_message(
        &mut self,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        let mut named = self.find_messages_by_name(session, id, NameLookup::IdOrClientId).await?;
        let own = named.iter().position(|place| place.id == *id);
        Ok(own.map(|own| named.swap_remove(own)).or_else(|| named.pop()))
    }

    /// Where the messages with this name lie, the oldest first.
    pub(super) async fn find_messages_by_name(
        &mut self,
        session: &SessionId,
        id: &MessageId,
        names: NameLookup,
    ) -> Result<Vec<LocatedMessage>> {
        if let Some(mut known) = self.find_known_messages(session, id, names) {
            known.sort_unstable_by_key(|place| place.location.seq);
            return Ok(known);
        }
        let id = id.as_str();
        let (mut find, holds) = match names {
            NameLookup::IdOnly => {
                (doc! { "messages.id": id }, doc! { "$eq": ["$$message.id", id] })
            }
            NameLookup::IdOrClientId => (
                doc! { "$or": [{ "messages.id": id }, { "messages.clientMessageId": id }] },
                doc! { "$or": [
                    { "$eq": ["$$message.id", id] },
                    { "$eq": ["$$message.clientMessageId", id] },
                ] },
            ),
        };
        find.insert("sessionId", session.as_str());
        let pipeline = vec![doc! { "$match": find }, message_ids_stage(holds)];
        let nodes = self.collections.nodes.clone();
        let found: Vec<NodeMessageIdsDoc> = self.run_pipeline(&nodes, pipeline).await?;
        let mut places: Vec<_> =
            found.into_iter().flat_map(NodeMessageIdsDoc::into_located_messages).collect();
        places.extend(self.pending_writes.find_messages(|message| {
            message.id == id
                || names == NameLookup::IdOrClientId
                    && message.client_message_id.as_deref() == Some(id)
        }));
        places.sort_unstable_by_key(|place| place.location.seq);
        Ok(places)
    }

    /// One message, as it is stored.
    pub(super) async fn load_message_doc(
        &mut self,
        session: &SessionId,
        at: MessageLocation,
    ) -> Result<MessageDoc> {
        if let Some(gathered) = self.pending_writes.find_message(at) {
            return Ok(gathered.clone());
        }
        let nodes = self.collections.nodes.clone();
        let filter = doc! { "_id": format_chat_id(session, at.node) };
        let only = doc! { "messages": { "$elemMatch": { "seq": i64::from(at.seq) } } };
        let found: Option<SelectedMessagesDoc> = self.find_one(&nodes, filter, Some(only)).await?;
        found.and_then(|node| node.messages.into_iter().next()).ok_or_else(Error::message_not_found)
    }

    /// One message with its siblings.
    pub(super) async fn load_message(
        &mut self,
        row: &SessionRow,
        at: MessageLocation,
    ) -> Result<Message> {
        let stored = self.load_message_doc(&row.session.id, at).await?;
        let parent = stored.parent.as_ref().map(LocatedMessageDoc::location);
        let siblings = self.find_children(&row.session.id, parent).await?;
        let mut message = stored.into_message(row)?;
        message.sibling_ids = siblings.into_iter().map(|sibling| sibling.id).collect();
        Ok(message)
    }

    /// The messages under a parent (or, without one, the roots), oldest first: the one behind it in
    /// its own node, and the first of each node that begins behind it.
    pub(super) async fn find_children(
        &mut self,
        session: &SessionId,
        parent: Option<MessageLocation>,
    ) -> Result<Vec<LocatedMessage>> {
        let behind = BTreeSet::from([parent.map_or(0, |parent| parent.seq)]);
        let mut found: Vec<_> = self.find_nodes_starting_after(session, &behind).await?;
        if let Some(parent) = parent {
            let nodes = BTreeSet::from([parent.node]);
            let mut rest = self.find_node_messages_after(session, &nodes, parent.seq).await?;
            rest.retain(|place| place.location.seq > parent.seq);
            found.extend(rest.into_iter().next().map(|next| (parent.seq, next)));
        }
        let under = parent.map_or(0, |parent| parent.seq);
        let gathered = self.pending_writes.find_messages(|message| {
            message.parent.as_ref().map_or(0, |parent| parent.location().seq) == under
        });
        found.extend(gathered.map(|child| (under, child)));
        found.sort_unstable_by_key(|(_, child)| child.location.seq);
        Ok(found.into_iter().map(|(_, child)| child).collect())
    }

    /// The first message of each node that begins behind one of these seqs, and behind which.
    async fn find_nodes_starting_after(
        &mut self,
        session: &SessionId,
        seqs: &BTreeSet<u32>,
    ) -> Result<Vec<(u32, LocatedMessage)>> {
        let seqs: Vec<Bson> = seqs.iter().map(|seq| i64::from(*seq).into()).collect();
        let pipeline = vec![
            doc! { "$match": { "sessionId": session.as_str(), "prev.seq": { "$in": seqs } } },
            doc! { "$project": { "number": 1, "prev": 1, "firstId": 1, "firstSeq": 1 } },
        ];
        let nodes = self.collections.nodes.clone();
        let found: Vec<NodeStartDoc> = self.run_pipeline(&nodes, pipeline).await?;
        Ok(found
            .into_iter()
            .map(|node| (to_u32(node.prev.seq), node.into_located_message()))
            .collect())
    }

    /// The messages of these nodes behind a seq, oldest first.
    async fn find_node_messages_after(
        &mut self,
        session: &SessionId,
        numbers: &BTreeSet<u32>,
        behind: u32,
    ) -> Result<Vec<LocatedMessage>> {
        let ids: Vec<_> = numbers.iter().map(|number| format_chat_id(session, *number)).collect();
        let pipeline = vec![
            doc! { "$match": { "_id": { "$in": ids } } },
            message_ids_stage(doc! { "$gt": ["$$message.seq", i64::from(behind)] }),
        ];
        let nodes = self.collections.nodes.clone();
        let found: Vec<NodeMessageIdsDoc> = self.run_pipeline(&nodes, pipeline).await?;
        let mut places: Vec<_> =
            found.into_iter().flat_map(NodeMessageIdsDoc::into_located_messages).collect();
        places.sort_unstable_by_key(|place| place.location.seq);
        Ok(places)
    }

    /// The siblings of each of these messages, in their order, with two questions for all of them.
    pub(super) async fn find_siblings(
        &mut self,
        session: &SessionId,
        messages: &[(u32, MessageDoc)],
    ) -> Result<Vec<Vec<MessageId>>> {
        let parent =
            |message: &MessageDoc| message.parent.as_ref().map(LocatedMessageDoc::location);
        let parents: BTreeSet<_> =
            messages.iter().map(|(_, message)| parent(message).map_or(0, |at| at.seq)).collect();
        let mut children: HashMap<u32, Vec<LocatedMessage>> = HashMap::new();
        for (behind, child) in self.find_nodes_starting_after(session, &parents).await? {
            children.entry(behind).or_default().push(child);
        }
        // A message that stands in its parent's node is the one behind it there; of the others,
        // somebody must be asked.
        let mut unknown = BTreeSet::new();
        for (node, message) in messages {
            let Some(at) = parent(message) else { continue };
            if at.node == *node {
                let place = LocatedMessage {
                    id: MessageId::new_unchecked(message.id.as_str()),
                    location: MessageLocation { node: *node, seq: to_u32(message.seq) },
                };
                children.entry(at.seq).or_default().push(place);
            } else {
                unknown.insert((at.node, at.seq));
            }
        }
        unknown.retain(|(node, seq)| {
            !children
                .get(seq)
                .is_some_and(|known| known.iter().any(|child| child.location.node == *node))
        });
        if let Some(first) = unknown.iter().map(|(_, seq)| *seq).min() {
            let nodes = unknown.iter().map(|(node, _)| *node).collect();
            let names = self.find_node_messages_after(session, &nodes, first).await?;
            for (node, seq) in unknown {
                let next =
                    names.iter().find(|name| name.location.node == node && name.location.seq > seq);
                children.entry(seq).or_default().extend(next.cloned());
            }
        }
        for siblings in children.values_mut() {
            siblings.sort_unstable_by_key(|child| child.location.seq);
            siblings.dedup_by_key(|child| child.location.seq);
        }
        let ids = messages.iter().map(|(_, message)| {
            let known = children.get(&parent(message).map_or(0, |at| at.seq));
            known.into_iter().flatten().map(|child| child.id.clone()).collect()
        });
        Ok(ids.collect())
    }
}

impl NodeMessageIdsDoc {
    fn into_located_messages(self) -> impl Iterator<Item = LocatedMessage> {
        let node = to_u32(self.number);
        self.messages.into_iter().map(move |name| LocatedMessage {
            id: MessageId::new_unchecked(name.id),
            location: MessageLocation { node, seq: to_u32(name.seq) },
        })
    }
}
