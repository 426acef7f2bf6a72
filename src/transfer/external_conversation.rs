//! A conversation of another product, between its own format and a session record. Each format has
//! a file that reads its fields. The rules that they share are here: ids, branches, the head, and
//! how content becomes text and parts.

use super::external_values::fence_text;
use super::import_notes::ImportNotes;
use super::lenient_values::{convert_id, to_hex_id};
use super::session_record::{MessageRecord, SessionRecord};
use crate::domain::message::{MessageError, MessagePart};
use crate::domain::title::TitleSource;
use crate::domain::{Role, Status, Timestamp};
use crate::error::{Error, Result};
use crate::json::StrictObject;
use serde_json::value::to_raw_value;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};

/// Titles that products give to conversations without one, in lower case.
const DEFAULT_TITLES: &[&str] = &["new chat", "new conversation", "untitled", "untitled chat"];

/// More bytes than any of them has.
const MAX_DEFAULT_TITLE_BYTES: usize = 100;

/// Ids that stand for no parent: those of LibreChat and Claude.ai.
const ROOT_IDS: &[&str] =
    &["00000000-0000-0000-0000-000000000000", "00000000-0000-4000-8000-000000000000"];

#[derive(Default)]
pub(super) struct ExternalConversation {
    pub(super) id: Option<String>,
    pub(super) title: Option<String>,
    pub(super) created_at: Option<Timestamp>,
    pub(super) archived: bool,
    pub(super) pinned: bool,
    /// In the order of the file.
    pub(super) messages: Vec<ExternalMessage>,
    /// Id of the message that the product shows last; by default the newest one.
    pub(super) head: Option<String>,
    /// Contents that have no place in these messages.
    pub(super) left_out: ImportNotes,
    /// Values that were not understood.
    pub(super) mended: ImportNotes,
}

pub(super) struct ExternalMessage {
    pub(super) id: Option<String>,
    pub(super) parent: ParentLink,
    pub(super) role: Role,
    pub(super) blocks: Box<[MessageBlock]>,
    pub(super) created_at: Option<Timestamp>,
    pub(super) model: Option<String>,
    /// Whether the reply was stopped or cut off.
    pub(super) is_interrupted: bool,
    /// The error that ended the reply.
    pub(super) error: Option<String>,
    /// Whether it is only a node of the tree, which has no content by design.
    pub(super) is_placeholder: bool,
    /// Path of the message in the file.
    pub(super) path: String,
}

/// The message that another one follows.
pub(super) enum ParentLink {
    /// The preceding one of the file: the format has no branches.
    Previous,
    /// The message of this id. One that the file does not have counts as none.
    Message(String),
    /// The message of this index: the file has it inside of its parent.
    Entry(usize),
    Root,
}

/// A piece of a message's content.
pub(super) enum MessageBlock {
    Text(String),
    Reasoning(String),
    /// A cited web page.
    Source {
        url: String,
        title: Option<String>,
    },
    /// Content that cannot be kept, with the text that stands for it.
    LeftOut {
        kind: String,
        text: String,
    },
}

impl MessageBlock {
    /// Content of a kind that is not understood.
    pub(super) fn left_out(kind: &str) -> Self {
        let kind = if kind.is_empty() { "unknown" } else { kind };
        Self::LeftOut { kind: kind.to_owned(), text: format!("[{kind}]") }
    }

    /// A file or image, with its text if the export has it.
    pub(super) fn file(kind: &str, name: Option<String>, content: &str) -> Self {
        let label = name.map_or_else(|| format!("[{kind}]"), |name| format!("[{kind}: {name}]"));
        match content.trim().is_empty() {
            true => Self::LeftOut { kind: kind.to_owned(), text: label },
            false => Self::Text(format!("{label}\n\n{}", fence_text("", content))),
        }
    }
}

impl ExternalConversation {
    pub(super) fn into_record(mut self) -> Result<SessionRecord> {
        let is_default = |title: &str| {
            let is_short = title.len() <= MAX_DEFAULT_TITLE_BYTES;
            is_short && DEFAULT_TITLES.contains(&title.to_lowercase().as_str())
        };
        let title = self.title.as_deref().map(str::trim);
        let title = title.filter(|title| !title.is_empty() && !is_default(title));
        let title = title.map(replace_nul);
        let session_id = self.id.as_deref().map(convert_id);
        let seed = session_id.as_deref().unwrap_or_default();
        let tree = MessageTree::build(seed, &self.messages, &mut self.mended);
        let mut record = SessionRecord {
            session_id,
            title_source: title.as_ref().map(|_| TitleSource::User),
            title,
            archived: self.archived,
            pinned: self.pinned,
            created_at: self.created_at,
            left_out: self.left_out,
            mended: self.mended,
            ..SessionRecord::default()
        };
        add_messages(&mut record, &tree, self.messages, self.head.as_deref())?;
        Ok(record)
    }
}

