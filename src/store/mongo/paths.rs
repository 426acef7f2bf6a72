//! Messages found in their nodes, and the ways between them.
//!
//! A node holds a run of one path and names the message before it, so the way back from any message
//! is a chain of nodes, each read by its key. What lies beside a path is found by an index.

use super::documents::{LocationDoc, MessageDoc, PlaceDoc, number};
use super::step::Step;
use crate::domain::node::format_chat_id;
use crate::domain::{Message, MessageId, SessionId};
use crate::error::{Error, Result};
use crate::store::work::{Location, Place, SessionRow};
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};

/// Which names of a message to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// Its id.
    ById,
    /// Its id, or the name that its client gave it.
    ByAnyName,
}

/// The names of some messages of a node.
#[derive(Debug, Deserialize)]
struct NamesDoc {
    number: i64,
    messages: Vec<NameDoc>,
}

#[derive(Debug, Deserialize)]
struct NameDoc {
    id: String,
    seq: i64,
}

/// A node with the messages that were asked for.
#[derive(Debug, Deserialize)]
struct SomeOf {
    messages: Vec<MessageDoc>,
}

/// Where a node begins.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FirstDoc {
    number: i64,
    prev: LocationDoc,
    first_id: String,
    first_seq: i64,
}

impl FirstDoc {
    fn place(self) -> Place {
        let at = Location { node: number(self.number), seq: number(self.first_seq) };
        Place { id: MessageId::trusted(self.first_id), at }
    }
}

/// The stage that keeps, of a node's messages, the names of those for which `holds` is true of
/// `$$message`.
fn names_where(holds: Document) -> Document {
    doc! { "$project": { "number": 1, "messages": { "$map": {
        "input": { "$filter": { "input": "$messages", "as": "message", "cond": holds } },
        "as": "message",
        "in": { "id": "$$message.id", "seq": "$$message.seq" },
    } } } }
}

