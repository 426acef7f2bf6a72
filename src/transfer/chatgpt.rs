//! Reads ChatGPT's `conversations.json`. Each conversation is a tree of nodes and becomes a session
//! with branches. OpenAI does not document the format; this follows the exports of 2023 to 2026.
//! Ids are kept, so a later import adds only what is new.
//!
//! Each node with content becomes a message, unless it is marked as hidden. The children of other
//! nodes move to the next message above. Images and files are stored next to the file in ChatGPT's
//! archive; only their names are imported, in brackets. An invalid value is replaced and noted.

use super::chatgpt_content::{ChatGptContent, convert_content};
use super::external_values::{has_many_values, read_short_text};
use super::import_notes::ImportNotes;
use super::lenient_values::{
    TimeForm, convert_id, derive_unique_id, join_place, parse_role, read_id, read_time,
};
use super::session_record::{MessageRecord, SessionRecord};
use crate::domain::message::{FinishReason, MessagePart};
use crate::domain::title::TitleSource;
use crate::domain::{Role, Status, Timestamp};
use crate::error::{Error, Result};
use crate::json::StrictObject;
use crate::json::lenient::RawObject;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::HashMap;

/// ChatGPT's title of a conversation without a name.
const CHATGPT_DEFAULT_TITLE: &str = "New chat";

/// Converts a conversation to a session record. Fails only if it has no nodes to read.
pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let conversation = RawObject::from_value(raw);
    let mapping = conversation.get("mapping").filter(|mapping| mapping.get().starts_with('{'));
    let Some(mapping) = mapping else {
        return Err(Error::invalid_field("mapping", "must be an object of nodes"));
    };
    let mut left_out = ImportNotes::default();
    let mut mended = ImportNotes::default();
    let created_at = read_time(&conversation, "create_time", TimeForm::Seconds, "", &mut mended);
    let nodes = parse_nodes(&RawObject::from_value(mapping), &mut left_out, &mut mended);
    let mut tree = ConversationTree::build_tree(&nodes, &mut mended);
    let order = tree.order_nodes(&mut mended);
    let mut converter = NodeConverter {
        tree: &tree,
        messages: Vec::with_capacity(nodes.len()),
        closest_messages: vec![None; nodes.len()],
        times: vec![created_at; nodes.len()],
        left_out,
        mended,
    };
    order.into_iter().for_each(|index| converter.convert_node(index));
    let head_id = converter.find_head(&conversation);
    let title = read_short_text(&conversation, "title", &mut converter.left_out);
    // Without a real title the first message gives one, as for any session.
    let title = title.filter(|title| title.trim() != CHATGPT_DEFAULT_TITLE);
    let flag = |field: &str| conversation.get(field).is_some_and(|flag| flag.get() == "true");
    Ok(SessionRecord {
        session_id: conversation
            .get("conversation_id")
            .and_then(read_id)
            .or_else(|| conversation.get("id").and_then(read_id)),
        title_source: title.as_ref().map(|_| TitleSource::User),
        title,
        archived: flag("is_archived"),
        pinned: flag("is_starred"),
        created_at,
        head_id,
        messages: converter.messages.into_iter().map(StrictObject).collect(),
        left_out: converter.left_out,
        mended: converter.mended,
        ..SessionRecord::default()
    })
}

/// A node of the mapping.
struct ChatGptNode<'a> {
    id: String,
    parent: Option<String>,
    children: Vec<String>,
    message: Option<RawObject<'a>>,
}

/// The nodes in file order. A node with the id of an earlier one gets an id of its own.
fn parse_nodes<'a>(
    mapping: &RawObject<'a>,
    left_out: &mut ImportNotes,
    mended: &mut ImportNotes,
) -> Vec<ChatGptNode<'a>> {
    let mut seen: HashMap<&str, (usize, &RawValue)> = HashMap::new();
    let mut nodes = Vec::new();
    for (name, value) in mapping.fields() {
        let place = format!("mapping.{name}");
        let mut id = name.to_owned();
        match seen.get_mut(name) {
            None => drop(seen.insert(name, (1, value))),
            Some((occurrences, first)) => {
                mended.add("id", &place);
                if first.get() == value.get() {
                    continue;
                }
                *occurrences += 1;
                id = derive_unique_id(name, *occurrences);
            }
        }
        if !value.get().starts_with('{') {
            left_out.add("node", &place);
        }
        let node = RawObject::from_value(value);
        let message = node.get("message");
        let message = match message {
            Some(message) if !message.get().starts_with('{') => {
                left_out.add("message", &join_place(&place, "message"));
                None
            }
            message => message.map(RawObject::from_value),
        };
        nodes.push(ChatGptNode {
            id,
            parent: node.get("parent").and_then(read_id),
            children: node.list("children").into_iter().filter_map(read_id).collect(),
            message,
        });
    }
    nodes
}

