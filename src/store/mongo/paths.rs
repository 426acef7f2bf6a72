//! Finds messages in their nodes, their children and their siblings.
//!
//! A node holds consecutive messages of one path and names the message before them, so the path
//! back from any message is a chain of nodes, each read by its key. Branches off a path are found
//! by the index on `prev.seq`.
//!
//! Lookups of a message and of children include messages that this transaction has staged. Siblings
//! are looked up for pages only, in transactions that write nothing.

use super::documents::{LocatedMessageDoc, MessageDoc, MessageLocationDoc, to_u32};
use super::transaction::MongoTransaction;
use crate::domain::node::format_chat_id;
use crate::domain::{Message, MessageId, SessionId};
use crate::error::{Error, Result};
use crate::store::transaction::{LocatedMessage, MessageLocation, SessionRow, describe_siblings};
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};

/// The names of a message that a lookup compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameLookup {
    IdOnly,
    IdOrClientId,
}

/// A node with the ids of the messages that matched.
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

/// A node with the messages that were selected.
#[derive(Debug, Deserialize)]
struct SelectedMessagesDoc {
    messages: Vec<MessageDoc>,
}

/// The first message of a node.
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

/// Pipeline stage that reduces a node to the ids of the messages for which `condition`, over
/// `$$message`, is true. The texts of messages stay on the server.
fn message_ids_stage(condition: Document) -> Document {
    doc! { "$project": { "number": 1, "messages": { "$map": {
        "input": { "$filter": { "input": "$messages", "as": "message", "cond": condition } },
        "as": "message",
        "in": { "id": "$$message.id", "seq": "$$message.seq" },
    } } } }
}

impl MongoTransaction {
    /// Finds the message with this id, otherwise the newest one with this client id.
    pub(super) async fn locate_message(
        &mut self,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        let mut named = self.find_messages_by_name(session, id, NameLookup::IdOrClientId).await?;
        let by_id = named.iter().position(|located| located.id == *id);
        Ok(by_id.map(|index| named.swap_remove(index)).or_else(|| named.pop()))
    }

