//! Converts the messages of a file for the store: unique ids, parents before children, and contents
//! within the limits. Invalid values are replaced and noted.

use super::import_notes::ImportNotes;
use super::lenient_values::{convert_id, derive_unique_id, join_place};
use super::message_index::{break_cycles, order_messages};
use super::message_record::{MessageRecord, derive_message_id};
use crate::domain::content::MessageBody;
use crate::domain::message::{MAX_PARTS_BYTES, MessageParts};
use crate::domain::text::truncate_chars;
use crate::domain::{MessageId, Principal, Role, SessionId, Timestamp, UserId};
use crate::error::Result;
use crate::json::StrictObject;
use crate::json::lenient::parse_list;
use crate::memory::tokens;
use crate::store::{MessageParent, NewMessage, ReplyFields};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};

/// Maximum size of a message's text in bytes. The output of models and tools should be
/// importable, but not without limit, so the bound for parts serves for the text as well.
const MAX_TEXT_BYTES: usize = MAX_PARTS_BYTES;
/// Maximum size of a message's text and parts together, in bytes. MongoDB stores documents of up to
/// 16 MiB.
const MAX_MESSAGE_BYTES: usize = 12 << 20;
/// Maximum number of a message's parts. Replies of many steps have some hundreds.
const MAX_IMPORTED_PARTS: usize = 10_000;
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
    /// Users in whose names messages are imported; `None` for anyone.
    pub(super) senders: Option<&'a [UserId]>,
    pub(super) now: Timestamp,
}

/// Converts the messages of a session for the store.
pub(super) struct MessageConverter<'a> {
    context: MessageContext<'a>,
    /// Parts of the SHA-256 of the client's ids.
    client_ids: HashSet<[u8; 16]>,
}

/// The message that an entry follows.
enum RecordParent {
    /// The preceding message; for the first one, the head of the session.
    Preceding,
    Root,
    /// A message of the file, by its position.
    Entry(usize),
    /// A message that the session may have already.
    Stored(String),
}

/// Converts the messages of a record, parents before children, and hands each to `take` with its
/// path in the file.
pub(super) fn convert_records(
    converter: &mut MessageConverter<'_>,
    mut records: Vec<StrictObject<MessageRecord>>,
    left_out: &mut ImportNotes,
    mended: &mut ImportNotes,
    mut take: impl FnMut(NewMessage, MessageParent, String, &mut ImportNotes) -> Result<()>,
) -> Result<()> {
    identify_messages(converter.session(), &mut records, mended);
    let mut parents = resolve_parents(&mut records);
    let mut indexes: Vec<Option<u32>> =
        parents.iter().enumerate().map(|(index, parent)| parent.index(index)).collect();
    for first in break_cycles(&mut indexes) {
        parents[first as usize] = RecordParent::Root;
        let StrictObject(record) = &records[first as usize];
        mended.add("parentId", &join_place(record.place(), "parentId"));
    }
    let order = order_messages(&indexes);
    drop(indexes);
    let is_reordered = !order.is_sorted();
    let ids: Vec<MessageId> = records
        .iter_mut()
        .map(|StrictObject(record)| MessageId::new_unchecked(record.id.take().unwrap_or_default()))
        .collect();
    for index in order.into_iter().map(|index| index as usize) {
        // Frees the message once it is handed over.
        let empty = StrictObject(MessageRecord::from_role(Role::User));
        let StrictObject(mut record) = std::mem::replace(&mut records[index], empty);
        let parent = match std::mem::replace(&mut parents[index], RecordParent::Root) {
            RecordParent::Root => MessageParent::Root,
            RecordParent::Stored(id) => MessageParent::Message(MessageId::new_unchecked(id)),
            RecordParent::Entry(parent) => MessageParent::Message(ids[parent].clone()),
            // In another order, the preceding message is another one.
            RecordParent::Preceding if is_reordered && index > 0 => {
                MessageParent::Message(ids[index - 1].clone())
            }
            RecordParent::Preceding => MessageParent::Head,
        };
        let place = record.error_path.take().unwrap_or_default();
        let message = converter.convert(ids[index].to_string(), record, &place, left_out, mended);
        take(message, parent, place, mended)?;
    }
    Ok(())
}

/// Gives each message a valid and unique id, and a path.
fn identify_messages(
    session: &SessionId,
    records: &mut [StrictObject<MessageRecord>],
    mended: &mut ImportNotes,
) {
    let mut seen: HashSet<String> = HashSet::with_capacity(records.len());
    let mut occurrences: HashMap<String, usize> = HashMap::new();
    for (index, StrictObject(record)) in records.iter_mut().enumerate() {
        if record.error_path.is_none() {
            record.error_path = Some(format!("messages[{index}]"));
        }
        let place = record.place();
        let mut id = match &record.id {
            Some(id) => convert_id(id),
            None => derive_message_id(session, record, index).to_string(),
        };
        let is_converted = record.id.as_ref().is_some_and(|original| *original != id);
        let is_repeated = seen.contains(&id);
        if is_converted || is_repeated {
            mended.add("id", &join_place(place, "id"));
        }
        if is_repeated {
            let occurrence = occurrences.entry(id.clone()).or_insert(1);
            *occurrence += 1;
            id = derive_unique_id(&id, *occurrence);
        }
        seen.insert(id.clone());
        record.id = Some(id);
    }
}