/// The ids and parents of messages, by their index in the file.
struct MessageTree {
    ids: Vec<String>,
    parents: Vec<Option<usize>>,
    indexes: HashMap<String, usize>,
}

impl MessageTree {
    /// `seed` distinguishes derived ids of this conversation from those of others.
    fn build(seed: &str, messages: &[ExternalMessage], mended: &mut ImportNotes) -> Self {
        let mut indexes = HashMap::with_capacity(messages.len());
        let mut ids = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let own_id = message.id.as_deref().filter(|id| !id.is_empty());
            let is_new = own_id.is_some_and(|id| match indexes.contains_key(id) {
                true => false,
                false => indexes.insert(id.to_owned(), index).is_none(),
            });
            if own_id.is_some() && !is_new {
                mended.add("id", &message.path);
            }
            ids.push(match own_id.filter(|_| is_new) {
                Some(id) => convert_id(id),
                // Derived from the place, so that it is the same in the next import.
                None => hash_id(&format!("{seed}\0{index}\0{}", own_id.unwrap_or_default())),
            });
        }
        let mut find_parent = |(index, message): (usize, &ExternalMessage)| match &message.parent {
            ParentLink::Previous => index.checked_sub(1),
            ParentLink::Message(id) => {
                let parent = indexes.get(id).copied();
                if parent.is_none() && !id.is_empty() && !ROOT_IDS.contains(&id.as_str()) {
                    mended.add("parent", &message.path);
                }
                parent
            }
            ParentLink::Entry(parent) => Some(*parent),
            ParentLink::Root => None,
        };
        let parents = messages.iter().enumerate().map(&mut find_parent).collect();
        Self { ids, parents, indexes }
    }

    /// All messages in the order of the file, but each after its parent. A cycle is cut at its
    /// first message: that one begins a branch.
    fn order_parents_first(
        &self,
        messages: &[ExternalMessage],
        mended: &mut ImportNotes,
    ) -> Vec<(usize, Option<usize>)> {
        let mut ordered = Vec::with_capacity(self.ids.len());
        let mut is_ordered = vec![false; self.ids.len()];
        for start in 0..self.ids.len() {
            let mut ancestors = Vec::new();
            let mut seen = HashSet::new();
            let mut next = Some(start);
            while let Some(index) = next.filter(|index| !is_ordered[*index]) {
                if !seen.insert(index) {
                    break;
                }
                ancestors.push(index);
                next = self.parents[index];
            }
            for index in ancestors.into_iter().rev() {
                let parent = self.parents[index].filter(|parent| is_ordered[*parent]);
                if parent != self.parents[index] {
                    mended.add("parent", &messages[index].path);
                }
                ordered.push((index, parent));
                is_ordered[index] = true;
            }
        }
        ordered
    }
}

/// Adds the messages that have content, and the head. Children of others move to the closest
/// message above.
fn add_messages(
    record: &mut SessionRecord,
    tree: &MessageTree,
    messages: Vec<ExternalMessage>,
    head: Option<&str>,
) -> Result<()> {
    let started_at = record.created_at;
    let order = tree.order_parents_first(&messages, &mut record.mended);
    let mut messages: Vec<_> = messages.into_iter().map(Some).collect();
    record.messages.reserve_exact(messages.len());
    // The closest message with content at or above each message, with its time.
    let mut closest: Vec<Option<(usize, Option<Timestamp>)>> = vec![None; messages.len()];
    let mut newest: Option<(usize, Option<Timestamp>)> = None;
    for (index, parent) in order {
        let above = parent.and_then(|parent| closest[parent]);
        closest[index] = above;
        let Some(message) = messages[index].take() else { continue };
        let place = MessagePlace {
            id: tree.ids[index].clone(),
            parent_id: above.map(|(above, _)| tree.ids[above].clone()),
            // Messages without a time are as old as their parent, which keeps the order.
            time: message.created_at.or(above.map_or(started_at, |(_, time)| time)),
        };
        let time = place.time;
        let Some(message) = to_message_record(record, message, place)? else { continue };
        record.messages.push(StrictObject(message));
        closest[index] = Some((index, time));
        if newest.is_none_or(|(_, newest)| time >= newest) {
            newest = closest[index];
        }
    }
    if head.is_some_and(|head| !tree.indexes.contains_key(head)) {
        record.mended.add("head", "head");
    }
    let head = head.and_then(|head| closest[*tree.indexes.get(head)?]);
    record.head_id = head.or(newest).map(|(index, _)| tree.ids[index].clone());
    Ok(())
}

