//! The ids and parents of the messages of a session in a file, without their contents.
//!
//! A file that lists messages in their order and without ids needs nothing per message. Otherwise a
//! digest of each id is kept; the order is only computed if a message precedes its parent.

use super::import_notes::ImportNotes;
use super::json_cursor::{JsonCursor, JsonFileError};
use super::lenient_values::{TimeForm, read_id, read_time};
use crate::domain::Timestamp;
use crate::json::escapes::repair_escapes;
use crate::json::lenient::RawObject;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Maximum size of a message in a file. With every letter escaped, the largest message that can be
/// stored fits.
pub(super) const MAX_MESSAGE_JSON_BYTES: usize = 72 << 20;

/// A part of the SHA-256 of an id.
type IdDigest = [u32; 4];

/// The list of a session's messages.
pub(super) struct MessageIndex {
    /// Where the list begins.
    pub(super) start: u64,
    /// When the first message was created.
    pub(super) first_time: Option<Timestamp>,
    /// Messages with the id of an earlier one, with the number of times that it occurred so far.
    repeated: Vec<(u32, usize)>,
    /// Whether no message precedes its parent.
    pub(super) is_ordered: bool,
    /// Whether the list has no entries.
    pub(super) is_empty: bool,
}

/// An entry of the list, and where it is.
struct ListedMessage {
    raw: Option<Box<RawValue>>,
    offset: u64,
}

fn next_message(
    cursor: &mut JsonCursor,
    is_first: &mut bool,
) -> Result<Option<ListedMessage>, JsonFileError> {
    if !cursor.next_entry(b']', is_first)? {
        return Ok(None);
    }
    let offset = cursor.position();
    Ok(Some(ListedMessage { raw: read_message_text(cursor)?, offset }))
}

/// The id in a field of a message, whose text is not repaired.
fn read_message_id(message: &RawObject<'_>, field: &str) -> Option<IdDigest> {
    let raw = message.get(field)?;
    let id = match repair_escapes(raw.get()) {
        Some(repaired) => read_id(&RawValue::from_string(repaired.json).ok()?),
        None => read_id(raw),
    };
    id.map(|id| digest_id(&id))
}

/// Reads an entry of the list; `None` if it is no message, or too long.
pub(super) fn read_message_text(
    cursor: &mut JsonCursor,
) -> Result<Option<Box<RawValue>>, JsonFileError> {
    if cursor.peek()? != Some(b'{') {
        cursor.skip_value()?;
        return Ok(None);
    }
    cursor.read_value(MAX_MESSAGE_JSON_BYTES)
}

impl MessageIndex {
    /// Reads the list. Also returns an outline: its first entries, or the names of their fields.
    pub(super) fn scan(
        cursor: &mut JsonCursor,
        max_sketched: usize,
        max_sketch_bytes: usize,
    ) -> Result<(Self, String), JsonFileError> {
        let start = cursor.position();
        let mut sketch = Vec::new();
        let mut ids: Vec<(IdDigest, u32)> = Vec::new();
        // Parents other than the preceding message.
        let mut parents: Vec<(IdDigest, u32)> = Vec::new();
        let mut first_time = None;
        let mut last_id = None;
        let mut index: u32 = 0;
        cursor.enter(b'[')?;
        let mut is_first = true;
        let mut is_empty = true;
        while let Some(ListedMessage { raw, .. }) = next_message(cursor, &mut is_first)? {
            is_empty = false;
            if sketch.len() < max_sketched {
                sketch.push(sketch_message(raw.as_deref(), max_sketch_bytes));
            }
            let Some(raw) = raw else { continue };
            let message = RawObject::from_value(&raw);
            if index == 0 {
                first_time = read_created_at(&message);
            }
            let id = read_message_id(&message, "id");
            let parent = read_message_id(&message, "parentId");
            if let Some(parent) = parent.filter(|_| parent != last_id) {
                parents.push((parent, index));
            }
            ids.extend(id.map(|id| (id, index)));
            last_id = id;
            index += 1;
        }
        ids.sort_unstable();
        let is_after = |(parent, child): &(IdDigest, u32)| {
            let first = ids.partition_point(|(id, _)| id < parent);
            ids.get(first).is_some_and(|(id, index)| id == parent && index >= child)
        };
        let is_ordered = !parents.iter().any(is_after);
        let repeated = list_repeated(&ids);
        let index = Self { start, first_time, repeated, is_ordered, is_empty };
        Ok((index, format!("[{}]", sketch.join(","))))
    }