    /// Finds all messages with this id or client id, oldest first.
    pub(super) async fn find_messages_by_name(
        &mut self,
        session: &SessionId,
        id: &MessageId,
        names: NameLookup,
    ) -> Result<Vec<LocatedMessage>> {
        if let Some(mut known) = self.find_known_messages(session, id, names) {
            known.sort_unstable_by_key(|located| located.location.seq);
            return Ok(known);
        }
        let id = id.as_str();
        let (mut filter, condition) = match names {
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
        filter.insert("sessionId", self.content_key(session).as_str());
        let pipeline = vec![doc! { "$match": filter }, message_ids_stage(condition)];
        let nodes = self.collections.nodes.clone();
        let found: Vec<NodeMessageIdsDoc> = self.run_pipeline(&nodes, pipeline).await?;
        let mut all_located: Vec<_> =
            found.into_iter().flat_map(NodeMessageIdsDoc::into_located_messages).collect();
        all_located.extend(self.pending_writes.find_messages(|message| {
            message.id == id
                || names == NameLookup::IdOrClientId
                    && message.client_message_id.as_deref() == Some(id)
        }));
        all_located.sort_unstable_by_key(|located| located.location.seq);
        Ok(all_located)
    }

    /// Reads a single message out of its node.
    pub(super) async fn load_message_doc(
        &mut self,
        session: &SessionId,
        at: MessageLocation,
    ) -> Result<MessageDoc> {
        if let Some(staged) = self.pending_writes.find_message(at) {
            return Ok(staged.clone());
        }
        let nodes = self.collections.nodes.clone();
        let filter = doc! { "_id": format_chat_id(&self.content_key(session), at.node) };
        let projection = doc! { "messages": { "$elemMatch": { "seq": i64::from(at.seq) } } };
        let found: Option<SelectedMessagesDoc> =
            self.find_one(&nodes, filter, Some(projection)).await?;
        found.and_then(|node| node.messages.into_iter().next()).ok_or_else(Error::message_not_found)
    }

    pub(super) async fn load_message(
        &mut self,
        row: &SessionRow,
        at: MessageLocation,
    ) -> Result<Message> {
        let stored = self.load_message_doc(&row.session.id, at).await?;
        let parent = stored.parent.as_ref().map(LocatedMessageDoc::location);
        let siblings = self.find_children(&row.session.id, parent).await?;
        let mut message = stored.into_message(row)?;
        describe_siblings(&mut message, &siblings);
        Ok(message)
    }

    /// Finds the messages under a parent (without a parent: the roots), oldest first. They are the
    /// message after the parent in its own node, and the first message of each node that starts
    /// after the parent.
    pub(super) async fn find_children(
        &mut self,
        session: &SessionId,
        parent: Option<MessageLocation>,
    ) -> Result<Vec<LocatedMessage>> {
        let parent_seqs = BTreeSet::from([parent.map_or(0, |parent| parent.seq)]);
        let mut found: Vec<_> = self.find_nodes_starting_after(session, &parent_seqs).await?;
        if let Some(parent) = parent {
            let nodes = BTreeSet::from([parent.node]);
            let mut rest = self.find_node_messages_after(session, &nodes, parent.seq).await?;
            rest.retain(|located| located.location.seq > parent.seq);
            found.extend(rest.into_iter().next().map(|next| (parent.seq, next)));
        }
        let parent_seq = parent.map_or(0, |parent| parent.seq);
        let staged = self.pending_writes.find_messages(|message| {
            message.parent.as_ref().map_or(0, |parent| parent.location().seq) == parent_seq
        });
        found.extend(staged.map(|child| (parent_seq, child)));
        found.sort_unstable_by_key(|(_, child)| child.location.seq);
        Ok(found.into_iter().map(|(_, child)| child).collect())
    }

    /// Finds the first message of each node that starts after one of these seqs, with that seq.
    async fn find_nodes_starting_after(
        &mut self,
        session: &SessionId,
        seqs: &BTreeSet<u32>,
    ) -> Result<Vec<(u32, LocatedMessage)>> {
        let key = self.content_key(session);
        let seqs: Vec<Bson> = seqs.iter().map(|seq| i64::from(*seq).into()).collect();
        let pipeline = vec![
            doc! { "$match": { "sessionId": key.as_str(), "prev.seq": { "$in": seqs } } },
            doc! { "$project": { "number": 1, "prev": 1, "firstId": 1, "firstSeq": 1 } },
        ];
        let nodes = self.collections.nodes.clone();
        let found: Vec<NodeStartDoc> = self.run_pipeline(&nodes, pipeline).await?;
        Ok(found
            .into_iter()
            .map(|node| (to_u32(node.prev.seq), node.into_located_message()))
            .collect())
    }

    /// Finds the messages of these nodes after a seq, oldest first.
    async fn find_node_messages_after(
        &mut self,
        session: &SessionId,
        numbers: &BTreeSet<u32>,
        after: u32,
    ) -> Result<Vec<LocatedMessage>> {
        let key = self.content_key(session);
        let ids: Vec<_> = numbers.iter().map(|number| format_chat_id(&key, *number)).collect();
        let pipeline = vec![
            doc! { "$match": { "_id": { "$in": ids } } },
            message_ids_stage(doc! { "$gt": ["$$message.seq", i64::from(after)] }),
        ];
        let nodes = self.collections.nodes.clone();
        let found: Vec<NodeMessageIdsDoc> = self.run_pipeline(&nodes, pipeline).await?;
        let mut all_located: Vec<_> =
            found.into_iter().flat_map(NodeMessageIdsDoc::into_located_messages).collect();
        all_located.sort_unstable_by_key(|located| located.location.seq);
        Ok(all_located)
    }

    /// Finds the siblings of these messages by the seq of their parent, 0 for roots, oldest first,
    /// with at most two queries.
    pub(super) async fn find_siblings(
        &mut self,
        session: &SessionId,
        messages: &[(u32, MessageDoc)],
    ) -> Result<HashMap<u32, Vec<LocatedMessage>>> {
        let parent =
            |message: &MessageDoc| message.parent.as_ref().map(LocatedMessageDoc::location);
        let parents: BTreeSet<_> =
            messages.iter().map(|(_, message)| parent(message).map_or(0, |at| at.seq)).collect();
        let mut children: HashMap<u32, Vec<LocatedMessage>> = HashMap::new();
        for (parent_seq, child) in self.find_nodes_starting_after(session, &parents).await? {
            children.entry(parent_seq).or_default().push(child);
        }
        // A message in the node of its parent is the one that follows it there. For the parents of
        // all other messages, the message that follows in their node has yet to be read.
        let mut unknown = BTreeSet::new();
        for (node, message) in messages {
            let Some(at) = parent(message) else { continue };
            if at.node == *node {
                let located = LocatedMessage {
                    id: MessageId::new_unchecked(message.id.as_str()),
                    location: MessageLocation { node: *node, seq: to_u32(message.seq) },
                };
                children.entry(at.seq).or_default().push(located);
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
        Ok(children)
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
