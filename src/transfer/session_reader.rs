//! Reads a file of sessions one at a time. Of a session only the short fields are held in memory;
//! its messages stay in the file.
//!
//! The format is detected while reading: `{"sessions": […]}`, one session per line (`jsonl`), or a
//! list of conversations as ChatGPT writes it.

use super::import_pace::ImportPace;
use super::json_cursor::{JsonCursor, JsonFileError};
use super::lenient_values::MAX_FIELD_BYTES;
use super::message_index::MessageIndex;
use super::source_format::{FoundFormat, describe_unreadable, recognize_format};
use crate::error::{Error, Result};
use crate::json::lenient::RawObject;
use serde_json::error::Category;
use serde_json::value::{RawValue, to_raw_value};
use std::io::Read;
use std::ops::ControlFlow;

/// Sessions of one import, all of which are in its report.
pub(super) const MAX_SESSIONS: usize = 100_000;
/// Entries of a file. Some may be none of these sessions.
const MAX_ENTRIES: usize = MAX_SESSIONS + MAX_LEADING_ENTRIES;

/// Maximum size of another product's conversation, which is held in memory while it is converted.
const MAX_CONVERSATION_BYTES: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Maximum size of a session's settings, which contain the system prompt.
const MAX_SETTINGS_BYTES: usize = 8 << 20;
/// Fields of an entry that are looked at. Further ones are ignored.
const MAX_FIELDS: usize = 200;
/// Entries of a list, or names of an object, that stand for a long one.
const MAX_SKETCHED: usize = 10;
/// Size up to which the value of an unknown field is kept to recognize the format.
const MAX_SKETCH_BYTES: usize = 16 << 10;

/// Entries that may precede the first session of a list. Without a bound, a long list of something
/// else would be read to its end.
const MAX_LEADING_ENTRIES: usize = 1000;

/// An entry of the file.
pub struct SessionEntry<'a> {
    pub(super) cursor: &'a mut JsonCursor,
    pub(super) scanned: ScannedEntry,
    /// Whether it stands in the place of a session or was recognized as one.
    pub(super) is_session: bool,
}

/// The outline of an entry.
pub(super) struct ScannedEntry {
    pub(super) start: u64,
    /// The fields of an object, with an abbreviation for long values. For any other value, the
    /// value or a number.
    pub(super) outline: Box<RawValue>,
    /// Names of Echoic's fields that are too long to be kept.
    pub(super) too_long: Vec<String>,
    /// The list `messages`.
    pub(super) messages: Option<MessageIndex>,
}

impl SessionEntry<'_> {
    /// The length of the entry's text, as long as the cursor is behind it.
    pub(super) fn text_length(&self) -> u64 {
        self.cursor.position().saturating_sub(self.scanned.start)
    }

    /// The whole text of the entry.
    pub(super) fn read_text(&mut self) -> Result<Box<RawValue>> {
        self.cursor.seek_to(self.scanned.start)?;
        self.cursor.read_long_value(MAX_CONVERSATION_BYTES, usize::MAX)?.ok_or_else(|| {
            let bound = format!("must be at most {MAX_CONVERSATION_BYTES} bytes");
            Error::invalid_field("conversation", bound)
        })
    }
}

impl ScannedEntry {
    /// Whether it has none of the fields of a session, or only an empty list of messages.
    pub(super) fn is_empty(&self) -> bool {
        let has_messages = self.messages.as_ref().is_some_and(|messages| !messages.is_empty);
        let is_own = |name: &str| is_own_field(name) && (name != "messages" || has_messages);
        let is_object = self.outline.get().starts_with('{');
        is_object && !RawObject::from_value(&self.outline).fields().any(|(name, _)| is_own(name))
    }

    /// The fields of a session of Echoic's format, without the list of its messages.
    pub(super) fn own_fields(&self) -> Box<RawValue> {
        let object = RawObject::from_value(&self.outline);
        let is_kept = |name: &str| !self.too_long.iter().any(|other| other == name);
        let fields: Vec<(String, Box<RawValue>)> = object
            .fields()
            .filter(|(name, _)| is_kept(name) && !(*name == "messages" && self.messages.is_some()))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        match self.outline.get().starts_with('{') {
            true => to_raw_value(&RawFields(fields)).unwrap_or_else(|_| self.outline.clone()),
            false => self.outline.clone(),
        }
    }
}

impl From<JsonFileError> for Error {
    fn from(error: JsonFileError) -> Self {
        Self::internal(error)
    }
}