/// The nodes and their children, as given by each node's `parent`.
struct ConversationTree<'a> {
    nodes: &'a [ChatGptNode<'a>],
    indexes: HashMap<&'a str, usize>,
    parents: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
}

impl<'a> ConversationTree<'a> {
    fn build_tree(nodes: &'a [ChatGptNode<'a>], mended: &mut ImportNotes) -> Self {
        let indexes: HashMap<&str, usize> =
            nodes.iter().enumerate().map(|(index, node)| (node.id.as_str(), index)).collect();
        let mut named_parents: HashMap<&str, usize> = HashMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for child in &node.children {
                named_parents.entry(child).or_insert(index);
            }
        }
        let mut children = vec![Vec::new(); nodes.len()];
        let mut parents = vec![None; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            let named = node.parent.as_deref().and_then(|parent| indexes.get(parent)).copied();
            // A node without a known parent belongs to the node that lists it, if there is one.
            let parent = named.or_else(|| named_parents.get(node.id.as_str()).copied());
            let parent = parent.filter(|parent| *parent != index);
            if named.is_none() && (node.parent.is_some() || parent.is_some())
                || named == Some(index)
            {
                mended.add("parent", &format!("mapping.{}.parent", node.id));
            }
            parents[index] = parent;
            if let Some(parent) = parent {
                children[parent].push(index);
            }
        }
        // `parent` decides which node a child belongs to; `children` only gives the order.
        for (siblings, node) in children.iter_mut().zip(nodes) {
            let rank: HashMap<&str, usize> =
                node.children.iter().enumerate().map(|(rank, id)| (id.as_str(), rank)).collect();
            let rank = |child: &usize| rank.get(nodes[*child].id.as_str()).copied();
            siblings.sort_by_key(|child| rank(child).unwrap_or(usize::MAX));
        }
        Self { nodes, indexes, parents, children }
    }

    /// All nodes, parents before children. Each cycle is broken above its first node in file order.
    fn order_nodes(&mut self, mended: &mut ImportNotes) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut is_reached = vec![false; self.nodes.len()];
        for root in 0..self.nodes.len() {
            if self.parents[root].is_none() {
                self.visit_below(root, &mut order, &mut is_reached);
            }
        }
        // The nodes left are those in cycles and below them.
        let mut is_visited = vec![false; self.nodes.len()];
        for index in 0..self.nodes.len() {
            if is_reached[index] {
                continue;
            }
            let root = self.find_cycle_start(index, &mut is_visited);
            mended.add("parent", &format!("mapping.{}.parent", self.nodes[root].id));
            if let Some(parent) = self.parents[root].take() {
                self.children[parent].retain(|child| *child != root);
            }
            self.visit_below(root, &mut order, &mut is_reached);
        }
        order
    }

    /// Visits depth-first with an explicit stack, since a conversation can be deep enough to
    /// overflow the call stack.
    fn visit_below(&self, root: usize, order: &mut Vec<usize>, is_reached: &mut [bool]) {
        let mut stack = vec![root];
        while let Some(index) = stack.pop() {
            is_reached[index] = true;
            order.push(index);
            // Reversed, because the last node pushed is visited first.
            stack.extend(self.children[index].iter().rev());
        }
    }

    /// The first node in file order of the cycle above `lost`, a node that no root leads to.
    /// `is_visited` marks the nodes of earlier walks. This one meets none of them: breaking a cycle
    /// reaches all nodes below it.
    fn find_cycle_start(&self, lost: usize, is_visited: &mut [bool]) -> usize {
        let up = |index: usize| self.parents[index].unwrap_or(index);
        let mut inside = lost;
        while !std::mem::replace(&mut is_visited[inside], true) {
            inside = up(inside);
        }
        let mut first = inside;
        let mut index = up(inside);
        while index != inside {
            first = first.min(index);
            index = up(index);
        }
        first
    }
}

/// Converts nodes to messages, parents before children.
struct NodeConverter<'a> {
    tree: &'a ConversationTree<'a>,
    messages: Vec<MessageRecord>,
    /// For each node the message it became, or else the closest one above it.
    closest_messages: Vec<Option<String>>,
    /// For each node its time, or else that of the closest node above it.
    times: Vec<Option<Timestamp>>,
    left_out: ImportNotes,
    mended: ImportNotes,
}

