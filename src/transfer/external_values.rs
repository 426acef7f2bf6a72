//! Reads the values of other products' exports leniently: one of an unexpected type counts as
//! absent, so that an odd value does not cost a conversation. Renders tool calls as text.

use super::lenient_values::parse_time;
use crate::domain::Timestamp;
use crate::error::{Error, Result};
use crate::json;
use serde_json::Value;
use serde_json::value::RawValue;

/// Parses the JSON of a conversation.
pub(super) fn parse_value(raw: &RawValue) -> Result<Value> {
    json::parse_object(raw.get().as_bytes())
        .map_err(|error| Error::invalid_field(error.field, error.message))
}

/// A text that is not empty.
pub(super) fn find_text(value: &Value, field: &str) -> Option<String> {
    value.get(field)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// An id: a text, a number, or MongoDB's `{"$oid": …}`.
pub(super) fn find_id(value: &Value, field: &str) -> Option<String> {
    let id = value.get(field)?;
    match id {
        Value::Number(number) => Some(number.to_string()),
        Value::Object(_) => find_text(id, "$oid"),
        _ => find_text(value, field),
    }
}

pub(super) fn is_set(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool) == Some(true)
}

/// The entries of a list; none if it is no list.
pub(super) fn list_entries<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A time in any form.
pub(super) fn find_time(value: &Value, field: &str) -> Option<Timestamp> {
    parse_time(value.get(field)?)
}

/// A tool call as text: the name in brackets, then the arguments. Calls are not imported as such,
/// because vendors reject calls of functions that the request does not offer.
pub(super) fn render_call(name: &str, input: &Value) -> String {
    let arguments = match input {
        Value::String(text) => return format!("[{name}]\n\n{}", fence_text("", text)),
        Value::Object(arguments) => arguments,
        _ => return format!("[{name}]"),
    };
    let mut lines = vec![format!("[{name}]")];
    let mut blocks = Vec::new();
    for (field, value) in arguments {
        match value.as_str() {
            Some(text) if text.contains('\n') => blocks.push(fence_text("", text)),
            Some(text) => lines.push(format!("{field}: {text}")),
            None => lines.push(format!("{field}: {value}")),
        }
    }
    blocks.insert(0, lines.join("\n"));
    blocks.join("\n\n")
}

/// The result of a tool as text.
pub(super) fn render_result(name: &str, output: &str) -> String {
    match output.trim().is_empty() {
        true => String::new(),
        false => format!("[result of {name}]\n\n{}", fence_text("", output)),
    }
}

/// Fences a text with more backticks than any run inside it.
pub(super) fn fence_text(language: &str, text: &str) -> String {
    let longest = text.split(|letter| letter != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(usize::max(3, longest + 1));
    format!("{fence}{language}\n{}\n{fence}", text.trim_matches('\n'))
}

/// The text of content in one of the usual forms: a string, `{"text"}`, `{"value"}`, or a list of
/// them.
pub(super) fn collect_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let texts = list.iter().map(collect_text).filter(|text| !text.is_empty());
            texts.collect::<Vec<_>>().join("\n\n")
        }
        Value::Object(fields) => {
            let find = |name: &&str| fields.get(*name).map(collect_text);
            let texts = ["text", "value", "content", "output"].iter().filter_map(find);
            let labels = ["title", "url"].iter().filter_map(find);
            let text = texts.into_iter().find(|text| !text.is_empty());
            text.unwrap_or_else(|| labels.collect::<Vec<_>>().join(" ").trim().to_owned())
        }
        _ => String::new(),
    }
}