/// Calls `take` with each entry, until it breaks, which is reported as an error. Fields next to
/// `sessions` are ignored. A file without any session is an error, too.
pub fn read_sessions(
    file: impl Read,
    pace: &ImportPace,
    take: impl FnMut(SessionEntry<'_>) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let mut sink = EntrySink {
        on_entry: take,
        unreadable_format: None,
        has_sessions: false,
        leading_entries: 0,
        has_too_many: false,
    };
    let read = JsonCursor::copy_file(file, pace)
        .map_err(|error| JsonFileError { category: Category::Io, message: error.to_string() })
        .and_then(|mut cursor| read_values(&mut cursor, &mut sink));
    read.map_err(|error| match sink.unreadable_format {
        _ if sink.has_too_many => ReadError::TooManySessions,
        Some(name) if !sink.has_sessions => ReadError::UnreadableFormat(name),
        _ => ReadError::Json { error, has_sessions: sink.has_sessions },
    })
}

/// The reason why a file could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing of the file was read.
    #[error("must have at most {MAX_SESSIONS} sessions; import fewer at a time")]
    TooManySessions,
    /// Another product's export.
    #[error("{}", describe_unreadable(.0))]
    UnreadableFormat(&'static str),
    #[error(
        "must be {{\"sessions\": […]}}, one session per line, or a list of conversations: {error}"
    )]
    Json {
        error: JsonFileError,
        /// Whether a session came before.
        has_sessions: bool,
    },
}

impl ReadError {
    /// Whether the file is no export at all.
    pub fn is_without_sessions(&self) -> bool {
        !matches!(self, Self::Json { has_sessions: true, .. })
    }
}

type FileResult<T> = std::result::Result<T, JsonFileError>;

fn data_error(problem: &str) -> JsonFileError {
    JsonFileError { category: Category::Data, message: problem.to_owned() }
}

fn read_values<F: FnMut(SessionEntry<'_>) -> ControlFlow<()>>(
    cursor: &mut JsonCursor,
    sink: &mut EntrySink<F>,
) -> FileResult<()> {
    match cursor.peek()? {
        Some(b'[') => {
            sink.check_count(cursor, true)?;
            read_list(cursor, sink, true)?;
            return expect_end(cursor);
        }
        Some(b'{') => {}
        Some(_) => {
            cursor.skip_value()?;
            return Err(data_error("expected an object or a list"));
        }
        None => {
            let message = "the file is empty".to_owned();
            return Err(JsonFileError { category: Category::Eof, message });
        }
    }
    match scan_object(cursor, true)? {
        ScannedValue::SessionList => {
            sink.check_count(cursor, true)?;
            read_list(cursor, sink, false)?;
            // The fields after the list belong to the file.
            while cursor.next_entry(b'}', &mut false)? {
                cursor.read_name()?;
                cursor.skip_value()?;
            }
            return expect_end(cursor);
        }
        ScannedValue::Entry(entry) => {
            sink.check_count(cursor, false)?;
            sink.push_entry(cursor, entry)?;
        }
    }
    while cursor.peek()?.is_some() {
        let entry = scan_entry(cursor)?;
        sink.push_entry(cursor, entry)?;
    }
    match sink.has_sessions {
        true => Ok(()),
        false => Err(data_error("missing field `sessions`")),
    }
}

fn expect_end(cursor: &mut JsonCursor) -> FileResult<()> {
    match cursor.peek()? {
        None => Ok(()),
        Some(_) => Err(cursor.syntax_error("unexpected data after the list of sessions")),
    }
}

/// `is_bare` is a list that is the whole file, so its entries have to prove that they are sessions.
fn read_list<F: FnMut(SessionEntry<'_>) -> ControlFlow<()>>(
    cursor: &mut JsonCursor,
    sink: &mut EntrySink<F>,
    is_bare: bool,
) -> FileResult<()> {
    cursor.enter(b'[')?;
    let mut is_first = true;
    while cursor.next_entry(b']', &mut is_first)? {
        let entry = scan_entry(cursor)?;
        match is_bare {
            true => sink.push_entry(cursor, entry)?,
            false => sink.push_session(cursor, entry)?,
        }
    }
    if is_bare && !sink.has_sessions {
        return Err(data_error("the list contains no conversations"));
    }
    Ok(())
}

struct EntrySink<F> {
    on_entry: F,
    /// Name of another product's format that an entry has.
    unreadable_format: Option<&'static str>,
    has_sessions: bool,
    /// Number of entries before the first session.
    leading_entries: usize,
    has_too_many: bool,
}

