//! Reads a file of sessions one at a time, so that at most one is in memory.
//!
//! The format is detected while reading: `{"sessions": […]}`, one session per line (`jsonl`), or a
//! list of conversations as ChatGPT writes it.

use super::json_repair::JsonRepairReader;
use super::source_format::{FoundFormat, describe_unreadable, recognize_format};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;

/// Maximum size of a session's JSON, in bytes. A session is read completely before it is passed on.
const MAX_SESSION_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 1 << 30 };

/// Entries that may precede the first session of a list. Without a bound, a long list of something
/// else would be read to its end.
const MAX_LEADING_ENTRIES: usize = 1000;

/// An entry of the file.
#[derive(Debug, Clone, Copy)]
pub enum SessionEntry<'a> {
    /// An entry in the place of a session. Its fields are not checked.
    Session(&'a RawValue),
    /// A JSON value among sessions that does not look like one.
    Other(&'a RawValue),
}

/// Calls `take` with each entry, until it breaks, which is reported as an error. Fields next to
/// `sessions` are ignored. A file without any session is an error, too.
pub fn read_sessions(
    file: impl Read,
    take: impl FnMut(SessionEntry<'_>) -> ControlFlow<()>,
) -> Result<(), ReadError> {
    let left = Cell::new(MAX_SESSION_BYTES);
    let file = MeteredReader { file, bytes_left: &left };
    let mut sink = EntrySink {
        on_entry: take,
        bytes_left: &left,
        unreadable_format: None,
        has_sessions: false,
        leading_entries: 0,
    };
    read_values(file, &mut sink).map_err(|error| match sink.unreadable_format {
        Some(name) if !sink.has_sessions => ReadError::UnreadableFormat(name),
        _ => ReadError::Json { error, has_sessions: sink.has_sessions },
    })
}

/// The reason why a file could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Another product's export.
    #[error("{}", describe_unreadable(.0))]
    UnreadableFormat(&'static str),
    #[error(
        "must be {{\"sessions\": […]}}, one session per line, or a list of conversations: {error}"
    )]
    Json {
        error: serde_json::Error,
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

fn read_values<F: FnMut(SessionEntry<'_>) -> ControlFlow<()>>(
    file: impl Read,
    sink: &mut EntrySink<'_, F>,
) -> Result<(), serde_json::Error> {
    let file = JsonRepairReader::new(file);
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(file));
    let shape = ValueSeed(sink).deserialize(&mut json)?;
    loop {
        match (json.end(), shape) {
            (Ok(()), FileShape::Lines) if !sink.has_sessions => {
                return Err(Error::missing_field("sessions"));
            }
            (Ok(()), _) => return Ok(()),
            // `end` fails because there is more input: the next line.
            (Err(error), FileShape::Lines) if !error.is_io() => {
                let line = Box::<RawValue>::deserialize(&mut json)?;
                sink.push_entry(&line)?;
            }
            (Err(error), _) => return Err(error),
        }
    }
}

/// Limits the bytes read per session, so that a file whose session never ends cannot exhaust the
/// memory.
struct MeteredReader<'a, R> {
    file: R,
    bytes_left: &'a Cell<u64>,
}

impl<R: Read> Read for MeteredReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let left = self.bytes_left.get().checked_sub(read as u64);
        let too_large =
            || io::Error::other(format!("a session must be at most {MAX_SESSION_BYTES} bytes"));
        self.bytes_left.set(left.ok_or_else(too_large)?);
        Ok(read)
    }
}

struct EntrySink<'a, F> {
    on_entry: F,
    bytes_left: &'a Cell<u64>,
    /// Name of another product's format that an entry has.
    unreadable_format: Option<&'static str>,
    has_sessions: bool,
    /// Number of entries before the first session.
    leading_entries: usize,
}

