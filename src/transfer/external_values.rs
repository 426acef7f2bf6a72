//! Reads the values of other products' exports leniently: one of an unexpected type counts as
//! absent, so that an odd value does not cost a conversation. Renders tool calls as text.

use super::import_notes::ImportNotes;
use super::lenient_values::{MAX_FIELD_BYTES, parse_time};
use crate::domain::Timestamp;
use crate::json::lenient::{RawObject, parse_text};
use memchr::memchr2;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;

/// Levels of nesting at which a value that cannot be parsed is split into its entries. A block of
/// a message is less deep in every format.
const MAX_SPLIT_LEVELS: usize = 12;

/// Commas that the text of a value may have for it to be parsed as a whole, and entries that a list
/// may have to be split. Each parsed value takes many times the size of its text.
const MAX_COMMAS: usize = 200_000;
const MAX_SPLIT_ENTRIES: usize = 10_000;

/// Parses JSON. A value inside of it that cannot be represented, such as `1e999` or one that is
/// nested too deeply or consists of very many, becomes the text of its JSON.
pub(super) fn parse_value(raw: &RawValue) -> Value {
    parse_levels(raw, MAX_SPLIT_LEVELS)
}

fn parse_levels(raw: &RawValue, levels: usize) -> Value {
    let json = raw.get();
    if !has_many_values(json)
        && let Ok(value) = serde_json::from_str(json)
    {
        return value;
    }
    let Some(levels) = levels.checked_sub(1) else { return Value::String(json.to_owned()) };
    if let Ok(ShortList(list)) = serde_json::from_str::<ShortList<'_>>(json) {
        return list.into_iter().map(|entry| parse_levels(entry, levels)).collect();
    }
    match serde_json::from_str::<RawObject<'_>>(json) {
        Ok(object) => {
            let fields = object.fields();
            fields.map(|(name, value)| (name.to_owned(), parse_levels(value, levels))).collect()
        }
        Err(_) => Value::String(json.to_owned()),
    }
}

/// Parses an object without the fields named, which hold its messages: these are read one by one.
/// Other fields of absurd length are left out.
pub(super) fn parse_without(raw: &RawValue, skipped: &[&str], left_out: &mut ImportNotes) -> Value {
    let object = RawObject::from_value(raw);
    let fields = object.fields().filter(|(name, _)| !skipped.contains(name));
    let fields = fields.filter(|(name, value)| is_short(name, value, left_out));
    fields.map(|(name, value)| (name.to_owned(), parse_value(value))).collect()
}

/// The text of a field, unless it is of absurd length.
pub(super) fn read_short_text(
    object: &RawObject<'_>,
    field: &str,
    left_out: &mut ImportNotes,
) -> Option<String> {
    object.get(field).filter(|value| is_short(field, value, left_out)).and_then(parse_text)
}

fn is_short(field: &str, value: &RawValue, left_out: &mut ImportNotes) -> bool {
    let is_short = value.get().len() <= MAX_FIELD_BYTES;
    if !is_short {
        left_out.add(field, field);
    }
    is_short
}

/// Whether a value may contain too many others to be parsed as a whole in little memory.
pub(super) fn has_many_values(json: &str) -> bool {
    // Fewer bytes cannot contain too many values.
    json.len() > 2 * MAX_COMMAS && count_commas(json.as_bytes()) > MAX_COMMAS
}

/// The commas in JSON, without those in texts.
fn count_commas(mut json: &[u8]) -> usize {
    let mut count = 0;
    while let Some(at) = memchr2(b',', b'"', json) {
        let byte = json[at];
        json = &json[at + 1..];
        if byte == b',' {
            count += 1;
            continue;
        }
        while let Some(at) = memchr2(b'\\', b'"', json) {
            let is_end = json[at] == b'"';
            json = json.get(at + if is_end { 1 } else { 2 }..).unwrap_or_default();
            if is_end {
                break;
            }
        }
    }
    count
}

/// A list with few entries.
struct ShortList<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for ShortList<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;

        impl<'de> Visitor<'de> for ListVisitor {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list with few entries")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = list.next_element()? {
                    if entries.len() == MAX_SPLIT_ENTRIES {
                        return Err(A::Error::custom("too many entries"));
                    }
                    entries.push(entry);
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_seq(ListVisitor).map(Self)
    }
}

/// A text that is not empty.
pub(super) fn find_text(value: &Value, field: &str) -> Option<String> {
    value.get(field)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// An id: a text, a number, or MongoDB's `{"$oid": …}`.
pub(super) fn find_id(value: &Value, field: &str) -> Option<String> {
    to_id(value.get(field)?)
}

pub(super) fn to_id(id: &Value) -> Option<String> {
    match id {
        Value::Number(number) => Some(number.to_string()),
        Value::Object(_) => find_text(id, "$oid"),
        _ => id.as_str().filter(|id| !id.is_empty()).map(str::to_owned),
    }
}

pub(super) fn is_set(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool) == Some(true)
}

/// The entries of a list; none if it is no list.
pub(super) fn list_entries<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The blocks of a message's content. A value that is not a list counts as the only one.
pub(super) fn list_blocks<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    match value.get(field) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(list)) => list,
        Some(block) => std::slice::from_ref(block),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn very_many_values_become_text() {
        let many = format!("[{}0]", "0,".repeat(MAX_COMMAS + 1));
        let raw = format!(r#"{{"blocks": [{{"input": {many}, "text": "a,\"b"}}]}}"#);
        let value = parse_value(&RawValue::from_string(raw).unwrap());
        assert_eq!(value["blocks"][0]["text"], "a,\"b");
        assert_eq!(value["blocks"][0]["input"].as_str().unwrap(), many);
        let texts = format!("[\"{}\"]", ",\\\"".repeat(MAX_COMMAS + 1));
        assert!(!has_many_values(&texts) && has_many_values(&many));
    }

    #[test]
    fn values_that_cannot_be_parsed_become_text() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let raw = format!(r#"{{"a": "kept", "b": [1, 1e999, {{"c": 1e999}}], "deep": {deep}}}"#);
        let mut value = parse_value(&RawValue::from_string(raw).unwrap());
        let mut inner = value["deep"].take();
        let mut levels = 0;
        while let Some(entry) = inner.get_mut(0) {
            inner = entry.take();
            levels += 1;
        }
        let text = inner.as_str().unwrap_or_default();
        assert_eq!((levels * 2 + text.len(), levels < 100), (deep.len(), true));
        assert_eq!(value, json!({"a": "kept", "b": [1, "1e999", {"c": "1e999"}], "deep": null}));
    }
}
