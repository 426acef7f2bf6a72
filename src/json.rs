//! JSON parsing that is stricter than serde's default, with errors that name the field. `lenient`
//! is its opposite, for the JSON of other programs.

pub mod escapes;
pub mod lenient;
pub mod limits;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::marker::PhantomData;

/// Maximum length of serde's own message in an error, in characters.
const MAX_REASON_CHARS: usize = 200;

/// A field that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// The field, with dots and indexes for nested ones; `body` if the error is not about a field.
    pub field: String,
    /// The rest of the sentence after the field name.
    pub message: String,
}

/// Parses a single JSON object and rejects anything after it.
pub fn parse_object<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, JsonError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let StrictObject(value) =
        serde_path_to_error::deserialize(&mut reader).map_err(to_json_error)?;
    // The deserializer stops after the first value; anything but white space after it is an error.
    reader.end().map_err(|_| JsonError {
        field: "body".to_owned(),
        message: "must be a single JSON value with nothing after it".to_owned(),
    })?;
    Ok(value)
}

fn to_json_error(error: serde_path_to_error::Error<serde_json::Error>) -> JsonError {
    let path = error.path().to_string();
    let inner = error.into_inner();
    // serde_json appends the position to its message. It means nothing to a client that sent the
    // value from a program, and the path says more.
    let place = format!(" at line {} column {}", inner.line(), inner.column());
    let text = inner.to_string();
    let reason = truncate_reason(text.strip_suffix(&place).unwrap_or(&text));
    // serde_path_to_error's paths for the root and for an unknown position.
    let is_nested = !matches!(path.as_str(), "." | "?");
    // serde reports a missing field at the path of its parent.
    let missing = reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    let (field, message) = match missing {
        Some(field) if is_nested => (format!("{path}.{field}"), "is missing".to_owned()),
        Some(field) => (field.to_owned(), "is missing".to_owned()),
        None if is_nested => (path, format!("is invalid: {reason}")),
        None => (
            "body".to_owned(),
            format!("must be JSON in this route's format: {}", truncate_reason(&text)),
        ),
    };
    JsonError { field, message }
}

fn truncate_reason(text: &str) -> String {
    text.chars().take(MAX_REASON_CHARS).collect()
}

/// Parses a single JSON object as [`parse_object`] does, after a look at the bounds of its fields.
pub fn parse_bounded_object<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, JsonError> {
    limits::check_fields(bytes)?;
    parse_object(bytes)
}

/// A struct that is read from an object only. serde's derive also accepts an array of the field
/// values.
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

/// `deserialize_with` for a struct field that must be an object.
pub fn deserialize_object<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    StrictObject::deserialize(deserializer).map(|StrictObject(value)| value)
}

/// `deserialize_with` for a struct field that must be an object or null.
pub fn deserialize_optional_object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let read = Option::<StrictObject<T>>::deserialize(deserializer)?;
    Ok(read.map(|StrictObject(value)| value))
}

/// `deserialize_with` for a field that may be null: distinguishes null from absent.
pub fn deserialize_present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// `deserialize_with` for a field that may be null but not absent.
pub fn deserialize_nullable<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer)
}
