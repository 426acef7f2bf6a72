//! Values that every store keeps in the same form: JSON as text, enum variants by name, counts as
//! signed integers.

use crate::domain::message::MessageParts;
use crate::domain::session::JsonObject;
use crate::error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) fn encode_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

pub(super) fn decode_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(Error::store_unavailable)
}

pub(super) fn decode_optional_json<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>> {
    text.map(decode_json).transpose()
}

/// An empty list of parts is stored as nothing at all.
pub(super) fn encode_parts(parts: &MessageParts) -> Option<&str> {
    (!parts.is_empty()).then(|| parts.as_json())
}

pub(super) fn decode_parts(stored: Option<String>) -> Result<MessageParts> {
    match stored {
        None => Ok(MessageParts::default()),
        Some(text) => MessageParts::from_stored(text).ok_or_else(|| unreadable_value("parts")),
    }
}

pub(super) fn decode_object(text: String) -> Result<JsonObject> {
    JsonObject::from_stored(text).ok_or_else(|| unreadable_value("an object"))
}

/// Decodes the name of an enum's variant. An unknown one, as a newer version may write, is an
/// error: read as anything else it would be lost when the value is copied or moved to another
/// store.
pub(super) fn decode_name<T>(from_name: impl Fn(&str) -> Option<T>, name: &str) -> Result<T> {
    from_name(name).ok_or_else(|| unreadable_value(name))
}

pub(super) fn unreadable_value(what: &str) -> Error {
    Error::store_unavailable(format!("stored value cannot be read: {what}"))
}

/// Converts a count to the signed integers of databases, saturating.
pub(super) fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
