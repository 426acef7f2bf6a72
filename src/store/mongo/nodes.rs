//! Messages into their nodes. Within a step they are gathered, and go out together: a new node in
//! one piece, an old one's new messages in one update.

use super::documents::{LocationDoc, MessageDoc, NodeDoc, document, number};
use super::paths::Named;
use super::step::Step;
use crate::domain::node::{NodeFill, chat_id};
use crate::domain::{MessageId, SessionId};
use crate::error::{Error, Kind, Result};
use crate::store::work::{Location, Place, Placed};
use mongodb::bson::doc;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// What a step adds to a session's nodes, before it is written.
#[derive(Default)]
pub(super) struct Gathered {
    session: Option<SessionId>,
    /// How full the nodes are that were looked at, what is gathered included.
    fills: HashMap<u32, Fill>,
    opened: BTreeMap<u32, NodeDoc>,
    joined: BTreeMap<u32, Vec<MessageDoc>>,
    /// Every name of the session's messages, if many are looked for.
    names: Option<HashMap<String, Vec<Place>>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fill {
    count: i64,
    bytes: i64,
    last_seq: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamesDoc {
    number: i64,
    messages: Vec<NameDoc>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NameDoc {
    id: String,
    client_message_id: Option<String>,
    seq: i64,
}

impl Step {
    /// How full a message's node is.
    pub(super) async fn node_fill(
        &mut self,
        session: &SessionId,
        at: Location,
    ) -> Result<NodeFill> {
        let known = self.gathered(session).await?.fills.get(&at.node).copied();
        let fill = match known {
            Some(fill) => fill,
            None => {
                let nodes = self.tables.nodes.clone();
                let filter = doc! { "_id": chat_id(session, at.node) };
                let only = doc! { "count": 1, "bytes": 1, "lastSeq": 1 };
                let found: Option<Fill> = self.one(&nodes, filter, Some(only)).await?;
                let fill = found.ok_or_else(Error::message_not_found)?;
                self.gathered.fills.insert(at.node, fill);
                fill
            }
        };
        Ok(NodeFill {
            messages: number(fill.count),
            bytes: fill.bytes.unsigned_abs(),
            ends_with_parent: number(fill.last_seq) == at.seq,
        })
    }

    /// Gathers a message for its node. Errors: `id_taken`, if it is known that soon; else when it is
    /// written.
    pub(super) async fn put_message(
        &mut self,
        session: &SessionId,
        placed: Placed<'_>,
    ) -> Result<()> {
        let Placed { message, at, parent, opens_node, size } = placed;
        let gathered = self.gathered(session).await?;
        let stored = MessageDoc::new(placed)?;
        if let Some(names) = &mut gathered.names {
            let place = Place { id: message.id.clone(), at };
            for name in
                [Some(&message.id), message.client_message_id.as_ref()].into_iter().flatten()
            {
                names.entry(name.to_string()).or_default().push(place.clone());
            }
        }
        let (seq, bytes) = (i64::from(at.seq), i64::try_from(size).unwrap_or(i64::MAX));
        let fill =
            gathered.fills.entry(at.node).or_insert(Fill { count: 0, bytes: 0, last_seq: 0 });
        fill.count += 1;
        fill.bytes += bytes;
        fill.last_seq = seq;
        if opens_node {
            let prev = parent.map_or(Location { node: 0, seq: 0 }, |parent| parent.at);
            let node = NodeDoc {
                id: chat_id(session, at.node),
                session_id: session.to_string(),
                number: at.node.into(),
                prev: LocationDoc { node: prev.node.into(), seq: prev.seq.into() },
                first_id: message.id.to_string(),
                first_seq: seq,
                last_seq: seq,
                count: 1,
                bytes,
                created_at: stored.created_at,
                messages: vec![stored],
            };
            gathered.opened.insert(at.node, node);
        } else if let Some(node) = gathered.opened.get_mut(&at.node) {
            node.count += 1;
            node.bytes += bytes;
            node.last_seq = seq;
            node.messages.push(stored);
        } else {
            gathered.joined.entry(at.node).or_default().push(stored);
        }
        Ok(())
    }

    /// Writes what was gathered.
    pub(super) async fn write_nodes(&mut self) -> Result<()> {
        let Some(session) = self.gathered.session.clone() else { return Ok(()) };
        let opened = std::mem::take(&mut self.gathered.opened);
        let joined = std::mem::take(&mut self.gathered.joined);
        let nodes = self.tables.nodes.clone();
        if !opened.is_empty() {
            let opened = opened.values().map(document).collect::<Result<Vec<_>>>()?;
            let inserted = nodes.insert_many(opened).session(&mut self.session).await;
            self.check(inserted)?;
        }
        for (number, messages) in joined {
            self.write_joined(&session, number, &messages).await?;
        }
        Ok(())
    }

    async fn write_joined(
        &mut self,
        session: &SessionId,
        node: u32,
        messages: &[MessageDoc],
    ) -> Result<()> {
        let Some(fill) = self.gathered.fills.get(&node).copied() else { return Ok(()) };
        let ids: Vec<_> = messages.iter().map(|message| message.id.as_str()).collect();
        let documents = messages.iter().map(document).collect::<Result<Vec<_>>>()?;
        // The index tells one id of two nodes apart, not of one.
        let filter = doc! { "_id": chat_id(session, node), "messages.id": { "$nin": &ids } };
        let update = doc! {
            "$push": { "messages": { "$each": documents } },
            "$set": { "count": fill.count, "bytes": fill.bytes, "lastSeq": fill.last_seq },
        };
        let nodes = self.tables.nodes.clone();
        let updated = nodes.update_one(filter, update).session(&mut self.session).await;
        match self.check(updated)?.matched_count {
            1 => Ok(()),
            _ => Err(Error::new(
                Kind::IdTaken,
                format!("the session has a message with the id {} already", ids.join(" or ")),
            )),
        }
    }

    /// Reads all names of a session's messages at once, for a step that will ask for many.
    pub(super) async fn read_names(&mut self, session: &SessionId) -> Result<()> {
        self.gathered(session).await?;
        let pipeline = vec![
            doc! { "$match": { "sessionId": session.as_str() } },
            doc! { "$project": {
                "number": 1, "messages.id": 1, "messages.clientMessageId": 1, "messages.seq": 1,
            } },
        ];
        let nodes = self.tables.nodes.clone();
        let found: Vec<NamesDoc> = self.all(&nodes, pipeline).await?;
        let mut names: HashMap<String, Vec<Place>> = HashMap::new();
        for node in found {
            for name in node.messages {
                let at = Location { node: number(node.number), seq: number(name.seq) };
                let place = Place { id: MessageId::trusted(name.id.as_str()), at };
                for name in [Some(name.id), name.client_message_id].into_iter().flatten() {
                    names.entry(name).or_default().push(place.clone());
                }
            }
        }
        self.gathered.names = Some(names);
        Ok(())
    }

    /// What is known without asking: where the messages with this name lie, in no order.
    pub(super) fn known_names(
        &self,
        session: &SessionId,
        id: &MessageId,
        names: Named,
    ) -> Option<Vec<Place>> {
        let known = self.gathered.names.as_ref()?;
        if self.gathered.session.as_ref() != Some(session) {
            return None;
        }
        let mut places = known.get(id.as_str()).cloned().unwrap_or_default();
        places.retain(|place| names == Named::ByAnyName || place.id == *id);
        Some(places)
    }

    /// What is gathered for this session; what was for another is written.
    async fn gathered(&mut self, session: &SessionId) -> Result<&mut Gathered> {
        if self.gathered.session.as_ref() != Some(session) {
            self.write_nodes().await?;
            self.gathered = Gathered { session: Some(session.clone()), ..Gathered::default() };
        }
        Ok(&mut self.gathered)
    }
}
