//! Reads ChatGPT's `conversations.json`. Each conversation is a tree of nodes and becomes a session
//! with branches. OpenAI does not document the format; this follows the exports of 2023 to 2026.
//! Ids are kept, so a later import adds only what is new.
//!
//! Nodes that ChatGPT does not display (empty or hidden ones) are dropped, and their children move
//! to the next node above. Images and files are stored next to the file in ChatGPT's archive; only
//! their names are imported, in brackets.

use super::chatgpt_content::{ChatGptContent, convert_content};
use super::session_record::{MessageRecord, SessionRecord, to_hex_id};
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

/// ChatGPT's title of a conversation without a name.
const CHATGPT_DEFAULT_TITLE: &str = "New chat";
/// The last second of the year 9999.
const MAX_SECONDS: f64 = 253_402_300_799.0;

/// A conversation of the file.
#[derive(Deserialize)]
struct ChatGptConversation {
    conversation_id: Option<String>,
    id: Option<String>,
    title: Option<String>,
    create_time: Option<f64>,
    mapping: ChatGptMapping,
    current_node: Option<String>,
    is_archived: Option<bool>,
    is_starred: Option<bool>,
}

/// The nodes in file order, including duplicates, which a map would hide.
struct ChatGptMapping(Vec<(String, ChatGptNode)>);

#[derive(Deserialize)]
struct ChatGptNode {
    message: Option<StrictObject<ChatGptMessage>>,
    parent: Option<String>,
    #[serde(default)]
    children: Vec<String>,
}

#[derive(Deserialize)]
struct ChatGptMessage {
    author: StrictObject<ChatGptAuthor>,
    create_time: Option<f64>,
    #[serde(default)]
    content: Value,
    status: Option<String>,
    recipient: Option<String>,
    #[serde(default)]
    metadata: Value,
}

#[derive(Deserialize)]
struct ChatGptAuthor {
    role: Role,
}

impl<'de> Deserialize<'de> for ChatGptMapping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MappingVisitor;

        impl<'de> Visitor<'de> for MappingVisitor {
            type Value = ChatGptMapping;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of nodes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ChatGptMapping, A::Error> {
                let mut nodes = Vec::new();
                while let Some((id, StrictObject(node))) = map.next_entry()? {
                    nodes.push((id, node));
                }
                Ok(ChatGptMapping(nodes))
            }
        }

        deserializer.deserialize_map(MappingVisitor)
    }
}

/// Converts a conversation to a session record. Errors name the field by its path in the
/// conversation.
pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let conversation: ChatGptConversation = json::parse_object(raw.get().as_bytes())
        .map_err(|error| Error::invalid_field(error.field, error.message))?;
    let title = conversation.title.as_deref().map(str::trim);
    // Without a real title the first message gives one, as for any session.
    let title = title.filter(|title| !title.is_empty() && *title != CHATGPT_DEFAULT_TITLE);
    let created_at = parse_time("create_time", conversation.create_time)?;
    let tree = ConversationTree::build_tree(&conversation.mapping.0)?;
    let (messages, closest_messages) = tree.collect_messages(created_at)?;
    let head_id = match &conversation.current_node {
        None => None,
        Some(id) => match tree.indexes.get(id.as_str()) {
            Some(index) => closest_messages[*index].clone(),
            None => {
                let problem = format!("must name a node of the mapping; {id} is not one");
                return Err(Error::invalid_field("current_node", problem));
            }
        },
    };
    Ok(SessionRecord {
        session_id: conversation.conversation_id.or(conversation.id),
        title: title.map(|title| replace_nul(title).chars().take(MAX_TITLE_CHARS).collect()),
        title_source: title.map(|_| TitleSource::User),
        archived: conversation.is_archived.unwrap_or_default(),
        pinned: conversation.is_starred.unwrap_or_default(),
        created_at,
        head_id,
        messages: messages.into_iter().map(StrictObject).collect(),
        ..SessionRecord::default()
    })
}

/// The nodes and their children, as given by each node's `parent`.
struct ConversationTree<'a> {
    nodes: &'a [(String, ChatGptNode)],
    indexes: HashMap<&'a str, usize>,
    children: Vec<Vec<usize>>,
    roots: Vec<usize>,
}

/// A node to visit, with what its ancestors pass down.
#[derive(Clone)]
struct NodeVisit {
    node: usize,
    /// The closest message above the node.
    parent_id: Option<String>,
    /// Reasoning collected for the next reply.
    reasoning: String,
    /// The time of the closest message above the node.
    time: Option<Timestamp>,
}

impl<'a> ConversationTree<'a> {
    fn build_tree(nodes: &'a [(String, ChatGptNode)]) -> Result<Self> {
        let mut indexes = HashMap::with_capacity(nodes.len());
        for (index, (id, _)) in nodes.iter().enumerate() {
            if indexes.insert(id.as_str(), index).is_some() {
                return Err(Error::invalid_field(format!("mapping.{id}"), "must be unique"));
            }
        }
        let mut children = vec![Vec::new(); nodes.len()];
        let mut roots = Vec::new();
        for (index, (id, node)) in nodes.iter().enumerate() {
            match node.parent.as_deref().filter(|parent| !parent.is_empty()) {
                None => roots.push(index),
                Some(parent) => match indexes.get(parent) {
                    Some(parent) => children[*parent].push(index),
                    None => {
                        let problem =
                            format!("must name a node of the mapping; {parent} is not one");
                        return Err(Error::invalid_field(format!("mapping.{id}.parent"), problem));
                    }
                },
            }
        }
        // `parent` decides which node a child belongs to; `children` only gives the order.
        for (siblings, (_, node)) in children.iter_mut().zip(nodes) {
            let rank: HashMap<&str, usize> =
                node.children.iter().enumerate().map(|(rank, id)| (id.as_str(), rank)).collect();
            let rank = |child: &usize| rank.get(nodes[*child].0.as_str()).copied();
            siblings.sort_by_key(|child| rank(child).unwrap_or(usize::MAX));
        }
        Ok(Self { nodes, indexes, children, roots })
    }