impl<F: FnMut(SessionEntry<'_>) -> ControlFlow<()>> EntrySink<F> {
    /// Counts the entries of a list, or the values up to the end of the file, before any is stored.
    fn check_count(&mut self, cursor: &mut JsonCursor, is_list: bool) -> FileResult<()> {
        let start = cursor.position();
        // Malformed text is reported once the entries before it have been read.
        self.has_too_many = count_entries(cursor, is_list).unwrap_or_default() > MAX_ENTRIES;
        cursor.seek_to(start)?;
        match self.has_too_many {
            true => Err(data_error("too many sessions")),
            false => Ok(()),
        }
    }

    fn push_session(&mut self, cursor: &mut JsonCursor, entry: ScannedEntry) -> FileResult<()> {
        self.has_sessions = true;
        self.push(cursor, entry, true)
    }

    /// Passes on an entry that has to prove that it is a session.
    fn push_entry(&mut self, cursor: &mut JsonCursor, entry: ScannedEntry) -> FileResult<()> {
        match recognize_format(&entry.outline) {
            FoundFormat::Readable(_) => return self.push_session(cursor, entry),
            FoundFormat::Unreadable(name) => self.unreadable_format = Some(name),
            FoundFormat::Unknown => {}
        }
        if !self.has_sessions {
            self.leading_entries += 1;
            if self.leading_entries > MAX_LEADING_ENTRIES {
                return Err(data_error("the first 1,000 entries are not conversations"));
            }
        }
        self.push(cursor, entry, false)
    }

    /// The consumer may move the cursor, which is set back to the end of the entry.
    fn push(
        &mut self,
        cursor: &mut JsonCursor,
        scanned: ScannedEntry,
        is_session: bool,
    ) -> FileResult<()> {
        let end = cursor.position();
        let entry = SessionEntry { cursor: &mut *cursor, scanned, is_session };
        match (self.on_entry)(entry) {
            ControlFlow::Continue(()) => cursor.seek_to(end),
            ControlFlow::Break(()) => Err(data_error("the store failed")),
        }
    }
}

/// Counts entries, up to one more than there may be.
fn count_entries(cursor: &mut JsonCursor, is_list: bool) -> FileResult<usize> {
    if is_list {
        cursor.enter(b'[')?;
    }
    let (mut count, mut is_first) = (0, true);
    while count <= MAX_ENTRIES
        && match is_list {
            true => cursor.next_entry(b']', &mut is_first)?,
            false => cursor.peek()?.is_some(),
        }
    {
        cursor.skip_value()?;
        count += 1;
    }
    Ok(count)
}

enum ScannedValue {
    Entry(ScannedEntry),
    /// The cursor is before the list `sessions` of the file.
    SessionList,
}

fn scan_entry(cursor: &mut JsonCursor) -> FileResult<ScannedEntry> {
    let start = cursor.position();
    if cursor.peek()? != Some(b'{') {
        let outline = sketch_value(cursor, MAX_SKETCH_BYTES)?.json;
        let outline = RawValue::from_string(outline).map_err(internal_error)?;
        return Ok(ScannedEntry { start, outline, too_long: Vec::new(), messages: None });
    }
    match scan_object(cursor, false)? {
        ScannedValue::Entry(entry) => Ok(entry),
        ScannedValue::SessionList => Err(data_error("unexpected list of sessions")),
    }
}

/// Scans an object. `may_be_file` stops at a field `sessions`.
fn scan_object(cursor: &mut JsonCursor, may_be_file: bool) -> FileResult<ScannedValue> {
    let start = cursor.position();
    let mut fields: Vec<(String, Box<RawValue>)> = Vec::new();
    let mut too_long = Vec::new();
    let mut messages = None;
    cursor.enter(b'{')?;
    let mut is_first = true;
    while cursor.next_entry(b'}', &mut is_first)? {
        let name = cursor.read_name()?;
        if may_be_file && name == "sessions" {
            return Ok(ScannedValue::SessionList);
        }
        let is_messages = name == "messages";
        let sketch = if is_messages && cursor.peek()? == Some(b'[') {
            let (index, sketch) = MessageIndex::scan(cursor, MAX_SKETCHED, MAX_SKETCH_BYTES)?;
            messages = Some(index);
            Sketch { json: sketch, is_whole: true }
        } else {
            if is_messages {
                messages = None;
            }
            sketch_value(cursor, max_field_bytes(&name))?
        };
        too_long.retain(|other| *other != name);
        if !sketch.is_whole && is_own_field(&name) {
            too_long.push(name.clone());
        }
        let value = RawValue::from_string(sketch.json).map_err(internal_error)?;
        if let Some((_, other)) = fields.iter_mut().find(|(other, _)| *other == name) {
            *other = value;
        } else if fields.len() < MAX_FIELDS || is_own_field(&name) {
            fields.push((name, value));
        }
    }
    let outline = to_raw_value(&RawFields(fields)).map_err(internal_error)?;
    Ok(ScannedValue::Entry(ScannedEntry { start, outline, too_long, messages }))
}