/// Id, parent and time of a message in its session.
struct MessagePlace {
    id: String,
    parent_id: Option<String>,
    time: Option<Timestamp>,
}

/// `None` for a message without content.
fn to_message_record(
    record: &mut SessionRecord,
    message: ExternalMessage,
    place: MessagePlace,
) -> Result<Option<MessageRecord>> {
    let is_reply = message.role == Role::Assistant;
    let (content, parts) = convert_blocks(record, message.blocks, is_reply, &message.path);
    let error = message.error.filter(|error| is_reply && !error.trim().is_empty());
    // An empty reply is worth keeping only for its error.
    if content.is_empty() && parts.is_empty() && error.is_none() {
        // Products write empty system prompts.
        if !message.is_placeholder && message.role != Role::System {
            record.left_out.add("blank message", &message.path);
        }
        return Ok(None);
    }
    let parts = (!parts.is_empty()).then(|| to_raw_value(&parts)).transpose();
    let status = match &error {
        Some(_) => Status::Failed,
        None if is_reply && message.is_interrupted => Status::Interrupted,
        None => Status::Complete,
    };
    Ok(Some(MessageRecord {
        id: Some(place.id),
        content,
        parts: parts.map_err(Error::internal)?,
        parent_id: Some(place.parent_id),
        created_at: place.time,
        status,
        model: message.model.filter(|_| is_reply).map(|model| replace_nul(&model)),
        error: error.map(|error| MessageError {
            code: "provider_error".to_owned(),
            message: replace_nul(&error),
        }),
        error_path: Some(message.path),
        ..MessageRecord::from_role(message.role)
    }))
}

/// Text and parts of a message. Only replies have reasoning and sources; elsewhere these are text.
fn convert_blocks(
    record: &mut SessionRecord,
    blocks: Box<[MessageBlock]>,
    is_reply: bool,
    path: &str,
) -> (String, Vec<MessagePart>) {
    let mut texts: Vec<String> = Vec::new();
    let mut parts = Vec::new();
    let mut sources = HashSet::new();
    for block in blocks {
        match block {
            MessageBlock::Text(text) | MessageBlock::Reasoning(text) if text.trim().is_empty() => {}
            MessageBlock::Reasoning(text) if is_reply => {
                parts.push(MessagePart::Reasoning { text: replace_nul(text.trim()) });
            }
            MessageBlock::Text(text) | MessageBlock::Reasoning(text) => {
                let text = replace_nul(text.trim());
                parts.push(MessagePart::Text { text: text.clone() });
                texts.push(text);
            }
            MessageBlock::Source { url, title } if sources.insert(url.clone()) => {
                parts.push(MessagePart::SourceUrl {
                    source_id: format!("source-{}", sources.len()),
                    url: replace_nul(&url),
                    title: title.as_deref().map(replace_nul),
                });
            }
            MessageBlock::Source { .. } => {}
            MessageBlock::LeftOut { kind, text } => {
                record.left_out.add(&kind, path);
                let text = replace_nul(&text);
                parts.push(MessagePart::Text { text: text.clone() });
                texts.push(text);
            }
        }
    }
    drop_needless_texts(&mut parts);
    if !is_reply {
        parts.clear();
    }
    (texts.join("\n\n"), parts)
}

/// Removes the texts from parts if nothing is between them: their order is then the usual one,
/// reasoning before text.
fn drop_needless_texts(parts: &mut Vec<MessagePart>) {
    let is_text = |part: &MessagePart| matches!(part, MessagePart::Text { .. });
    let is_source = |part: &MessagePart| matches!(part, MessagePart::SourceUrl { .. });
    let begin = parts.iter().position(is_text).unwrap_or(parts.len());
    if parts[begin..].iter().all(|part| is_text(part) || is_source(part)) {
        parts.retain(|part| !is_text(part));
    }
}

