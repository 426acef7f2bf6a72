//! ChatGPT's `conversations.json`: each conversation a tree of nodes, made a session with its
//! branches. OpenAI documents the format nowhere; what is read here is what its exports of 2023 to
//! 2026 hold. Ids are kept, so importing again adds only what is new.
//!
//! Nodes that ChatGPT does not show (empty or hidden ones) are left out, and what stood under them
//! stands under the next one above. Pictures and files lie beside the file in ChatGPT's archive:
//! their names are kept, in brackets.

use super::chatgpt_content::{ChatGptContent, convert_content};
use super::session_record::{MessageRecord, SessionRecord};
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
const CHATGPT_DEFAULT_TITLE: &str = "New chat";
/// The last second of the year 9999.
const MAX_SECONDS: f64 = 253_402_300_799.0;

/// One conversation of the file.
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

/// The nodes in the order of the file, one that stands twice included.
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

/// Reads a conversation as a session of our own format. Errors name the field by its place in the
/// conversation.
pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let conversation: ChatGptConversation = json::parse_object(raw.get().as_bytes())
        .map_err(|misread| Error::invalid_field(misread.field, misread.message))?;
    let title = conversation.title.as_deref().map(str::trim);
    let title = title.filter(|title| !title.is_empty() && *title != CHATGPT_DEFAULT_TITLE);
    let created_at = parse_time("create_time", conversation.create_time)?;
    let tree = ConversationTree::build_tree(&conversation.mapping.0)?;
    let (messages, kept) = tree.collect_messages(created_at)?;
    let head_id = match &conversation.current_node {
        None => None,
        Some(id) => match tree.indexes.get(id.as_str()) {
            Some(index) => kept[*index].clone(),
            None => {
                let wants = format!("must name a node of the mapping, {id} is none");
                return Err(Error::invalid_field("current_node", wants));
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

/// The nodes with their children, each under the parent that it names.
struct ConversationTree<'a> {
    nodes: &'a [(String, ChatGptNode)],
    indexes: HashMap<&'a str, usize>,
    children: Vec<Vec<usize>>,
    roots: Vec<usize>,
}

/// A node to visit, and what the nodes above it left for it.
#[derive(Clone)]
struct NodeVisit {
    node: usize,
    /// The message above it.
    parent_id: Option<String>,
    /// What the model thought before the reply that is still to come.
    reasoning: String,
    /// When the message above it was written.
    time: Option<Timestamp>,
}

impl<'a> ConversationTree<'a> {
    fn build_tree(nodes: &'a [(String, ChatGptNode)]) -> Result<Self> {
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
        Ok(Self { nodes, indexes: places, children, roots })
    }

    /// The messages, parents before children, and for each node the message that it became or that
    /// stands above it. Goes down each branch before the next, without recursion: a conversation
    /// may be deep.
    fn collect_messages(
        &self,
        begun: Option<Timestamp>,
    ) -> Result<(Vec<MessageRecord>, Vec<Option<String>>)> {
        let mut messages = Vec::new();
        let mut kept = vec![None; self.nodes.len()];
        let mut is_reached = vec![false; self.nodes.len()];
        let visit = |node: &usize| NodeVisit {
            node: *node,
            parent_id: None,
            reasoning: String::new(),
            time: begun,
        };
        let mut waiting: Vec<NodeVisit> = self.roots.iter().rev().map(visit).collect();
        while let Some(mut visit) = waiting.pop() {
            let index = visit.node;
            is_reached[index] = true;
            messages.extend(self.convert_message(&mut visit)?);
            kept[index].clone_from(&visit.parent_id);
            let below = self.children[index].iter().rev();
            waiting.extend(below.map(|child| NodeVisit { node: *child, ..visit.clone() }));
        }
        match is_reached.iter().position(|reached| !reached) {
            None => Ok((messages, kept)),
            Some(lost) => {
                let field = format!("mapping.{}.parent", self.nodes[self.find_cycle_node(lost)].0);
                Err(Error::invalid_field(field, "must lead to a root, not round in a circle"))
            }
        }
    }

    /// A node of the circle that stands above a node without a root.
    fn find_cycle_node(&self, lost: usize) -> usize {
        let up = |index: usize| {
            let parent = self.nodes[index].1.parent.as_deref();
            parent.and_then(|parent| self.indexes.get(parent)).copied().unwrap_or(index)
        };
        // After as many steps as there are nodes the way up has come into the circle.
        (0..self.nodes.len()).fold(lost, |index, _| up(index))
    }

    /// The message of a node, if ChatGPT shows one; `visit` becomes what is left to those below.
    fn convert_message(&self, visit: &mut NodeVisit) -> Result<Option<MessageRecord>> {
        let (id, node) = &self.nodes[visit.node];
        let Some(StrictObject(message)) = &node.message else { return Ok(None) };
        let place = format!("mapping.{id}.message");
        let time =
            parse_time("create_time", message.create_time).map_err(|error| error.within(&place))?;
        visit.time = time.or(visit.time);
        let role = message.author.0.role;
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
        let thoughts = if is_reply { std::mem::take(&mut visit.reasoning) } else { String::new() };
        let parts = (!thoughts.is_empty())
            .then(|| to_raw_value(&[MessagePart::Reasoning { text: thoughts }]))
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

/// ChatGPT's ids fit ours; one that does not becomes another one, the same each time.
fn convert_message_id(id: &str) -> String {
    match MessageId::parse("id", id) {
        Ok(_) => id.to_owned(),
        Err(_) => Sha256::digest(id).iter().take(16).map(|byte| format!("{byte:02x}")).collect(),
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

/// No store keeps NUL; outputs of programs hold it.
fn replace_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A time as seconds since 1970 with a fraction.
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