impl Step {
    /// Where the message with this id lies; failing that, the newest one that a client named so.
    pub(super) async fn find_message(
        &mut self,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Option<Place>> {
        let mut named = self.named(session, id, Named::ByAnyName).await?;
        let own = named.iter().position(|place| place.id == *id);
        Ok(own.map(|own| named.swap_remove(own)).or_else(|| named.pop()))
    }

    /// Where the messages with this name lie, the oldest first.
    pub(super) async fn named(
        &mut self,
        session: &SessionId,
        id: &MessageId,
        names: Named,
    ) -> Result<Vec<Place>> {
        if let Some(mut known) = self.known_names(session, id, names) {
            known.sort_unstable_by_key(|place| place.at.seq);
            return Ok(known);
        }
        let id = id.as_str();
        let (mut find, holds) = match names {
            Named::ById => (doc! { "messages.id": id }, doc! { "$eq": ["$$message.id", id] }),
            Named::ByAnyName => (
                doc! { "$or": [{ "messages.id": id }, { "messages.clientMessageId": id }] },
                doc! { "$or": [
                    { "$eq": ["$$message.id", id] },
                    { "$eq": ["$$message.clientMessageId", id] },
                ] },
            ),
        };
        find.insert("sessionId", session.as_str());
        let pipeline = vec![doc! { "$match": find }, names_where(holds)];
        let nodes = self.tables.nodes.clone();
        let found: Vec<NamesDoc> = self.all(&nodes, pipeline).await?;
        let mut places: Vec<_> = found.into_iter().flat_map(NamesDoc::places).collect();
        places.extend(self.gathered.where_messages(|message| {
            message.id == id
                || names == Named::ByAnyName && message.client_message_id.as_deref() == Some(id)
        }));
        places.sort_unstable_by_key(|place| place.at.seq);
        Ok(places)
    }

    /// One message, as it is stored.
    pub(super) async fn stored(&mut self, session: &SessionId, at: Location) -> Result<MessageDoc> {
        if let Some(gathered) = self.gathered.message(at) {
            return Ok(gathered.clone());
        }
        let nodes = self.tables.nodes.clone();
        let filter = doc! { "_id": format_chat_id(session, at.node) };
        let only = doc! { "messages": { "$elemMatch": { "seq": i64::from(at.seq) } } };
        let found: Option<SomeOf> = self.one(&nodes, filter, Some(only)).await?;
        found.and_then(|node| node.messages.into_iter().next()).ok_or_else(Error::message_not_found)
    }

    /// One message with its siblings.
    pub(super) async fn read_message(&mut self, row: &SessionRow, at: Location) -> Result<Message> {
        let stored = self.stored(&row.session.id, at).await?;
        let parent = stored.parent.as_ref().map(PlaceDoc::location);
        let siblings = self.children_of(&row.session.id, parent).await?;
        let mut message = stored.into_message(row)?;
        message.sibling_ids = siblings.into_iter().map(|sibling| sibling.id).collect();
        Ok(message)
    }

    /// The messages under a parent (or, without one, the roots), oldest first: the one behind it in
    /// its own node, and the first of each node that begins behind it.
    pub(super) async fn children_of(
        &mut self,
        session: &SessionId,
        parent: Option<Location>,
    ) -> Result<Vec<Place>> {
        let behind = BTreeSet::from([parent.map_or(0, |parent| parent.seq)]);
        let mut found: Vec<_> = self.first_behind(session, &behind).await?;
        if let Some(parent) = parent {
            let nodes = BTreeSet::from([parent.node]);
            let mut rest = self.names_in(session, &nodes, parent.seq).await?;
            rest.retain(|place| place.at.seq > parent.seq);
            found.extend(rest.into_iter().next().map(|next| (parent.seq, next)));
        }
        let under = parent.map_or(0, |parent| parent.seq);
        let gathered = self.gathered.where_messages(|message| {
            message.parent.as_ref().map_or(0, |parent| parent.location().seq) == under
        });
        found.extend(gathered.map(|child| (under, child)));
        found.sort_unstable_by_key(|(_, child)| child.at.seq);
        Ok(found.into_iter().map(|(_, child)| child).collect())
    }

    /// The first message of each node that begins behind one of these seqs, and behind which.
    async fn first_behind(
        &mut self,
        session: &SessionId,
        seqs: &BTreeSet<u32>,
    ) -> Result<Vec<(u32, Place)>> {
        let seqs: Vec<Bson> = seqs.iter().map(|seq| i64::from(*seq).into()).collect();
        let pipeline = vec![
            doc! { "$match": { "sessionId": session.as_str(), "prev.seq": { "$in": seqs } } },
            doc! { "$project": { "number": 1, "prev": 1, "firstId": 1, "firstSeq": 1 } },
        ];
        let nodes = self.tables.nodes.clone();
        let found: Vec<FirstDoc> = self.all(&nodes, pipeline).await?;
        Ok(found.into_iter().map(|node| (number(node.prev.seq), node.place())).collect())
    }

    /// The messages of these nodes behind a seq, oldest first.
    async fn names_in(
        &mut self,
        session: &SessionId,
        numbers: &BTreeSet<u32>,
        behind: u32,
    ) -> Result<Vec<Place>> {
        let ids: Vec<_> = numbers.iter().map(|number| format_chat_id(session, *number)).collect();
        let pipeline = vec![
            doc! { "$match": { "_id": { "$in": ids } } },
            names_where(doc! { "$gt": ["$$message.seq", i64::from(behind)] }),
        ];
        let nodes = self.tables.nodes.clone();
        let found: Vec<NamesDoc> = self.all(&nodes, pipeline).await?;
        let mut places: Vec<_> = found.into_iter().flat_map(NamesDoc::places).collect();
        places.sort_unstable_by_key(|place| place.at.seq);
        Ok(places)
    }

    /// The siblings of each of these messages, in their order, with two questions for all of them.
    pub(super) async fn siblings(
        &mut self,
        session: &SessionId,
        messages: &[(u32, MessageDoc)],
    ) -> Result<Vec<Vec<MessageId>>> {
        let parent = |message: &MessageDoc| message.parent.as_ref().map(PlaceDoc::location);
        let parents: BTreeSet<_> =
            messages.iter().map(|(_, message)| parent(message).map_or(0, |at| at.seq)).collect();
        let mut children: HashMap<u32, Vec<Place>> = HashMap::new();
        for (behind, child) in self.first_behind(session, &parents).await? {
            children.entry(behind).or_default().push(child);
        }
        // A message that stands in its parent's node is the one behind it there; of the others,
        // somebody must be asked.
        let mut unknown = BTreeSet::new();
        for (node, message) in messages {
            let Some(at) = parent(message) else { continue };
            if at.node == *node {
                let place = Place {
                    id: MessageId::trusted(message.id.as_str()),
                    at: Location { node: *node, seq: number(message.seq) },
                };
                children.entry(at.seq).or_default().push(place);
            } else {
                unknown.insert((at.node, at.seq));
            }
        }
        unknown.retain(|(node, seq)| {
            !children.get(seq).is_some_and(|known| known.iter().any(|child| child.at.node == *node))
        });
        if let Some(first) = unknown.iter().map(|(_, seq)| *seq).min() {
            let nodes = unknown.iter().map(|(node, _)| *node).collect();
            let names = self.names_in(session, &nodes, first).await?;
            for (node, seq) in unknown {
                let next = names.iter().find(|name| name.at.node == node && name.at.seq > seq);
                children.entry(seq).or_default().extend(next.cloned());
            }
        }
        for siblings in children.values_mut() {
            siblings.sort_unstable_by_key(|child| child.at.seq);
            siblings.dedup_by_key(|child| child.at.seq);
        }
        let ids = messages.iter().map(|(_, message)| {
            let known = children.get(&parent(message).map_or(0, |at| at.seq));
            known.into_iter().flatten().map(|child| child.id.clone()).collect()
        });
        Ok(ids.collect())
    }
}

impl NamesDoc {
    fn places(self) -> impl Iterator<Item = Place> {
        let node = number(self.number);
        self.messages.into_iter().map(move |name| Place {
            id: MessageId::trusted(name.id),
            at: Location { node, seq: number(name.seq) },
        })
    }
}