fn hash_id(text: &str) -> String {
    to_hex_id(Sha256::new_with_prefix(text))
}

/// Replaces NUL, which stores cannot keep.
fn replace_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Each message as `id<parent role: content parts`.
    pub(crate) fn render_messages(record: &SessionRecord) -> Vec<String> {
        let render = |StrictObject(message): &StrictObject<MessageRecord>| {
            let parent = message.parent_id.clone().flatten().unwrap_or_default();
            let id = message.id.as_deref().unwrap_or_default();
            let parts =
                message.parts.as_ref().map_or_else(String::new, |parts| format!(" {parts}"));
            format!("{id}<{parent} {}: {}{parts}", message.role.as_str(), message.content)
        };
        record.messages.iter().map(render).collect()
    }

    /// Each note as `kind count first`.
    pub(crate) fn render_notes(notes: ImportNotes) -> Vec<String> {
        let notes = notes.into_list().into_iter();
        notes.map(|note| format!("{} {} {}", note.kind, note.count, note.first)).collect()
    }

    fn message(id: &str, parent: &str, text: &str) -> ExternalMessage {
        ExternalMessage {
            id: Some(id.to_owned()),
            parent: ParentLink::Message(parent.to_owned()),
            role: Role::User,
            blocks: Box::new([MessageBlock::Text(text.to_owned())]),
            created_at: None,
            model: None,
            is_interrupted: false,
            error: None,
            is_placeholder: false,
            path: format!("messages.{id}"),
        }
    }

    fn convert(messages: Vec<ExternalMessage>, head: Option<&str>) -> SessionRecord {
        let head = head.map(str::to_owned);
        let conversation =
            ExternalConversation { messages, head, ..ExternalConversation::default() };
        conversation.into_record().unwrap()
    }

    #[test]
    fn parents_come_first_and_blank_messages_are_bridged() {
        let record = convert(
            vec![
                message("c", "b", "third"),
                message("b", "a", " "),
                message("a", "absent", "first"),
                message("d", "a", "fork"),
            ],
            Some("b"),
        );
        assert_eq!(
            render_messages(&record),
            ["a< user: first", "c<a user: third", "d<a user: fork"]
        );
        assert_eq!(record.head_id.as_deref(), Some("a"));
        assert_eq!(render_notes(record.left_out), ["blank message 1 messages.b"]);
        assert_eq!(render_notes(record.mended), ["parent 1 messages.a"]);
    }

    #[test]
    fn cycles_and_repeated_ids_lose_no_message() {
        let messages = vec![message("a", "b", "1"), message("b", "a", "2"), message("a", "b", "3")];
        let record = convert(messages, None);
        let lines = render_messages(&record);
        assert_eq!(lines[..2], ["b< user: 2", "a<b user: 1"]);
        assert!(lines[2].ends_with("<b user: 3") && lines.len() == 3, "{lines:?}");
        assert_eq!(record.head_id, record.messages[2].0.id);
        assert_eq!(render_notes(record.mended), ["id 1 messages.a", "parent 1 messages.b"]);
    }

    #[test]
    fn order_of_reasoning_and_text_is_kept_where_it_matters() {
        let reply = |blocks: Vec<MessageBlock>| ExternalMessage {
            role: Role::Assistant,
            blocks: blocks.into(),
            ..message("a", "", "")
        };
        let reasoning = || MessageBlock::Reasoning("r".to_owned());
        let text = |text: &str| MessageBlock::Text(text.to_owned());
        let usual = convert(vec![reply(vec![reasoning(), text("t"), text("u")])], None);
        assert_eq!(
            render_messages(&usual),
            ["a< assistant: t\n\nu [{\"type\":\"reasoning\",\"text\":\"r\"}]"]
        );
        let mixed = convert(vec![reply(vec![text("t"), reasoning(), text("u\0")])], None);
        let parts = r#"[{"type":"text","text":"t"},{"type":"reasoning","text":"r"},{"type":"text","text":"u�"}]"#;
        assert_eq!(render_messages(&mixed), [format!("a< assistant: t\n\nu\u{fffd} {parts}")]);
        // A user has no reasoning.
        let user = ExternalMessage { blocks: Box::new([reasoning()]), ..message("a", "", "") };
        assert_eq!(render_messages(&convert(vec![user], None)), ["a< user: r"]);
    }
}
