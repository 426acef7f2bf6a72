//! Converts the messages of a file for the store: unique ids, parents before children, and contents
//! within the limits. Invalid values are replaced and noted.

use super::import_notes::ImportNotes;
use super::lenient_values::{convert_id, derive_unique_id, join_place};
use super::message_record::{MessageRecord, derive_message_id};
use crate::domain::content::MessageBody;
use crate::domain::message::{MAX_PARTS_BYTES, MessageParts};
use crate::domain::text::truncate_chars;
use crate::domain::{MessageId, Principal, Role, SessionId, Timestamp, UserId};
use crate::json::StrictObject;
use crate::json::lenient::parse_list;
use crate::memory::tokens;
use crate::store::{MessageParent, NewMessage, ReplyFields};
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};

/// Maximum size of a message's text in bytes. The output of models and tools should be
/// importable, but not without limit, so the bound for parts serves for the text as well.
const MAX_TEXT_BYTES: usize = MAX_PARTS_BYTES;
/// Maximum size of a message's text and parts together, in bytes. MongoDB stores documents of up to
/// 16 MiB.
const MAX_MESSAGE_BYTES: usize = 12 << 20;
/// Room for the mark in a text that was cut.
const CUT_MARK_BYTES: usize = 100;
const MAX_MODEL_CHARS: usize = 1000;
const MAX_ERROR_CHARS: usize = 10_000;
/// Size of the pieces in which the tokens of a long text are counted, in bytes.
const MAX_PIECE_BYTES: usize = 256 << 10;

/// Data that all messages of a session share.
pub(super) struct MessageContext<'a> {
    pub(super) principal: &'a Principal,
    pub(super) session: &'a SessionId,
    pub(super) now: Timestamp,
}

/// A message with its valid and unique id, and the entry that it follows.
struct IdentifiedMessage {
    id: String,
    parent: RecordParent,
    record: MessageRecord,
    place: String,
}

enum RecordParent {
    /// The preceding message; for the first one, the head of the session.
    Preceding,
    Root,
    /// A message of the file, by its position.
    Entry(usize),
    /// A message that the session may have already.
    Stored(String),
}

/// Converts the messages, parents before children.
pub(super) fn convert_messages(
    context: &MessageContext<'_>,
    records: Vec<StrictObject<MessageRecord>>,
    left_out: &mut ImportNotes,
    mended: &mut ImportNotes,
) -> Vec<(NewMessage, MessageParent)> {
    let mut entries = identify_messages(context.session, records, mended);
    break_cycles(&mut entries, mended);
    let order = order_messages(&entries);
    let is_reordered = !order.is_sorted();
    let ids: Vec<MessageId> =
        entries.iter().map(|entry| MessageId::new_unchecked(entry.id.as_str())).collect();
    let mut client_ids = HashSet::new();
    let mut slots: Vec<Option<IdentifiedMessage>> = entries.into_iter().map(Some).collect();
    let mut messages = Vec::with_capacity(order.len());
    for index in order {
        let Some(mut entry) = slots[index].take() else { continue };
        let parent = match std::mem::replace(&mut entry.parent, RecordParent::Root) {
            RecordParent::Root => MessageParent::Root,
            RecordParent::Stored(id) => MessageParent::Message(MessageId::new_unchecked(id)),
            RecordParent::Entry(parent) => MessageParent::Message(ids[parent].clone()),
            // In another order, the preceding message is another one.
            RecordParent::Preceding if is_reordered && index > 0 => {
                MessageParent::Message(ids[index - 1].clone())
            }
            RecordParent::Preceding => MessageParent::Head,
        };
        if let Some(id) = &entry.record.client_message_id
            && (MessageId::parse("id", id).is_err() || !client_ids.insert(id.clone()))
        {
            mended.add("clientMessageId", &join_place(&entry.place, "clientMessageId"));
            entry.record.client_message_id = None;
        }
        messages.push((convert_message(context, entry, left_out, mended), parent));
    }
    messages
}

/// Gives each message a valid and unique id, and resolves parents within the file.
fn identify_messages(
    session: &SessionId,
    records: Vec<StrictObject<MessageRecord>>,
    mended: &mut ImportNotes,
) -> Vec<IdentifiedMessage> {
    let mut indexes: HashMap<String, usize> = HashMap::with_capacity(records.len());
    let mut occurrences: HashMap<String, usize> = HashMap::new();
    let mut entries = Vec::with_capacity(records.len());
    for (index, StrictObject(mut record)) in records.into_iter().enumerate() {
        let place = record.error_path.take().unwrap_or_else(|| format!("messages[{index}]"));
        let mut id = match &record.id {
            Some(id) => convert_id(id),
            None => derive_message_id(session, &record, index).to_string(),
        };
        let is_converted = record.id.as_ref().is_some_and(|original| *original != id);
        let is_repeated = indexes.contains_key(&id);
        if is_converted || is_repeated {
            mended.add("id", &join_place(&place, "id"));
        }
        if is_repeated {
            let occurrence = occurrences.entry(id.clone()).or_insert(1);
            *occurrence += 1;
            id = derive_unique_id(&id, *occurrence);
        }
        indexes.entry(id.clone()).or_insert(index);
        entries.push(IdentifiedMessage { id, parent: RecordParent::Preceding, record, place });
    }
    for entry in &mut entries {
        entry.parent = match entry.record.parent_id.take() {
            None => RecordParent::Preceding,
            Some(None) => RecordParent::Root,
            Some(Some(parent)) => {
                let parent = convert_id(&parent);
                match indexes.get(&parent) {
                    Some(parent) => RecordParent::Entry(*parent),
                    // The store checks that, and makes the message a root otherwise.
                    None => RecordParent::Stored(parent),
                }
            }
        };
    }
    entries
}