impl<F: FnMut(SessionEntry<'_>) -> ControlFlow<()>> EntrySink<'_, F> {
    fn push_session<E: Error>(&mut self, session: &RawValue) -> Result<(), E> {
        self.has_sessions = true;
        self.push(SessionEntry::Session(session))
    }

    /// Passes on an entry that has to prove that it is a session.
    fn push_entry<E: Error>(&mut self, raw: &RawValue) -> Result<(), E> {
        match recognize_format(raw) {
            FoundFormat::Readable(_) => return self.push_session(raw),
            FoundFormat::Unreadable(name) => self.unreadable_format = Some(name),
            FoundFormat::Unknown => {}
        }
        if !self.has_sessions {
            self.leading_entries += 1;
            if self.leading_entries > MAX_LEADING_ENTRIES {
                return Err(E::custom("the first 1,000 entries are not conversations"));
            }
        }
        self.push(SessionEntry::Other(raw))
    }

    fn push<E: Error>(&mut self, entry: SessionEntry<'_>) -> Result<(), E> {
        self.bytes_left.set(MAX_SESSION_BYTES);
        match (self.on_entry)(entry) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(E::custom("the store failed")),
        }
    }
}

/// The kind of a top-level value.
#[derive(Clone, Copy)]
enum FileShape {
    /// The complete file.
    WholeFile,
    /// One entry; more may follow.
    Lines,
}

struct ValueSeed<'a, 'b, F>(&'a mut EntrySink<'b, F>);

impl<'de, F: FnMut(SessionEntry<'_>) -> ControlFlow<()>> DeserializeSeed<'de>
    for ValueSeed<'_, '_, F>
{
    type Value = FileShape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FileShape, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(SessionEntry<'_>) -> ControlFlow<()>> Visitor<'de> for ValueSeed<'_, '_, F> {
    type Value = FileShape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list \"sessions\", a session, or a list of conversations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FileShape, A::Error> {
        let mut others = RawFields(Vec::new());
        let mut has_sessions = false;
        while let Some(key) = map.next_key::<String>()? {
            // Fields before `sessions` are dropped: they belong to the file, not to a session.
            if key == "sessions" {
                has_sessions = true;
                others.0.clear();
                map.next_value_seed(ListSeed { sink: self.0, is_bare: false })?;
            } else if has_sessions {
                map.next_value::<IgnoredAny>()?;
            } else {
                others.0.push((key, map.next_value()?));
            }
        }
        if has_sessions {
            return Ok(FileShape::WholeFile);
        }
        let raw = to_raw_value(&others).map_err(A::Error::custom)?;
        self.0.push_entry(&raw)?;
        Ok(FileShape::Lines)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<FileShape, A::Error> {
        ListSeed { sink: self.0, is_bare: true }.visit_seq(list)?;
        Ok(FileShape::WholeFile)
    }
}

/// The fields of an object that may be a session.
struct RawFields(Vec<(String, Box<RawValue>)>);

impl Serialize for RawFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

struct ListSeed<'a, 'b, F> {
    sink: &'a mut EntrySink<'b, F>,
    /// The list is the whole file, so its entries have to prove that they are sessions.
    is_bare: bool,
}

impl<'de, F: FnMut(SessionEntry<'_>) -> ControlFlow<()>> DeserializeSeed<'de>
    for ListSeed<'_, '_, F>
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(SessionEntry<'_>) -> ControlFlow<()>> Visitor<'de> for ListSeed<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sessions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(raw) = list.next_element::<Box<RawValue>>()? {
            if self.is_bare {
                self.sink.push_entry(&raw)?;
            } else {
                self.sink.push_session(&raw)?;
            }
        }
        if self.is_bare && !self.sink.has_sessions {
            return Err(A::Error::custom("the list contains no conversations"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(file: impl Read) -> (Vec<String>, Result<(), String>) {
        let mut taken = Vec::new();
        let outcome = read_sessions(file, |entry| {
            if let SessionEntry::Session(raw) = entry {
                taken.push(raw.get().to_owned());
            }
            ControlFlow::Continue(())
        });
        (taken, outcome.map_err(|error| error.to_string()))
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
    fn endless_session_is_rejected_and_long_file_is_read() {
        let endless = br#"{"sessionId":""#.chain(io::repeat(b'x'));
        assert!(read_all(endless).1.unwrap_err().contains("at most 1048576 bytes"));
        let long = format!("{{\"sessionId\":\"{}\"}}\n", "x".repeat(1 << 19));
        assert_eq!(read_all(long.repeat(9).as_bytes()).0.len(), 9);
    }
}