    /// Converts the nodes to messages, parents before children. Also returns, for each node, the
    /// message it became or else the closest one above it. Visits depth-first with an explicit
    /// stack, since a conversation can be deep enough to overflow the call stack.
    fn collect_messages(
        &self,
        started_at: Option<Timestamp>,
    ) -> Result<(Vec<MessageRecord>, Vec<Option<String>>)> {
        let mut messages = Vec::new();
        let mut closest_messages = vec![None; self.nodes.len()];
        let mut is_reached = vec![false; self.nodes.len()];
        let visit = |node: &usize| NodeVisit {
            node: *node,
            parent_id: None,
            reasoning: String::new(),
            time: started_at,
        };
        // Reversed, because the last node pushed is visited first.
        let mut stack: Vec<NodeVisit> = self.roots.iter().rev().map(visit).collect();
        while let Some(mut visit) = stack.pop() {
            let index = visit.node;
            is_reached[index] = true;
            messages.extend(self.convert_message(&mut visit)?);
            closest_messages[index].clone_from(&visit.parent_id);
            let children = self.children[index].iter().rev();
            stack.extend(children.map(|child| NodeVisit { node: *child, ..visit.clone() }));
        }
        match is_reached.iter().position(|reached| !reached) {
            None => Ok((messages, closest_messages)),
            // Every node has a known parent, so a node without a path to a root is below a cycle.
            Some(lost) => {
                let field = format!("mapping.{}.parent", self.nodes[self.find_cycle_node(lost)].0);
                Err(Error::invalid_field(field, "must lead to a root, not into a cycle"))
            }
        }
    }

    /// A node of the cycle above `lost`, a node that no root leads to.
    fn find_cycle_node(&self, lost: usize) -> usize {
        let up = |index: usize| {
            let parent = self.nodes[index].1.parent.as_deref();
            parent.and_then(|parent| self.indexes.get(parent)).copied().unwrap_or(index)
        };
        // After as many steps up as there are nodes, the walk is certain to be inside the cycle.
        (0..self.nodes.len()).fold(lost, |index, _| up(index))
    }

    /// Converts a node to a message, if ChatGPT displays one, and updates `visit` for its children.
    fn convert_message(&self, visit: &mut NodeVisit) -> Result<Option<MessageRecord>> {
        let (id, node) = &self.nodes[visit.node];
        let Some(StrictObject(message)) = &node.message else { return Ok(None) };
        let place = format!("mapping.{id}.message");
        let time =
            parse_time("create_time", message.create_time).map_err(|error| error.within(&place))?;
        // Some nodes have no time. Their parent's keeps the order.
        visit.time = time.or(visit.time);
        let role = message.author.0.role;
        // A message to a tool (`python`, `browser`, …) rather than to the user.
        let is_call = role == Role::Assistant
            && message.recipient.as_deref().is_some_and(|recipient| recipient != "all");
        let content = match convert_content(role, is_call, &message.content, &message.metadata) {
            ChatGptContent::Hidden => return Ok(None),
            ChatGptContent::Reasoning(thought) => {
                if !visit.reasoning.is_empty() {
                    visit.reasoning.push_str("\n\n");
                }
                visit.reasoning.push_str(&replace_nul(&thought));
                return Ok(None);
            }
            ChatGptContent::Text(text) => replace_nul(&text),
        };
        let is_reply = role == Role::Assistant;
        let reasoning = if is_reply { std::mem::take(&mut visit.reasoning) } else { String::new() };
        let parts = (!reasoning.is_empty())
            .then(|| to_raw_value(&[MessagePart::Reasoning { text: reasoning }]))
            .transpose()
            .map_err(Error::internal)?;
        let id = convert_message_id(id);
        let parent_id = visit.parent_id.replace(id.clone());
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
            status: convert_status(message),
            model: is_reply.then(|| find_text(&message.metadata, "/model_slug")).flatten(),
            finish_reason: convert_finish_reason(message).filter(|_| is_reply),
            error: None,
            usage: None,
            error_path: Some(place),
        }))
    }
}

/// ChatGPT's ids are valid ids here. Any other id is replaced by a hash, so that it is the same in
/// the next import.
fn convert_message_id(id: &str) -> String {
    match MessageId::parse("id", id) {
        Ok(_) => id.to_owned(),
        Err(_) => to_hex_id(Sha256::new_with_prefix(id)),
    }
}

fn convert_status(message: &ChatGptMessage) -> Status {
    let was_cut =
        matches!(message.status.as_deref(), Some("in_progress" | "finished_partial_completion"))
            || find_text(&message.metadata, "/finish_details/type").as_deref()
                == Some("interrupted");
    if was_cut { Status::Interrupted } else { Status::Complete }
}

fn convert_finish_reason(message: &ChatGptMessage) -> Option<FinishReason> {
    match find_text(&message.metadata, "/finish_details/type")?.as_str() {
        "stop" => Some(FinishReason::Stop),
        "max_tokens" => Some(FinishReason::Length),
        _ => None,
    }
}

fn find_text(value: &Value, pointer: &str) -> Option<String> {
    Some(replace_nul(value.pointer(pointer)?.as_str()?))
}

/// Replaces NUL, which program output can contain and stores cannot keep.
fn replace_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Parses a time in seconds since 1970, with a fraction.
fn parse_time(field: &'static str, seconds: Option<f64>) -> Result<Option<Timestamp>> {
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