/// The position of the message that an entry follows, if it is in the file.
fn parent_index(entries: &[IdentifiedMessage], index: usize) -> Option<usize> {
    match entries[index].parent {
        RecordParent::Entry(parent) => Some(parent),
        RecordParent::Preceding => index.checked_sub(1),
        RecordParent::Root | RecordParent::Stored(_) => None,
    }
}

/// Makes the first message of each cycle a root.
fn break_cycles(entries: &mut [IdentifiedMessage], mended: &mut ImportNotes) {
    // The walk in which each message was visited, counted from 1.
    let mut visited_in = vec![0; entries.len()];
    for start in 0..entries.len() {
        let mut current = Some(start);
        while let Some(index) = current.filter(|index| visited_in[*index] == 0) {
            visited_in[index] = start + 1;
            current = parent_index(entries, index);
        }
        // The walk came back to itself, so this message is in a cycle.
        let Some(inside) = current.filter(|index| visited_in[*index] == start + 1) else {
            continue;
        };
        let mut first = inside;
        let mut next = parent_index(entries, inside);
        while let Some(index) = next.filter(|index| *index != inside) {
            first = first.min(index);
            next = parent_index(entries, index);
        }
        entries[first].parent = RecordParent::Root;
        mended.add("parentId", &join_place(&entries[first].place, "parentId"));
    }
}

/// The positions of the messages, parents before children, otherwise in file order.
fn order_messages(entries: &[IdentifiedMessage]) -> Vec<usize> {
    let mut order = Vec::with_capacity(entries.len());
    let mut is_placed = vec![false; entries.len()];
    let mut path = Vec::new();
    for start in 0..entries.len() {
        let mut current = Some(start);
        while let Some(index) = current.filter(|index| !is_placed[*index]) {
            is_placed[index] = true;
            path.push(index);
            current = parent_index(entries, index);
        }
        order.extend(path.drain(..).rev());
    }
    order
}

fn convert_message(
    context: &MessageContext<'_>,
    entry: IdentifiedMessage,
    left_out: &mut ImportNotes,
    mended: &mut ImportNotes,
) -> NewMessage {
    let IdentifiedMessage { id, mut record, place, .. } = entry;
    let role = record.role;
    let default_sender = || match role {
        Role::Assistant => UserId::assistant(),
        _ => context.principal.user.clone(),
    };
    let sender_id = record.sender_id.as_deref().map(|sender| UserId::parse("senderId", sender));
    if matches!(sender_id, Some(Err(_))) {
        mended.add("senderId", &join_place(&place, "senderId"));
    }
    let body = convert_body(&mut record, &place, left_out, mended);
    if let Some(model) = &mut record.model {
        shorten_field(model, MAX_MODEL_CHARS, "model", &place, mended);
    }
    if let Some(error) = &mut record.error {
        shorten_field(&mut error.code, MAX_ERROR_CHARS, "error", &place, mended);
        shorten_field(&mut error.message, MAX_ERROR_CHARS, "error", &place, mended);
    }
    NewMessage {
        id: MessageId::new_unchecked(id),
        client_message_id: record.client_message_id.map(MessageId::new_unchecked),
        role,
        sender_id: sender_id.and_then(Result::ok).unwrap_or_else(default_sender),
        tokens: count_tokens(&body.countable_text()),
        body,
        created_at: record.created_at.unwrap_or(context.now),
        reply: ReplyFields {
            status: record.status,
            model: record.model,
            finish_reason: record.finish_reason,
            error: record.error,
            usage: record.usage,
        },
    }
}

/// The text and the parts of a message, within the limits for each and for both.
fn convert_body(
    record: &mut MessageRecord,
    place: &str,
    left_out: &mut ImportNotes,
    mended: &mut ImportNotes,
) -> MessageBody {
    let raw = record.parts.take();
    let parts = raw.map(|raw| convert_parts(&raw, place, left_out)).unwrap_or_default();
    let left = MAX_MESSAGE_BYTES.saturating_sub(parts.as_json().len());
    let text = std::mem::take(&mut record.content);
    let content = cut_text(text, left.min(MAX_TEXT_BYTES), place, mended);
    if record.role != Role::Assistant && content.trim().is_empty() && parts.is_empty() {
        mended.add("blank content", &join_place(place, "content"));
    }
    MessageBody { content, parts, kind: record.kind }
}

