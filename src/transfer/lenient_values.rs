//! Reads the values of files that other programs write in many ways: times, roles and ids.

use super::import_notes::ImportNotes;
use crate::domain::{MessageId, Role, Timestamp};
use crate::json::lenient::RawObject;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// The last second of the year 9999.
const MAX_SECONDS: f64 = 253_402_300_799.0;
/// Milliseconds, microseconds and nanoseconds of a second.
const SUBSECOND_UNITS: [f64; 3] = [1e3, 1e6, 1e9];

/// Maximum size of a session's field other than its messages and settings.
pub(super) const MAX_FIELD_BYTES: usize = 256 << 10;

/// Maximum length of the JSON of a time.
const MAX_TIME_BYTES: usize = 1 << 10;

/// The form in which a format writes times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeForm {
    /// Seconds since 1970, with a fraction.
    Seconds,
    /// RFC 3339.
    Text,
}

/// Reads the time in a field. A time in another form is noted as mended; one that cannot be
/// understood counts as absent.
pub(super) fn read_time(
    object: &RawObject<'_>,
    field: &str,
    form: TimeForm,
    place: &str,
    mended: &mut ImportNotes,
) -> Option<Timestamp> {
    let json = object.get(field)?.get();
    // A number that is out of range is no value.
    let value: Value = match json.len() <= MAX_TIME_BYTES {
        true => serde_json::from_str(json).unwrap_or_default(),
        false => Value::Null,
    };
    let is_expected = match (&value, form) {
        (Value::Number(number), TimeForm::Seconds) => {
            number.as_f64().is_some_and(|seconds| (0.0..=MAX_SECONDS).contains(&seconds))
        }
        (Value::String(text), TimeForm::Text) => Timestamp::parse(text).is_some(),
        _ => false,
    };
    if !is_expected {
        mended.add(field, &join_place(place, field));
    }
    parse_time(&value)
}

/// The path of a field in an object.
pub(super) fn join_place(place: &str, field: &str) -> String {
    if place.is_empty() { field.to_owned() } else { format!("{place}.{field}") }
}

/// Parses a time in any common form: RFC 3339 with or without a zone, a date, or a number of
/// seconds or smaller units since 1970.
pub(super) fn parse_time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Number(number) => parse_number_of_units(number.as_f64()?),
        Value::String(text) => parse_time_text(text.trim()),
        // MongoDB's notation.
        Value::Object(fields) => {
            let inner = fields.get("$date").or(fields.get("$numberLong"))?;
            (!matches!(inner, Value::Object(nested) if nested.contains_key("$date")))
                .then(|| parse_time(inner))?
        }
        _ => None,
    }
}

fn parse_number_of_units(number: f64) -> Option<Timestamp> {
    // Also excludes NaN.
    if !(0.0..).contains(&number) {
        return None;
    }
    if number <= MAX_SECONDS {
        return Some(from_seconds(number));
    }
    let unit = SUBSECOND_UNITS.into_iter().find(|unit| number / unit <= MAX_SECONDS)?;
    Some(from_seconds(number / unit))
}

#[allow(clippy::cast_possible_truncation, reason = "callers check the range")]
fn from_seconds(seconds: f64) -> Timestamp {
    Timestamp::from_millis((seconds * 1000.0).round() as i64)
}

fn parse_time_text(text: &str) -> Option<Timestamp> {
    let parse = |text: &str| Timestamp::parse(text);
    parse(text)
        .or_else(|| parse(&format!("{text}Z")))
        .or_else(|| parse(&format!("{text}T00:00:00Z")))
        .or_else(|| parse(&format!("{text}:00Z")))
        .or_else(|| parse_number_of_units(text.parse().ok()?))
}

/// The role that a name stands for, in any of the words that programs use.
pub(super) fn parse_role(name: &str) -> Option<Role> {
    Some(match name.trim().to_ascii_lowercase().as_str() {
        "user" | "human" | "customer" | "you" | "me" => Role::User,
        "assistant" | "model" | "ai" | "bot" | "gpt" | "chatgpt" | "claude" | "gemini" => {
            Role::Assistant
        }
        "system" | "developer" => Role::System,
        "tool" | "function" | "tool_result" | "tool-result" | "ipython" => Role::Tool,
        _ => return None,
    })
}

/// The role that a name stands for. An unknown one becomes a tool, with its name in brackets as a
/// mark for the beginning of the text.
pub(super) fn convert_role(name: &str) -> (Role, Option<String>) {
    match parse_role(name) {
        Some(role) => (role, None),
        None => (Role::Tool, (!name.is_empty()).then(|| format!("[{name}]"))),
    }
}

/// A valid id unchanged. Any other id is replaced by a hash, so that it is the same in the next
/// import.
pub(super) fn convert_id(id: &str) -> String {
    match MessageId::parse("id", id) {
        Ok(_) => id.to_owned(),
        Err(_) => to_hex_id(Sha256::new_with_prefix(id)),
    }
}

/// An id for the entry that has the id of an earlier one. `occurrence` counts the entries with that
/// id.
pub(super) fn derive_unique_id(id: &str, occurrence: usize) -> String {
    to_hex_id(Sha256::new_with_prefix(format!("{id}\0{occurrence}")))
}

pub(super) fn to_hex_id(digest: Sha256) -> String {
    hex::encode(&digest.finalize()[..16])
}

/// The id in a field. A number counts as one.
pub(super) fn read_id(value: &RawValue) -> Option<String> {
    if value.get().starts_with(['[', '{']) {
        return None;
    }
    match serde_json::from_str(value.get()).ok()? {
        Value::String(id) if !id.is_empty() => Some(id),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_read_in_any_unit_and_form() {
        let wanted = Timestamp::from_millis(1_757_000_000_123);
        for value in [
            json!(1_757_000_000.123),
            json!(1_757_000_000_123_u64),
            json!(1_757_000_000_123_000_u64),
            json!("1757000000.123"),
            json!("2025-09-04T15:33:20.123Z"),
            json!("2025-09-04T17:33:20.123+02:00"),
            json!(" 2025-09-04 15:33:20.123 "),
            json!({"$date": "2025-09-04T15:33:20.123Z"}),
            json!({"$date": {"$numberLong": "1757000000123"}}),
        ] {
            assert_eq!(parse_time(&value), Some(wanted), "{value}");
        }
        assert_eq!(
            parse_time(&json!("2025-09-04")).unwrap().to_string(),
            "2025-09-04T00:00:00.000Z"
        );
        for value in
            [json!(-1), json!(1e300), json!("now"), json!(""), json!(true), json!([]), json!({})]
        {
            assert_eq!(parse_time(&value), None, "{value}");
        }
    }

    #[test]
    fn roles_have_many_names() {
        for (name, role) in [
            ("user", Some(Role::User)),
            ("Human", Some(Role::User)),
            ("model", Some(Role::Assistant)),
            ("developer", Some(Role::System)),
            ("function", Some(Role::Tool)),
            ("robot", None),
            ("", None),
        ] {
            assert_eq!(parse_role(name), role, "{name}");
        }
    }

    #[test]
    fn invalid_id_becomes_the_same_hash_every_time() {
        assert_eq!(convert_id("a.b:c-1"), "a.b:c-1");
        assert_eq!(convert_id("no/slash"), convert_id("no/slash"));
        assert!(MessageId::parse("id", &convert_id("no/slash")).is_ok());
        assert_ne!(derive_unique_id("a", 1), derive_unique_id("a", 2));
    }
}