    /// How often the id of a message has occurred, if it is not the first time.
    pub(super) fn repetition(&self, index: usize) -> Option<usize> {
        let index = u32::try_from(index).ok()?;
        let at = self.repeated.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(self.repeated[at].1)
    }
}

fn digest_id(id: &str) -> IdDigest {
    let digest = Sha256::digest(id);
    let word = |at: usize| {
        u32::from_be_bytes([digest[at], digest[at + 1], digest[at + 2], digest[at + 3]])
    };
    [word(0), word(4), word(8), word(12)]
}

fn sketch_message(raw: Option<&RawValue>, max_bytes: usize) -> String {
    let Some(raw) = raw else { return "0".to_owned() };
    if raw.get().len() <= max_bytes {
        return raw.get().to_owned();
    }
    let object = RawObject::from_value(raw);
    let names = object.fields().take(20);
    let names = names.map(|(name, _)| format!("{}:1", Value::String(name.to_owned())));
    format!("{{{}}}", names.collect::<Vec<_>>().join(","))
}

fn read_created_at(message: &RawObject<'_>) -> Option<Timestamp> {
    read_time(message, "createdAt", TimeForm::Text, "", &mut ImportNotes::default())
}

/// `ids` are sorted.
fn list_repeated(ids: &[(IdDigest, u32)]) -> Vec<(u32, usize)> {
    let mut repeated = Vec::new();
    let mut occurrence = 1;
    for pair in ids.windows(2) {
        occurrence = if pair[0].0 == pair[1].0 { occurrence + 1 } else { 1 };
        if occurrence > 1 {
            repeated.push((pair[1].1, occurrence));
        }
    }
    repeated.sort_unstable();
    repeated
}

/// The order of messages of which some precede their parents.
pub(super) struct MessageOrder {
    /// Parents before children, otherwise in file order.
    pub(super) order: Vec<u32>,
    pub(super) places: Vec<MessagePlace>,
    /// Messages that were cut off from a cycle.
    pub(super) cut_off: Vec<u32>,
    /// Number of entries that are no messages, and the position of the first one.
    pub(super) odd_entries: (u64, usize),
}

/// Where a message is.
#[derive(Clone, Copy)]
pub(super) struct MessagePlace {
    pub(super) offset: u64,
    /// Position in the list.
    pub(super) position: u32,
    /// The time of an earlier message, for one whose own time cannot be understood.
    pub(super) last_time: Option<Timestamp>,
}