/// Cuts a field that is too long.
fn shorten_field(
    text: &mut String,
    limit: usize,
    field: &str,
    place: &str,
    mended: &mut ImportNotes,
) {
    let end = truncate_chars(text, limit).len();
    if end < text.len() {
        text.truncate(end);
        mended.add(field, &join_place(place, field));
    }
}

/// Cuts a text that is over the limit, and marks the place.
fn cut_text(mut text: String, limit: usize, place: &str, mended: &mut ImportNotes) -> String {
    if text.len() <= limit {
        return text;
    }
    mended.add("content", &join_place(place, "content"));
    // Leaves room for the mark, so that the text is within the limit in the next import, too.
    let end = text.floor_char_boundary(limit.saturating_sub(CUT_MARK_BYTES));
    let cut = text.len() - end;
    text.truncate(end);
    text.push_str(&format!("\n\n[{cut} more bytes were cut off by the import]"));
    text
}

/// The parts of a message, without those that cannot be stored.
fn convert_parts(raw: &RawValue, place: &str, left_out: &mut ImportNotes) -> MessageParts {
    let place = join_place(place, "parts");
    if raw.get().len() <= MAX_PARTS_BYTES
        && let Ok(parts) = MessageParts::parse_exported("parts", raw)
    {
        if parts.as_json() != raw.get() {
            // Only a provider itself may say that data is for it.
            left_out.add("origin", &place);
        }
        return parts;
    }
    let list = parse_list(raw);
    if list.is_empty() {
        left_out.add("parts", &place);
    }
    // The brackets.
    let mut size = 2;
    let mut kept = Vec::new();
    for part in list {
        let part = convert_part(part);
        let one = part.as_ref().and_then(|part| MessageParts::parse_exported("parts", part).ok());
        match one {
            Some(one) if size + one.as_json().len() <= MAX_PARTS_BYTES => {
                size += one.as_json().len();
                kept.push(one);
            }
            _ => left_out.add("parts", &place),
        }
    }
    let inner = |parts: &MessageParts| parts.as_json()[1..parts.as_json().len() - 1].to_owned();
    let json = format!("[{}]", kept.iter().map(inner).collect::<Vec<_>>().join(","));
    MessageParts::from_stored(json).unwrap_or_default()
}

/// A list with one part. A string becomes a text part.
fn convert_part(part: &RawValue) -> Option<Box<RawValue>> {
    let json = match part.get().starts_with('"') {
        true => format!("[{{\"type\":\"text\",\"text\":{}}}]", part.get()),
        false => format!("[{}]", part.get()),
    };
    RawValue::from_string(json).ok()
}

/// Counts the tokens of a text. A long one is counted in pieces, since counting takes more than
/// proportional time for a text without spaces.
fn count_tokens(text: &str) -> u32 {
    if text.len() <= MAX_PIECE_BYTES {
        return tokens::count_tokens(text);
    }
    let mut rest = text;
    let mut count: u32 = 0;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(MAX_PIECE_BYTES));
        count = count.saturating_add(tokens::count_tokens(piece));
        rest = after;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_with_a_mark_and_only_once() {
        let mut mended = ImportNotes::default();
        let cut = cut_text("é".repeat(MAX_TEXT_BYTES), MAX_TEXT_BYTES, "messages[0]", &mut mended);
        assert!(cut.len() <= MAX_TEXT_BYTES && cut.starts_with('é'));
        assert!(cut.ends_with("bytes were cut off by the import]"));
        assert_eq!(cut_text(cut.clone(), MAX_TEXT_BYTES, "messages[0]", &mut mended), cut);
        assert_eq!(mended.into_list()[0].count, 1);
    }

    #[test]
    fn text_and_parts_together_fit_into_a_document() {
        let (mut left_out, mut mended) = (ImportNotes::default(), ImportNotes::default());
        let text = "x".repeat(MAX_PARTS_BYTES - 100);
        let parts = format!(r#"[{{"type":"text","text":"{text}"}}]"#);
        let mut record = MessageRecord {
            content: "y".repeat(MAX_TEXT_BYTES),
            parts: RawValue::from_string(parts).ok(),
            ..MessageRecord::from_role(Role::Assistant)
        };
        let body = convert_body(&mut record, "messages[0]", &mut left_out, &mut mended);
        assert!(body.parts.as_json().len() > text.len() && left_out.into_list().is_empty());
        let size = body.content.len() + body.parts.as_json().len();
        assert!(size <= MAX_MESSAGE_BYTES && size > MAX_MESSAGE_BYTES - 200, "{size}");
        assert_eq!(mended.into_list()[0].kind, "content");
    }

    #[test]
    fn tokens_of_a_long_text_are_counted_in_pieces() {
        let long = "word ".repeat(MAX_PIECE_BYTES);
        assert!(count_tokens(&long).abs_diff(MAX_PIECE_BYTES as u32) < 100);
    }
}
