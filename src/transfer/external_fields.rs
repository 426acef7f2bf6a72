//! Reads the fields that most formats of other products have: lists of messages, and the role, the
//! parent and the time of a message. Notes the values that cannot be understood.

use super::external_conversation::{MessageBlock, ParentLink};
use super::external_values::{find_id, find_text, find_time};
use super::import_notes::ImportNotes;
use super::lenient_values::{convert_role, join_place, parse_role};
use crate::domain::{Role, Timestamp};
use crate::error::{Error, Result};
use crate::json::lenient::{RawObject, parse_list};
use serde_json::Value;
use serde_json::value::RawValue;

/// The messages of a list, with their paths. They are not parsed, so that only one at a time takes
/// several times the size of its text. Entries that are not objects are noted. Fails for a value
/// that is not a list.
pub(super) fn list_messages<'a>(
    raw: &'a RawValue,
    field: &'static str,
    left_out: &mut ImportNotes,
) -> Result<Vec<(String, &'a RawValue)>> {
    let Some(list) = RawObject::from_value(raw).get(field) else { return Ok(Vec::new()) };
    if !list.get().starts_with('[') {
        return Err(Error::invalid_field(field, "must be a list of messages"));
    }
    let mut messages = Vec::new();
    for (index, message) in parse_list(list).into_iter().enumerate() {
        let path = format!("{field}[{index}]");
        match message.get().starts_with('{') {
            true => messages.push((path, message)),
            false => left_out.add("message", &path),
        }
    }
    Ok(messages)
}

/// The role of a message. An unknown one becomes a tool, with its name in brackets as the first
/// block.
pub(super) fn read_role(
    message: &Value,
    field: &str,
    path: &str,
    mended: &mut ImportNotes,
) -> (Role, Option<MessageBlock>) {
    let name = find_text(message, field).unwrap_or_default();
    if parse_role(&name).is_none() {
        mended.add("role", &join_place(path, field));
    }
    let (role, mark) = convert_role(&name);
    (role, mark.map(MessageBlock::Text))
}

/// The parent of a message. One without the field follows the preceding message.
pub(super) fn read_parent(
    message: &Value,
    field: &str,
    path: &str,
    mended: &mut ImportNotes,
) -> ParentLink {
    let Some(value) = message.get(field) else { return ParentLink::Previous };
    let id = find_id(message, field);
    if id.is_none() && !is_empty(value) {
        mended.add("parent", &join_place(path, field));
    }
    id.map_or(ParentLink::Root, ParentLink::Message)
}

/// The time in a field. One that cannot be understood counts as absent.
pub(super) fn read_any_time(
    value: &Value,
    field: &str,
    path: &str,
    mended: &mut ImportNotes,
) -> Option<Timestamp> {
    let time = find_time(value, field);
    if time.is_none() && value.get(field).is_some_and(|value| !is_empty(value)) {
        mended.add(field, &join_place(path, field));
    }
    time
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}