fn internal_error(error: serde_json::Error) -> JsonFileError {
    data_error(&error.to_string())
}

/// Whether a session of Echoic has the field. Its value must be complete.
fn is_own_field(name: &str) -> bool {
    matches!(
        name,
        "sessionId"
            | "title"
            | "name"
            | "titleSource"
            | "projectId"
            | "status"
            | "archived"
            | "pinned"
            | "meta"
            | "userMeta"
            | "theme"
            | "settings"
            | "participants"
            | "createdAt"
            | "lastSeen"
            | "headId"
            | "readMarks"
            | "invited"
            | "placements"
            | "messages"
    )
}

fn max_field_bytes(name: &str) -> usize {
    match name {
        "settings" => MAX_SETTINGS_BYTES,
        name if is_own_field(name) => MAX_FIELD_BYTES,
        _ => MAX_SKETCH_BYTES,
    }
}

/// A value, or an abbreviation of it.
struct Sketch {
    json: String,
    is_whole: bool,
}

/// Reads a value. Of a long one only the first entries, or the names of the first fields.
fn sketch_value(cursor: &mut JsonCursor, limit: usize) -> FileResult<Sketch> {
    let start = cursor.position();
    let first = cursor.peek()?;
    if let Some(value) = cursor.read_value(limit)? {
        return Ok(Sketch { json: value.get().to_owned(), is_whole: true });
    }
    let end = cursor.position();
    cursor.seek_to(start)?;
    let json = match first {
        Some(b'[') => sketch_list(cursor)?,
        Some(b'{') => sketch_object(cursor)?,
        // A text: its field exists, but it is nothing that a format is recognized by.
        _ => "\"\"".to_owned(),
    };
    cursor.seek_to(end)?;
    Ok(Sketch { json, is_whole: false })
}

fn sketch_list(cursor: &mut JsonCursor) -> FileResult<String> {
    cursor.enter(b'[')?;
    let mut entries = Vec::new();
    let mut is_first = true;
    while entries.len() < MAX_SKETCHED && cursor.next_entry(b']', &mut is_first)? {
        entries.push(sketch_entry(cursor, MAX_SKETCH_BYTES)?);
    }
    Ok(format!("[{}]", entries.join(",")))
}

/// Reads an entry of a list. Of a long object only the names of the first fields.
fn sketch_entry(cursor: &mut JsonCursor, limit: usize) -> FileResult<String> {
    let start = cursor.position();
    let first = cursor.peek()?;
    if let Some(value) = cursor.read_value(limit)? {
        return Ok(value.get().to_owned());
    }
    if first != Some(b'{') {
        return Ok("\"\"".to_owned());
    }
    let end = cursor.position();
    cursor.seek_to(start)?;
    let json = sketch_object(cursor)?;
    cursor.seek_to(end)?;
    Ok(json)
}

fn sketch_object(cursor: &mut JsonCursor) -> FileResult<String> {
    cursor.enter(b'{')?;
    let mut fields = Vec::new();
    let mut is_first = true;
    while fields.len() < MAX_SKETCHED && cursor.next_entry(b'}', &mut is_first)? {
        let name = cursor.read_name()?;
        cursor.skip_value()?;
        fields.push(format!("{}:1", serde_json::Value::String(name)));
    }
    Ok(format!("{{{}}}", fields.join(",")))
}

/// The fields of an object in their order.
struct RawFields(Vec<(String, Box<RawValue>)>);

impl serde::Serialize for RawFields {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Session;
    use utoipa::PartialSchema;

    fn read_all(file: impl Read) -> (Vec<String>, Result<(), String>) {
        let mut taken = Vec::new();
        let outcome = read_sessions(file, &ImportPace::default(), |mut entry| {
            if entry.is_session {
                taken.push(entry.read_text().unwrap().get().to_owned());
            }
            ControlFlow::Continue(())
        });
        (taken, outcome.map_err(|error| error.to_string()))
    }

