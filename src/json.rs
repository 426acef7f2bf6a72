//! Reading JSON more strictly than serde does by itself.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::marker::PhantomData;

/// How much of serde's own sentence is passed on, in characters.
const MAX_REASON_CHARS: usize = 200;

/// A field that could not be read, and the end of a sentence that says what it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// The field with dots and indexes for nested ones; `body` where it is none of them.
    pub field: String,
    /// What it wants, to be read after its name.
    pub message: String,
}

/// Reads one JSON object with nothing behind it.
pub fn parse_object<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, JsonError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let StrictObject(value) =
        serde_path_to_error::deserialize(&mut reader).map_err(to_json_error)?;
    reader.end().map_err(|_| JsonError {
        field: "body".to_owned(),
        message: "must be one JSON value with nothing behind it".to_owned(),
    })?;
    Ok(value)
}

fn to_json_error(error: serde_path_to_error::Error<serde_json::Error>) -> JsonError {
    let path = error.path().to_string();
    let inner = error.into_inner();
    let place = format!(" at line {} column {}", inner.line(), inner.column());
    let text = inner.to_string();
    let reason = truncate_reason(text.strip_suffix(&place).unwrap_or(&text));
    let is_nested = !matches!(path.as_str(), "." | "?");
    let missing = reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    let (field, wants) = match missing {
        Some(field) if is_nested => (format!("{path}.{field}"), "is missing".to_owned()),
        Some(field) => (field.to_owned(), "is missing".to_owned()),
        None if is_nested => (path, format!("is wrong: {reason}")),
        None => (
            "body".to_owned(),
            format!("must be JSON of this route's shape: {}", truncate_reason(&text)),
        ),
    };
    JsonError { field, message: wants }
}

fn truncate_reason(text: &str) -> String {
    text.chars().take(MAX_REASON_CHARS).collect()
}

/// A struct that is read from an object only; serde takes a list of its fields' values as well.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(transparent)]
pub struct StrictObject<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for StrictObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

/// For a field that is such a struct.
pub fn deserialize_object<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    StrictObject::deserialize(deserializer).map(|StrictObject(value)| value)
}

/// For a field that may be such a struct, or null.
pub fn deserialize_optional_object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let read = Option::<StrictObject<T>>::deserialize(deserializer)?;
    Ok(read.map(|StrictObject(value)| value))
}

/// For a field that may be null: tells one that is null from one that is missing.
pub fn deserialize_present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// For a field that may be null but not missing.
pub fn deserialize_nullable<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer)
}