impl MessageOrder {
    /// `created_at` is the time of the session.
    pub(super) fn build(
        cursor: &mut JsonCursor,
        index: &MessageIndex,
        created_at: Option<Timestamp>,
    ) -> Result<Self, JsonFileError> {
        let mut ids: Vec<(IdDigest, u32)> = Vec::new();
        let mut named: Vec<(IdDigest, u32)> = Vec::new();
        let mut parents: Vec<Option<u32>> = Vec::new();
        let mut places = Vec::new();
        let mut last_time = created_at;
        cursor.seek_to(index.start)?;
        cursor.enter(b'[')?;
        let mut is_first = true;
        let mut position = 0;
        let mut odd_entries = (0, 0);
        while let Some(ListedMessage { raw, offset }) = next_message(cursor, &mut is_first)? {
            position += 1;
            let Some(raw) = raw else {
                odd_entries.1 =
                    if odd_entries.0 == 0 { position as usize - 1 } else { odd_entries.1 };
                odd_entries.0 += 1;
                continue;
            };
            let message = RawObject::from_value(&raw);
            let number = places.len() as u32;
            ids.extend(read_message_id(&message, "id").map(|id| (id, number)));
            named.extend(read_message_id(&message, "parentId").map(|id| (id, number)));
            let has_parent = message.fields().any(|(name, _)| name == "parentId");
            parents.push(number.checked_sub(1).filter(|_| !has_parent));
            places.push(MessagePlace { offset, position: position - 1, last_time });
            last_time = read_created_at(&message).or(last_time);
        }
        ids.sort_unstable();
        for (parent, child) in named {
            let first = ids.partition_point(|(id, _)| *id < parent);
            parents[child as usize] =
                ids.get(first).filter(|(id, _)| *id == parent).map(|(_, index)| *index);
        }
        let cut_off = break_cycles(&mut parents);
        let order = order_messages(&parents);
        Ok(Self { order, places, cut_off, odd_entries })
    }
}

/// Makes the first message of each cycle a root. Returns these messages in their order.
pub(super) fn break_cycles(parents: &mut [Option<u32>]) -> Vec<u32> {
    // The walk in which each message was visited, counted from 1.
    let mut visited_in = vec![0_u32; parents.len()];
    let mut cut_off = Vec::new();
    for start in 0..parents.len() as u32 {
        let mut current = Some(start);
        while let Some(index) = current.filter(|index| visited_in[*index as usize] == 0) {
            visited_in[index as usize] = start + 1;
            current = parents[index as usize];
        }
        // The walk came back to itself, so this message is in a cycle.
        let Some(inside) = current.filter(|index| visited_in[*index as usize] == start + 1) else {
            continue;
        };
        let mut first = inside;
        let mut next = parents[inside as usize];
        while let Some(index) = next.filter(|index| *index != inside) {
            first = first.min(index);
            next = parents[index as usize];
        }
        parents[first as usize] = None;
        cut_off.push(first);
    }
    cut_off.sort_unstable();
    cut_off
}

/// The positions of the messages, parents before children, otherwise in file order.
pub(super) fn order_messages(parents: &[Option<u32>]) -> Vec<u32> {
    let mut order = Vec::with_capacity(parents.len());
    let mut is_placed = vec![false; parents.len()];
    let mut path = Vec::new();
    for start in 0..parents.len() as u32 {
        let mut current = Some(start);
        while let Some(index) = current.filter(|index| !is_placed[*index as usize]) {
            is_placed[index as usize] = true;
            path.push(index);
            current = parents[index as usize];
        }
        order.extend(path.drain(..).rev());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::super::import_pace::ImportPace;
    use super::*;

    fn scan(json: &str) -> (MessageIndex, JsonCursor) {
        let mut cursor = JsonCursor::copy_file(json.as_bytes(), &ImportPace::default()).unwrap();
        let (index, _) = MessageIndex::scan(&mut cursor, 10, 100).unwrap();
        (index, cursor)
    }

    #[test]
    fn repeated_ids_and_late_parents_are_found() {
        let (index, _) = scan(r#"[{"id":"a"},7,{"id":"b","parentId":"a"},{"id":"a"},{"id":"a"}]"#);
        assert_eq!(index.repeated, [(2, 2), (3, 3)]);
        assert!(index.is_ordered && index.repetition(1).is_none());
        let (index, mut cursor) =
            scan(r#"[{"id":"c","parentId":"b"},1,{"id":"b","parentId":"a"},{"id":"a"}]"#);
        assert!(!index.is_ordered);
        // `a` has no parent and follows `b`, which closes a cycle: it is cut at its first message.
        let order = MessageOrder::build(&mut cursor, &index, None).unwrap();
        assert_eq!((order.cut_off, order.order), (vec![1], vec![1, 0, 2]));
        assert_eq!(order.places[1].position, 2);
    }
}