    /// A field that is missing in both lists would be cut without a note if it is long.
    #[test]
    fn every_field_of_a_session_is_read_or_derived() {
        const DERIVED: &[&str] = &[
            "userId",
            "version",
            "messagesCount",
            "activeTurn",
            "lastMessage",
            "lastMessageAt",
            "startTime",
            "updatedAt",
            "nodes",
        ];
        let schema = serde_json::to_value(Session::schema()).unwrap();
        for name in schema["properties"].as_object().unwrap().keys() {
            let is_derived = DERIVED.contains(&name.as_str());
            assert!(is_own_field(name) != is_derived, "{name}");
        }
    }

    #[test]
    fn sessions_are_found_in_file_lines_and_list() {
        let (one, two) = (r#"{"sessionId":"a","messages":[]}"#, r#"{"mapping":{},"id":"b"}"#);
        for file in [
            format!("\u{feff}[{one},{two}]"),
            format!(r#"{{"format":"echoic","sessions":[{one}, {two}],"messages":7}}"#),
            format!("{one}\n\n{two}\n"),
            format!(" [{one},\n{two}]"),
        ] {
            assert_eq!(read_all(file.as_bytes()), (vec![one.to_owned(), two.to_owned()], Ok(())));
        }
    }

    #[test]
    fn malformed_file_is_rejected_after_its_valid_sessions() {
        let one = r#"{"sessionId":"a"}"#;
        for (rest, taken) in [
            ("", 0),
            ("{}", 0),
            ("[]", 0),
            ("[{}]", 0),
            ("7", 0),
            (r#"{"sessions":{}}"#, 0),
            (&format!("{one} {{"), 1),
            ("[7,{}]", 0),
            (&format!(r#"{{"sessions":[{one}]}} {one}"#), 1),
            (&format!(r#"{{"sessions":[{one},"#), 1),
        ] {
            let (seen, outcome) = read_all(rest.as_bytes());
            assert!(outcome.is_err() && seen.len() == taken, "{rest}: {seen:?} {outcome:?}");
        }
    }

    #[test]
    fn file_of_too_many_sessions_is_refused_before_any_is_read() {
        let entries = vec!["{\"sessionId\":\"a\"}"; MAX_ENTRIES + 2];
        for file in [
            format!("[{}]", entries.join(",")),
            entries.join("\n"),
            format!("{{\"sessions\":[{}]}}", entries.join(",")),
        ] {
            let (taken, outcome) = read_all(file.as_bytes());
            assert!(taken.is_empty());
            assert!(outcome.unwrap_err().contains("at most 100000 sessions"));
        }
    }

    #[test]
    fn odd_entry_among_sessions_does_not_end_the_reading() {
        let one = r#"{"sessionId":"a"}"#;
        for file in [
            format!("[{one},7,{{}},null,{one}]"),
            format!("[{{\"title\":\"\"}},{one},[],{one}]"),
            format!("{one}\n{{}}\n7\n\"x\"\n{one}\n"),
            format!("{{}}\n{{\"title\":\"\"}}\n{one}\n{one}\n"),
        ] {
            assert_eq!(read_all(file.as_bytes()), (vec![one.to_owned(); 2], Ok(())), "{file}");
        }
        let numbers = format!("[{}{one}]", "7,".repeat(MAX_LEADING_ENTRIES + 1));
        assert!(read_all(numbers.as_bytes()).1.unwrap_err().contains("are not conversations"));
    }

    #[test]
    fn long_fields_are_outlined() {
        let list = vec![r#"{"mapping":[1,2,3]}"#; 20_000].join(",");
        let json = format!(r#"{{"chat":{{"history":[{list}]}},"sessionId":"s","meta":[{list}]}}"#);
        let mut cursor = JsonCursor::copy_file(json.as_bytes(), &ImportPace::default()).unwrap();
        let entry = scan_entry(&mut cursor).unwrap();
        assert!(entry.outline.get().starts_with(r#"{"chat":{"history":1},"sessionId":"s""#));
        assert!(entry.outline.get().len() < 1000);
        assert_eq!(entry.too_long, ["meta"]);
        assert_eq!(entry.own_fields().get(), r#"{"chat":{"history":1},"sessionId":"s"}"#);
        assert_eq!(cursor.peek().unwrap(), None);
    }
}
