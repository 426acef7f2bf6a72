//! ChatGPT's `conversations.json`: each conversation a tree of nodes, made a session with its
//! branches. OpenAI documents the format nowhere; what is read here is what its exports of 2023 to
//! 2026 hold. Ids are kept, so importing again adds only what is new.
//!
//! Nodes that ChatGPT does not show (empty or hidden ones) are left out, and what stood under them
//! stands under the next one above. Pictures and files lie beside the file in ChatGPT's archive:
//! their names are kept, in brackets.

use super::chatgpt_text::{Said, said};
use super::record::{MessageRecord, SessionRecord};
use crate::domain::message::{FinishReason, MessagePart};
use crate::domain::title::{MAX_TITLE_CHARS, TitleSource};
use crate::domain::{MessageId, MessageType, Role, Status, Timestamp};
use crate::error::{Error, Result};
use crate::json::{self, StrictObject};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;

/// What ChatGPT calls a conversation that nothing has named.
const UNNAMED: &str = "New chat";
/// The last second of the year 9999.
const MAX_SECONDS: f64 = 253_402_300_799.0;

/// One conversation of the file.
#[derive(Deserialize)]
struct Conversation {
    conversation_id: Option<String>,
    id: Option<String>,
    title: Option<String>,
    create_time: Option<f64>,
    mapping: Mapping,
    current_node: Option<String>,
    is_archived: Option<bool>,
    is_starred: Option<bool>,
}

/// The nodes in the order of the file, one that stands twice included.
struct Mapping(Vec<(String, Node)>);

#[derive(Deserialize)]
struct Node {
    message: Option<StrictObject<NodeMessage>>,
    parent: Option<String>,
    #[serde(default)]
    children: Vec<String>,
}

#[derive(Deserialize)]
struct NodeMessage {
    author: StrictObject<Author>,
    create_time: Option<f64>,
    #[serde(default)]
    content: Value,
    status: Option<String>,
    recipient: Option<String>,
    #[serde(default)]
    metadata: Value,
}

#[derive(Deserialize)]
struct Author {
    role: Role,
}

impl<'de> Deserialize<'de> for Mapping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Nodes;

        impl<'de> Visitor<'de> for Nodes {
            type Value = Mapping;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of nodes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Mapping, A::Error> {
                let mut nodes = Vec::new();
                while let Some((id, StrictObject(node))) = map.next_entry()? {
                    nodes.push((id, node));
                }
                Ok(Mapping(nodes))
            }
        }

        deserializer.deserialize_map(Nodes)
    }
}

/// Reads a conversation as a session of our own format. Errors name the field by its place in the
/// conversation.
pub(super) fn record(raw: &RawValue) -> Result<SessionRecord> {
    let conversation: Conversation = json::parse_object(raw.get().as_bytes())
        .map_err(|misread| Error::invalid_field(misread.field, misread.message))?;
    let title = conversation.title.as_deref().map(str::trim);
    let title = title.filter(|title| !title.is_empty() && *title != UNNAMED);
    let created_at = time("create_time", conversation.create_time)?;
    let tree = Tree::of(&conversation.mapping.0)?;
    let (messages, kept) = tree.messages(created_at)?;
    let head_id = match &conversation.current_node {
        None => None,
        Some(id) => match tree.places.get(id.as_str()) {
            Some(index) => kept[*index].clone(),
            None => {
                let wants = format!("must name a node of the mapping, {id} is none");
                return Err(Error::invalid_field("current_node", wants));
            }
        },
    };
    Ok(SessionRecord {
        session_id: conversation.conversation_id.or(conversation.id),
        title: title.map(|title| readable(title).chars().take(MAX_TITLE_CHARS).collect()),
        title_source: title.map(|_| TitleSource::User),
        archived: conversation.is_archived.unwrap_or_default(),
        pinned: conversation.is_starred.unwrap_or_default(),
        created_at,
        head_id,
        messages: messages.into_iter().map(StrictObject).collect(),
        ..SessionRecord::default()
    })
}

/// The nodes with their children, each under the parent that it names.
struct Tree<'a> {
    nodes: &'a [(String, Node)],
    places: HashMap<&'a str, usize>,
    children: Vec<Vec<usize>>,
    roots: Vec<usize>,
}

/// A node to visit, and what the nodes above it left for it.
#[derive(Clone)]
struct Visit {
    node: usize,
    /// The message above it.
    under: Option<String>,
    /// What the model thought before the reply that is still to come.
    thoughts: String,
    /// When the message above it was written.
    time: Option<Timestamp>,
}

impl<'a> Tree<'a> {
    fn of(nodes: &'a [(String, Node)]) -> Result<Self> {
        let mut places = HashMap::with_capacity(nodes.len());
        for (index, (id, _)) in nodes.iter().enumerate() {
            if places.insert(id.as_str(), index).is_some() {
                return Err(Error::invalid_field(format!("mapping.{id}"), "must not stand twice"));
            }
        }
        let mut children = vec![Vec::new(); nodes.len()];
        let mut roots = Vec::new();
        for (index, (id, node)) in nodes.iter().enumerate() {
            match node.parent.as_deref().filter(|parent| !parent.is_empty()) {
                None => roots.push(index),
                Some(parent) => match places.get(parent) {
                    Some(place) => children[*place].push(index),
                    None => {
                        let wants = format!("must name a node of the mapping, {parent} is none");
                        return Err(Error::invalid_field(format!("mapping.{id}.parent"), wants));
                    }
                },
            }
        }
        // The parent decides who its child is, its list of children in which order.
        for (own, (_, node)) in children.iter_mut().zip(nodes) {
            let rank: HashMap<&str, usize> =
                node.children.iter().enumerate().map(|(rank, id)| (id.as_str(), rank)).collect();
            let rank = |child: &usize| rank.get(nodes[*child].0.as_str()).copied();
            own.sort_by_key(|child| rank(child).unwrap_or(usize::MAX));
        }
        Ok(Self { nodes, places, children, roots })
    }

