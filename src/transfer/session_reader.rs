//! A file of sessions, read session by session: never more than one of them is in memory.
//!
//! Three shapes are told apart as they are read: `{"sessions": […]}`, one session after the other
//! (`jsonl`), and a list of conversations, as ChatGPT writes it.

use crate::json::StrictObject;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;

/// The most bytes of one session's JSON, which is read whole before it is handed over.
const MAX_SESSION_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 1 << 30 };

/// Reads a file and hands over the JSON of each session as it comes, until `take` breaks, which is
/// an error too. What stands beside `sessions` is passed over.
pub fn read_sessions(
    file: impl Read,
    take: impl FnMut(&RawValue) -> ControlFlow<()>,
) -> Result<(), serde_json::Error> {
    let left = Cell::new(MAX_SESSION_BYTES);
    let file = BufReader::new(MeteredReader { file, bytes_left: &left });
    let mut json = serde_json::Deserializer::from_reader(file);
    let mut sink = SessionSink { on_session: take, bytes_left: &left };
    let mut shape = ValueSeed(&mut sink).deserialize(&mut json)?;
    loop {
        match (json.end(), shape) {
            (Ok(()), _) => return Ok(()),
            (Err(error), FileShape::SessionLine) if !error.is_io() => {
                shape = ValueSeed(&mut sink).deserialize(&mut json)?;
            }
            (Err(error), _) => return Err(error),
        }
    }
}

/// Gives up on a file that goes on and on without ending a session.
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

/// Where sessions go.
struct SessionSink<'a, F> {
    on_session: F,
    bytes_left: &'a Cell<u64>,
}

impl<F: FnMut(&RawValue) -> ControlFlow<()>> SessionSink<'_, F> {
    fn push_session<E: Error>(&mut self, session: &RawValue) -> Result<(), E> {
        self.bytes_left.set(MAX_SESSION_BYTES);
        match (self.on_session)(session) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(E::custom("the store gave out")),
        }
    }
}

/// What a value of the file turned out to be.
#[derive(Clone, Copy)]
enum FileShape {
    /// The whole of it.
    WholeFile,
    /// One session; others may follow.
    SessionLine,
}

struct ValueSeed<'a, 'b, F>(&'a mut SessionSink<'b, F>);

impl<'de, F: FnMut(&RawValue) -> ControlFlow<()>> DeserializeSeed<'de> for ValueSeed<'_, '_, F> {
    type Value = FileShape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FileShape, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&RawValue) -> ControlFlow<()>> Visitor<'de> for ValueSeed<'_, '_, F> {
    type Value = FileShape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list \"sessions\", a session, or a list of conversations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FileShape, A::Error> {
        let mut others = RawFields(Vec::new());
        let mut has_sessions = false;
        while let Some(key) = map.next_key::<String>()? {
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
        if !is_session(&raw) {
            return Err(A::Error::missing_field("sessions"));
        }
        self.0.push_session(&raw)?;
        Ok(FileShape::SessionLine)
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

/// Whether a value that stands by itself is one session, and no other JSON.
fn is_session(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ShapeMarkers {
        session_id: Option<IgnoredAny>,
        messages: Option<IgnoredAny>,
        mapping: Option<IgnoredAny>,
    }
    let signs: Result<StrictObject<ShapeMarkers>, _> = serde_json::from_str(raw.get());
    signs.is_ok_and(|StrictObject(signs)| {
        signs.session_id.is_some() || signs.messages.is_some() || signs.mapping.is_some()
    })
}

struct ListSeed<'a, 'b, F> {
    sink: &'a mut SessionSink<'b, F>,
    /// The file itself is the list, so nothing else has said yet what it holds.
    is_bare: bool,
}

impl<'de, F: FnMut(&RawValue) -> ControlFlow<()>> DeserializeSeed<'de> for ListSeed<'_, '_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(&RawValue) -> ControlFlow<()>> Visitor<'de> for ListSeed<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sessions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut is_empty = true;
        while let Some(raw) = list.next_element::<Box<RawValue>>()? {
            if self.is_bare && !is_session(&raw) {
                return Err(A::Error::custom("an entry of the list is no conversation"));
            }
            is_empty = false;
            self.sink.push_session(&raw)?;
        }
        if self.is_bare && is_empty {
            return Err(A::Error::custom("the list holds no conversation"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(file: impl Read) -> (Vec<String>, Result<(), String>) {
        let mut taken = Vec::new();
        let outcome = read_sessions(file, |raw| {
            taken.push(raw.get().to_owned());
            ControlFlow::Continue(())
        });
        (taken, outcome.map_err(|error| error.to_string()))
    }

    #[test]
    fn sessions_are_found_in_file_lines_and_list() {
        let (one, two) = (r#"{"sessionId":"a","messages":[]}"#, r#"{"mapping":{},"id":"b"}"#);
        for file in [
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
            (&format!("[{one},7]"), 1),
            (&format!("{one} {{"), 1),
            (&format!("{one} {{}}"), 1),
            (&format!(r#"{{"sessions":[{one}]}} {one}"#), 1),
            (&format!(r#"{{"sessions":[{one},"#), 1),
        ] {
            let (seen, outcome) = read_all(rest.as_bytes());
            assert!(outcome.is_err() && seen.len() == taken, "{rest}: {seen:?} {outcome:?}");
        }
    }

    #[test]
    fn endless_session_is_rejected_and_long_file_is_read() {
        let endless = br#"{"sessionId":""#.chain(io::repeat(b'x'));
        assert!(read_all(endless).1.unwrap_err().contains("at most 1048576 bytes"));
        let long = format!("{{\"sessionId\":\"{}\"}}\n", "x".repeat(1 << 19));
        assert_eq!(read_all(long.repeat(9).as_bytes()).0.len(), 9);
    }
}
