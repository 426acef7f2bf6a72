//! Reads the messages of a session from a file, one at a time.

use super::import_notes::ImportNotes;
use super::imported_messages::MessageConverter;
use super::json_cursor::JsonCursor;
use super::lenient_values::{convert_id, derive_unique_id, join_place};
use super::message_index::{MessageIndex, MessageOrder, MessagePlace, read_message_text};
use super::message_record::{MessageRecord, derive_message_id};
use super::session_json::read_message;
use crate::domain::{MessageId, SessionId, Timestamp};
use crate::error::Result;
use crate::json::escapes::repair_escapes;
use crate::store::{MessageParent, NewMessage};
use serde_json::value::RawValue;

/// Characters that were replaced in a session.
#[derive(Default)]
pub(super) struct ReplacedCharacters {
    count: u64,
    /// Position of the first one in the session.
    first: u64,
}

impl ReplacedCharacters {
    /// Repairs a text that is at `offset` in the session.
    pub(super) fn repair(&mut self, raw: Box<RawValue>, offset: u64) -> Box<RawValue> {
        let Some(repaired) = repair_escapes(raw.get()) else { return raw };
        if self.count == 0 {
            self.first = offset + repaired.first as u64;
        }
        self.count += repaired.replaced;
        RawValue::from_string(repaired.json).unwrap_or(raw)
    }

    /// Adds those of a later part of the session.
    pub(super) fn add(&mut self, later: Self) {
        if self.count == 0 {
            self.first = later.first;
        }
        self.count += later.count;
    }

    pub(super) fn note(&self, mended: &mut ImportNotes) {
        if self.count > 0 {
            mended.add_many("character", self.count, &format!("byte {}", self.first));
        }
    }
}

/// The messages of a session in a file.
pub(super) struct MessageReader<'a> {
    cursor: &'a mut JsonCursor,
    index: &'a MessageIndex,
    /// Where the session begins.
    session_start: u64,
    /// Only if messages precede their parents.
    order: Option<MessageOrder>,
    /// Number of messages so far.
    count: usize,
    is_first: bool,
    /// Position in the list.
    position: usize,
    last_time: Option<Timestamp>,
    pub(super) characters: ReplacedCharacters,
}

/// A message with its number among the messages of the file.
struct NumberedRecord {
    number: usize,
    record: MessageRecord,
}

impl<'a> MessageReader<'a> {
    /// `created_at` is the time of the session.
    pub(super) fn open(
        cursor: &'a mut JsonCursor,
        index: &'a MessageIndex,
        session_start: u64,
        created_at: Option<Timestamp>,
    ) -> Result<Self> {
        cursor.seek_to(index.start)?;
        cursor.enter(b'[')?;
        Ok(Self {
            cursor,
            index,
            session_start,
            order: None,
            count: 0,
            is_first: true,
            position: 0,
            last_time: created_at,
            characters: ReplacedCharacters::default(),
        })
    }

    /// The next message in the order of the file.
    pub(super) fn next_record(
        &mut self,
        left_out: &mut ImportNotes,
        mended: &mut ImportNotes,
    ) -> Result<Option<MessageRecord>> {
        while self.cursor.next_entry(b']', &mut self.is_first)? {
            let place = format!("messages[{}]", self.position);
            self.position += 1;
            let offset = self.cursor.position() - self.session_start;
            let Some(raw) = read_message_text(self.cursor)? else {
                left_out.add("message", &place);
                continue;
            };
            let raw = self.characters.repair(raw, offset);
            let record = read_message(&raw, place, self.last_time, mended);
            self.last_time = record.created_at.or(self.last_time);
            return Ok(Some(record));
        }
        Ok(None)
    }

    /// Reads the message with this number.
    fn read_numbered(
        &mut self,
        place: MessagePlace,
        mended: &mut ImportNotes,
    ) -> Result<MessageRecord> {
        self.cursor.seek_to(place.offset)?;
        let raw = read_message_text(self.cursor)?;
        let raw = raw.unwrap_or_else(|| RawValue::NULL.to_owned());
        let raw = self.characters.repair(raw, place.offset - self.session_start);
        let path = format!("messages[{}]", place.position);
        Ok(read_message(&raw, path, place.last_time, mended))
    }