    /// The messages, parents before children, and for each node the message that it became or that
    /// stands above it. Goes down each branch before the next, without recursion: a conversation
    /// may be deep.
    fn messages(
        &self,
        begun: Option<Timestamp>,
    ) -> Result<(Vec<MessageRecord>, Vec<Option<String>>)> {
        let mut messages = Vec::new();
        let mut kept = vec![None; self.nodes.len()];
        let mut is_reached = vec![false; self.nodes.len()];
        let visit =
            |node: &usize| Visit { node: *node, under: None, thoughts: String::new(), time: begun };
        let mut waiting: Vec<Visit> = self.roots.iter().rev().map(visit).collect();
        while let Some(mut visit) = waiting.pop() {
            let index = visit.node;
            is_reached[index] = true;
            messages.extend(self.message(&mut visit)?);
            kept[index].clone_from(&visit.under);
            let below = self.children[index].iter().rev();
            waiting.extend(below.map(|child| Visit { node: *child, ..visit.clone() }));
        }
        match is_reached.iter().position(|reached| !reached) {
            None => Ok((messages, kept)),
            Some(lost) => {
                let field = format!("mapping.{}.parent", self.nodes[self.turning(lost)].0);
                Err(Error::invalid_field(field, "must lead to a root, not round in a circle"))
            }
        }
    }

    /// A node of the circle that stands above a node without a root.
    fn turning(&self, lost: usize) -> usize {
        let up = |index: usize| {
            let parent = self.nodes[index].1.parent.as_deref();
            parent.and_then(|parent| self.places.get(parent)).copied().unwrap_or(index)
        };
        // After as many steps as there are nodes the way up has come into the circle.
        (0..self.nodes.len()).fold(lost, |index, _| up(index))
    }

    /// The message of a node, if ChatGPT shows one; `visit` becomes what is left to those below.
    fn message(&self, visit: &mut Visit) -> Result<Option<MessageRecord>> {
        let (id, node) = &self.nodes[visit.node];
        let Some(StrictObject(message)) = &node.message else { return Ok(None) };
        let place = format!("mapping.{id}.message");
        let time =
            time("create_time", message.create_time).map_err(|error| error.within(&place))?;
        visit.time = time.or(visit.time);
        let role = message.author.0.role;
        let is_call = role == Role::Assistant
            && message.recipient.as_deref().is_some_and(|recipient| recipient != "all");
        let content = match said(role, is_call, &message.content, &message.metadata) {
            Said::Nothing => return Ok(None),
            Said::Thought(thought) => {
                if !visit.thoughts.is_empty() {
                    visit.thoughts.push_str("\n\n");
                }
                visit.thoughts.push_str(&readable(&thought));
                return Ok(None);
            }
            Said::Text(text) => readable(&text),
        };
        let is_reply = role == Role::Assistant;
        let thoughts = if is_reply { std::mem::take(&mut visit.thoughts) } else { String::new() };
        let parts = (!thoughts.is_empty())
            .then(|| to_raw_value(&[MessagePart::Reasoning { text: thoughts }]))
            .transpose()
            .map_err(Error::internal)?;
        let id = message_id(id);
        let parent_id = visit.under.replace(id.clone());
        Ok(Some(MessageRecord {
            id: Some(id),
            role,
            sender_id: None,
            content,
            kind: MessageType::Text,
            parts,
            parent_id: Some(parent_id),
            created_at: visit.time,
            client_message_id: None,
            status: status(message),
            model: is_reply.then(|| text_at(&message.metadata, "/model_slug")).flatten(),
            finish_reason: finish_reason(message).filter(|_| is_reply),
            error: None,
            usage: None,
            place: Some(place),
        }))
    }
}

/// ChatGPT's ids fit ours; one that does not becomes another one, the same each time.
fn message_id(id: &str) -> String {
    match MessageId::parse("id", id) {
        Ok(_) => id.to_owned(),
        Err(_) => Sha256::digest(id).iter().take(16).map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn status(message: &NodeMessage) -> Status {
    let was_cut =
        matches!(message.status.as_deref(), Some("in_progress" | "finished_partial_completion"))
            || text_at(&message.metadata, "/finish_details/type").as_deref() == Some("interrupted");
    if was_cut { Status::Interrupted } else { Status::Complete }
}

fn finish_reason(message: &NodeMessage) -> Option<FinishReason> {
    match text_at(&message.metadata, "/finish_details/type")?.as_str() {
        "stop" => Some(FinishReason::Stop),
        "max_tokens" => Some(FinishReason::Length),
        _ => None,
    }
}

fn text_at(value: &Value, pointer: &str) -> Option<String> {
    Some(readable(value.pointer(pointer)?.as_str()?))
}

/// No store keeps NUL; outputs of programs hold it.
fn readable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A time as seconds since 1970 with a fraction.
fn time(field: &'static str, seconds: Option<f64>) -> Result<Option<Timestamp>> {
    let Some(seconds) = seconds else { return Ok(None) };
    if !(0.0..=MAX_SECONDS).contains(&seconds) {
        return Err(Error::invalid_field(
            field,
            "must be seconds since 1970, before the year 10000",
        ));
    }
    #[allow(clippy::cast_possible_truncation, reason = "the range was checked")]
    Ok(Some(Timestamp::from_millis((seconds * 1000.0).round() as i64)))
}
