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
const MAX_SESSION: u64 = if cfg!(test) { 1 << 20 } else { 1 << 30 };

/// Reads a file and hands over the JSON of each session as it comes, until `take` breaks, which is
/// an error too. What stands beside `sessions` is passed over.
pub fn read_sessions(
    file: impl Read,
    take: impl FnMut(&RawValue) -> ControlFlow<()>,
) -> Result<(), serde_json::Error> {
    let left = Cell::new(MAX_SESSION);
    let file = BufReader::new(Metered { file, left: &left });
    let mut json = serde_json::Deserializer::from_reader(file);
    let mut sink = Sink { take, left: &left };
    let mut shape = ValueSeed(&mut sink).deserialize(&mut json)?;
    loop {
        match (json.end(), shape) {
            (Ok(()), _) => return Ok(()),
            (Err(error), Shape::Line) if !error.is_io() => {
                shape = ValueSeed(&mut sink).deserialize(&mut json)?;
            }
            (Err(error), _) => return Err(error),
        }
    }
}

/// Gives up on a file that goes on and on without ending a session.
struct Metered<'a, R> {
    file: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let left = self.left.get().checked_sub(read as u64);
        let too_large =
            || io::Error::other(format!("a session must be at most {MAX_SESSION} bytes"));
        self.left.set(left.ok_or_else(too_large)?);
        Ok(read)
    }
}

/// Where sessions go.
struct Sink<'a, F> {
    take: F,
    left: &'a Cell<u64>,
}

impl<F: FnMut(&RawValue) -> ControlFlow<()>> Sink<'_, F> {
    fn take<E: Error>(&mut self, session: &RawValue) -> Result<(), E> {
        self.left.set(MAX_SESSION);
        match (self.take)(session) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(E::custom("the store gave out")),
        }
    }
}

/// What a value of the file turned out to be.
#[derive(Clone, Copy)]
enum Shape {
    /// The whole of it.
    File,
    /// One session; others may follow.
    Line,
}

struct ValueSeed<'a, 'b, F>(&'a mut Sink<'b, F>);

impl<'de, F: FnMut(&RawValue) -> ControlFlow<()>> DeserializeSeed<'de> for ValueSeed<'_, '_, F> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&RawValue) -> ControlFlow<()>> Visitor<'de> for ValueSeed<'_, '_, F> {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list \"sessions\", a session, or a list of conversations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut others = Fields(Vec::new());
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
            return Ok(Shape::File);
        }
        let raw = to_raw_value(&others).map_err(A::Error::custom)?;
        if !is_session(&raw) {
            return Err(A::Error::missing_field("sessions"));
        }
        self.0.take(&raw)?;
        Ok(Shape::Line)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Shape, A::Error> {
        ListSeed { sink: self.0, is_bare: true }.visit_seq(list)?;
        Ok(Shape::File)
    }
}

/// The fields of an object that may be a session.
struct Fields(Vec<(String, Box<RawValue>)>);

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Whether a value that stands by itself is one session, and no other JSON.
fn is_session(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Signs {
        session_id: Option<IgnoredAny>,
        messages: Option<IgnoredAny>,
        mapping: Option<IgnoredAny>,
    }
    let signs: Result<StrictObject<Signs>, _> = serde_json::from_str(raw.get());
    signs.is_ok_and(|StrictObject(signs)| {
        signs.session_id.is_some() || signs.messages.is_some() || signs.mapping.is_some()
    })
}

struct ListSeed<'a, 'b, F> {
    sink: &'a mut Sink<'b, F>,
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
            self.sink.take(&raw)?;
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

    fn read(file: impl Read) -> (Vec<String>, Result<(), String>) {
        let mut taken = Vec::new();
        let outcome = read_sessions(file, |raw| {
            taken.push(raw.get().to_owned());
            ControlFlow::Continue(())
        });
        (taken, outcome.map_err(|error| error.to_string()))
    }

    #[test]
    fn a_session_is_found_in_a_file_in_a_line_and_in_a_list() {
        let (one, two) = (r#"{"sessionId":"a","messages":[]}"#, r#"{"mapping":{},"id":"b"}"#);
        for file in [
            format!(r#"{{"format":"echoic","sessions":[{one}, {two}],"messages":7}}"#),
            format!("{one}\n\n{two}\n"),
            format!(" [{one},\n{two}]"),
        ] {
            assert_eq!(read(file.as_bytes()), (vec![one.to_owned(), two.to_owned()], Ok(())));
        }
    }

    #[test]
    fn what_is_no_file_of_sessions_is_refused_after_what_came_before_it() {
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
            let (seen, outcome) = read(rest.as_bytes());
            assert!(outcome.is_err() && seen.len() == taken, "{rest}: {seen:?} {outcome:?}");
        }
    }

    #[test]
    fn a_session_that_does_not_end_is_given_up_and_many_that_do_are_read() {
        let endless = br#"{"sessionId":""#.chain(io::repeat(b'x'));
        assert!(read(endless).1.unwrap_err().contains("at most 1048576 bytes"));
        let long = format!("{{\"sessionId\":\"{}\"}}\n", "x".repeat(1 << 19));
        assert_eq!(read(long.repeat(9).as_bytes()).0.len(), 9);
    }
}