    /// Converts the messages, parents before children, and hands each to `take` with its path in
    /// the file.
    pub(super) fn convert_all(
        mut self,
        converter: &mut MessageConverter<'_>,
        left_out: &mut ImportNotes,
        mended: &mut ImportNotes,
        mut take: impl FnMut(NewMessage, MessageParent, String, &mut ImportNotes) -> Result<()>,
    ) -> Result<ReplacedCharacters> {
        if !self.index.is_ordered {
            let order = MessageOrder::build(self.cursor, self.index, self.last_time)?;
            let (odd, first) = order.odd_entries;
            if odd > 0 {
                left_out.add_many("message", odd, &format!("messages[{first}]"));
            }
            self.order = Some(order);
        }
        while let Some(NumberedRecord { number, mut record }) =
            self.next_ordered(left_out, mended)?
        {
            let place = record.error_path.take().unwrap_or_default();
            let parent =
                self.find_parent(converter.session(), number, &mut record, mended, &place)?;
            let id = self.find_id(converter.session(), number, &record, &place, mended);
            let message = converter.convert(id, record, &place, left_out, mended);
            take(message, parent, place, mended)?;
        }
        Ok(self.characters)
    }

    fn next_ordered(
        &mut self,
        left_out: &mut ImportNotes,
        mended: &mut ImportNotes,
    ) -> Result<Option<NumberedRecord>> {
        let count = self.count;
        self.count += 1;
        let Some(order) = &self.order else {
            let record = self.next_record(left_out, mended)?;
            return Ok(record.map(|record| NumberedRecord { number: count, record }));
        };
        let Some(number) = order.order.get(count).map(|number| *number as usize) else {
            return Ok(None);
        };
        let place = order.places[number];
        Ok(Some(NumberedRecord { number, record: self.read_numbered(place, mended)? }))
    }

    /// The id of a message: its own if it is valid and new in the file.
    fn find_id(
        &self,
        session: &SessionId,
        number: usize,
        record: &MessageRecord,
        place: &str,
        mended: &mut ImportNotes,
    ) -> String {
        let Some(original) = &record.id else {
            return derive_message_id(session, record, number).to_string();
        };
        let id = convert_id(original);
        let repetition = self.index.repetition(number);
        if id != *original || repetition.is_some() {
            mended.add("id", &join_place(place, "id"));
        }
        match repetition {
            Some(occurrence) => derive_unique_id(&id, occurrence),
            None => id,
        }
    }

    fn find_parent(
        &mut self,
        session: &SessionId,
        number: usize,
        record: &mut MessageRecord,
        mended: &mut ImportNotes,
        place: &str,
    ) -> Result<MessageParent> {
        let named = record.parent_id.take();
        let Some(order) = &self.order else {
            return Ok(match named {
                None => MessageParent::Head,
                Some(None) => MessageParent::Root,
                Some(Some(id)) => MessageParent::Message(MessageId::new_unchecked(convert_id(&id))),
            });
        };
        if order.cut_off.binary_search(&(number as u32)).is_ok() {
            mended.add("parentId", &join_place(place, "parentId"));
            return Ok(MessageParent::Root);
        }
        Ok(match named {
            None if number == 0 => MessageParent::Head,
            None => {
                // In another order, the preceding message is another one.
                let previous = order.places[number - 1];
                let ignored = &mut ImportNotes::default();
                let characters = std::mem::take(&mut self.characters);
                let record = self.read_numbered(previous, ignored)?;
                self.characters = characters;
                let id = self.find_id(session, number - 1, &record, "", ignored);
                MessageParent::Message(MessageId::new_unchecked(id))
            }
            Some(None) => MessageParent::Root,
            Some(Some(id)) => MessageParent::Message(MessageId::new_unchecked(convert_id(&id))),
        })
    }
}