impl NodeConverter<'_> {
    fn convert_node(&mut self, index: usize) {
        let node = &self.tree.nodes[index];
        if let Some(parent) = self.tree.parents[index] {
            self.closest_messages[index] = self.closest_messages[parent].clone();
            self.times[index] = self.times[parent];
        }
        let Some(message) = &node.message else { return };
        let place = format!("mapping.{}.message", node.id);
        // Some nodes have no time. Their parent's keeps the order.
        let form = TimeForm::Seconds;
        let time = read_time(message, "create_time", form, &place, &mut self.mended);
        self.times[index] = time.or(self.times[index]);
        if let Some(record) = self.convert_message(index, message, place) {
            self.closest_messages[index].clone_from(&record.id);
            self.messages.push(record);
        }
    }

    /// Converts a message, if there is something in it to keep.
    fn convert_message(
        &mut self,
        index: usize,
        message: &RawObject<'_>,
        place: String,
    ) -> Option<MessageRecord> {
        let read = |field: &str| -> Value {
            message
                .get(field)
                .filter(|raw| !has_many_values(raw.get()))
                .and_then(|raw| serde_json::from_str(raw.get()).ok())
                .unwrap_or_default()
        };
        let (role, role_mark) = self.read_role(message, &place);
        // A message to a tool (`python`, `browser`, …) rather than to the user.
        let recipient = message.text("recipient");
        let is_call =
            role == Role::Assistant && recipient.is_some_and(|recipient| recipient != "all");
        let metadata = read("metadata");
        let mut parts = None;
        let content = match convert_content(is_call, &read("content"), &metadata) {
            ChatGptContent::Hidden => return None,
            ChatGptContent::LeftOut { kind } => {
                self.left_out.add(&kind, &place);
                return None;
            }
            ChatGptContent::Reasoning(text) if role == Role::Assistant => {
                parts = to_raw_value(&[MessagePart::Reasoning { text }]).ok();
                String::new()
            }
            ChatGptContent::Reasoning(text) => text,
            ChatGptContent::Text { text, lost_marks } => {
                lost_marks.iter().for_each(|kind| self.left_out.add(kind, &place));
                text
            }
        };
        let is_reply = role == Role::Assistant;
        let id = convert_id(&self.tree.nodes[index].id);
        Some(MessageRecord {
            id: Some(id),
            content: format!("{role_mark}{content}"),
            parts,
            parent_id: Some(self.closest_messages[index].clone()),
            created_at: self.times[index],
            status: convert_status(message, &metadata),
            model: is_reply.then(|| find_text(&metadata, "/model_slug")).flatten(),
            finish_reason: convert_finish_reason(&metadata).filter(|_| is_reply),
            error_path: Some(place),
            ..MessageRecord::from_role(role)
        })
    }

    /// The role of a message. An unknown one becomes a tool, with its name in brackets before the
    /// text.
    fn read_role(&mut self, message: &RawObject<'_>, place: &str) -> (Role, String) {
        let name = message.object("author").text("role").or_else(|| message.text("author"));
        let name = name.unwrap_or_default();
        let role = parse_role(&name);
        if role.is_none_or(|role| role.as_str() != name) {
            self.mended.add("role", &join_place(place, "author.role"));
        }
        match role {
            Some(role) => (role, String::new()),
            None if name.is_empty() => (Role::Tool, String::new()),
            None => (Role::Tool, format!("[{name}]\n\n")),
        }
    }

    /// The message of the current node; of the newest leaf, if the file names no node.
    fn find_head(&mut self, conversation: &RawObject<'_>) -> Option<String> {
        let named = conversation.get("current_node");
        let id = named.and_then(read_id);
        if let Some(index) = id.and_then(|id| self.tree.indexes.get(id.as_str())) {
            return self.closest_messages[*index].clone();
        }
        if named.is_some() {
            self.mended.add("current_node", "current_node");
        }
        let leaves =
            (0..self.tree.nodes.len()).filter(|index| self.tree.children[*index].is_empty());
        let leaves = leaves.filter(|index| self.closest_messages[*index].is_some());
        let newest = leaves.max_by_key(|index| self.times[*index])?;
        self.closest_messages[newest].clone()
    }
}

fn convert_status(message: &RawObject<'_>, metadata: &Value) -> Status {
    let status = message.text("status");
    let was_cut = matches!(status.as_deref(), Some("in_progress" | "finished_partial_completion"))
        || find_text(metadata, "/finish_details/type").as_deref() == Some("interrupted");
    if was_cut { Status::Interrupted } else { Status::Complete }
}

fn convert_finish_reason(metadata: &Value) -> Option<FinishReason> {
    match find_text(metadata, "/finish_details/type")?.as_str() {
        "stop" => Some(FinishReason::Stop),
        "max_tokens" => Some(FinishReason::Length),
        _ => None,
    }
}

fn find_text(value: &Value, pointer: &str) -> Option<String> {
    Some(value.pointer(pointer)?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes hours if the time to break a cycle grows with the number of nodes.
    #[test]
    fn many_cycles_are_broken_in_linear_time() {
        const PAIRS: usize = 50_000;
        let pair = |number: usize| {
            format!(r#""a{number}":{{"parent":"b{number}"}},"b{number}":{{"parent":"a{number}"}}"#)
        };
        let pairs: Vec<String> = (0..PAIRS).map(pair).collect();
        let json = format!(r#"{{"mapping":{{{}}}}}"#, pairs.join(","));
        let raw = RawValue::from_string(json).unwrap();
        let notes = parse_conversation(&raw).unwrap().mended.into_list();
        assert_eq!((notes[0].kind.as_str(), notes[0].count), ("parent", PAIRS as u64));
    }
}