/// Finds the parents within the file. The messages have their ids.
fn resolve_parents(records: &mut [StrictObject<MessageRecord>]) -> Vec<RecordParent> {
    let named: Vec<Option<Option<String>>> =
        records.iter_mut().map(|StrictObject(record)| record.parent_id.take()).collect();
    let mut indexes: HashMap<&str, usize> = HashMap::with_capacity(records.len());
    for (index, StrictObject(record)) in records.iter().enumerate() {
        indexes.entry(record.id.as_deref().unwrap_or_default()).or_insert(index);
    }
    let resolve = |named: Option<Option<String>>| match named {
        None => RecordParent::Preceding,
        Some(None) => RecordParent::Root,
        Some(Some(parent)) => {
            let parent = convert_id(&parent);
            match indexes.get(parent.as_str()) {
                Some(parent) => RecordParent::Entry(*parent),
                // The store checks that, and makes the message a root otherwise.
                None => RecordParent::Stored(parent),
            }
        }
    };
    named.into_iter().map(resolve).collect()
}

impl RecordParent {
    /// The position of the message that the one at `index` follows, if it is in the file.
    fn index(&self, index: usize) -> Option<u32> {
        let parent = match self {
            Self::Entry(parent) => Some(*parent),
            Self::Preceding => index.checked_sub(1),
            Self::Root | Self::Stored(_) => None,
        };
        parent.and_then(|parent| u32::try_from(parent).ok())
    }
}

impl<'a> MessageConverter<'a> {
    pub(super) fn new(context: MessageContext<'a>) -> Self {
        Self { context, client_ids: HashSet::new() }
    }

    pub(super) fn session(&self) -> &'a SessionId {
        self.context.session
    }

    /// Converts a message, whose id is valid and unique.
    pub(super) fn convert(
        &mut self,
        id: String,
        mut record: MessageRecord,
        place: &str,
        left_out: &mut ImportNotes,
        mended: &mut ImportNotes,
    ) -> NewMessage {
        if let Some(id) = &record.client_message_id
            && (MessageId::parse("id", id).is_err() || !self.is_new_client_id(id))
        {
            mended.add("clientMessageId", &join_place(place, "clientMessageId"));
            record.client_message_id = None;
        }
        let sender_id = self.find_sender(&record, place, mended);
        let body = convert_body(&mut record, place, left_out, mended);
        if let Some(model) = &mut record.model {
            shorten_field(model, MAX_MODEL_CHARS, "model", place, mended);
        }
        if let Some(error) = &mut record.error {
            shorten_field(&mut error.code, MAX_ERROR_CHARS, "error", place, mended);
            shorten_field(&mut error.message, MAX_ERROR_CHARS, "error", place, mended);
        }
        NewMessage {
            id: MessageId::new_unchecked(id),
            client_message_id: record.client_message_id.map(MessageId::new_unchecked),
            role: record.role,
            sender_id,
            tokens: count_tokens(&body.countable_text()),
            body,
            created_at: record.created_at.unwrap_or(self.context.now),
            reply: ReplyFields {
                status: record.status,
                model: record.model,
                finish_reason: record.finish_reason,
                error: record.error,
                usage: record.usage,
                imported: true,
            },
        }
    }

    fn is_new_client_id(&mut self, id: &str) -> bool {
        let digest = Sha256::digest(id);
        let mut start = [0; 16];
        start.copy_from_slice(&digest[..16]);
        self.client_ids.insert(start)
    }

    /// The sender that the file names, if messages may be imported in that name.
    fn find_sender(&self, record: &MessageRecord, place: &str, mended: &mut ImportNotes) -> UserId {
        let own = match record.role {
            Role::Assistant => UserId::assistant(),
            _ => self.context.principal.user.clone(),
        };
        let Some(named) = &record.sender_id else { return own };
        let named = UserId::parse("senderId", named).ok().filter(|named| {
            *named == own || self.context.senders.is_none_or(|senders| senders.contains(named))
        });
        named.unwrap_or_else(|| {
            mended.add("senderId", &join_place(place, "senderId"));
            own
        })
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
    let mut list = parse_list(raw);
    if raw.get().len() <= MAX_PARTS_BYTES
        && list.len() <= MAX_IMPORTED_PARTS
        && let Ok(parts) = MessageParts::parse_exported("parts", raw)
    {
        if parts.as_json() != raw.get() {
            // Only a provider itself may say that data is for it.
            left_out.add("origin", &place);
        }
        return parts;
    }
    if list.is_empty() {
        left_out.add("parts", &place);
    }
    if list.len() > MAX_IMPORTED_PARTS {
        left_out.add_many("parts", (list.len() - MAX_IMPORTED_PARTS) as u64, &place);
        list.truncate(MAX_IMPORTED_PARTS);
    }
    // The brackets.
    let mut size = 2;
    let mut kept = Vec::new();
    for part in list {
        let part = convert_part(part, MAX_PARTS_BYTES - size);
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

/// A list with one part of at most `max_bytes`. A string becomes a text part.
fn convert_part(part: &RawValue, max_bytes: usize) -> Option<Box<RawValue>> {
    if part.get().len() > max_bytes {
        return None;
    }
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
