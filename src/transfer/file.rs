//! A file of sessions, read session by session: never more than one of them is in memory.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::io::Read;
use std::ops::ControlFlow;

/// Reads `{"sessions": […]}` and hands over the JSON of each session as it comes, until `take`
/// breaks, which is an error too. What stands beside `sessions` is passed over.
pub fn read_sessions(
    file: impl Read,
    take: impl FnMut(&RawValue) -> ControlFlow<()>,
) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_reader(file);
    FileSeed(take).deserialize(&mut json)?;
    json.end()
}

struct FileSeed<F>(F);

impl<'de, F: FnMut(&RawValue) -> ControlFlow<()>> DeserializeSeed<'de> for FileSeed<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&RawValue) -> ControlFlow<()>> Visitor<'de> for FileSeed<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a list \"sessions\"")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut has_sessions = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "sessions" {
                has_sessions = true;
                map.next_value_seed(SessionsSeed(&mut self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if has_sessions { Ok(()) } else { Err(serde::de::Error::missing_field("sessions")) }
    }
}

struct SessionsSeed<F>(F);

impl<'de, F: FnMut(&RawValue) -> ControlFlow<()>> DeserializeSeed<'de> for SessionsSeed<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(&RawValue) -> ControlFlow<()>> Visitor<'de> for SessionsSeed<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sessions")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(raw) = list.next_element::<Box<RawValue>>()? {
            if (self.0)(&raw).is_break() {
                return Err(serde::de::Error::custom("the store gave out"));
            }
        }
        Ok(())
    }
}
