//! Reads the JSON of other programs field by field: a value of an unexpected type counts as absent.
//!
//! Vendors, gateways, proxies and exports have `null`, `""`, `[]`, `{}` or a number in place of
//! almost any field. A typed struct would reject the whole event for one such value.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The fields of a JSON object, not parsed yet.
#[derive(Debug, Default)]
pub struct RawObject<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> RawObject<'a> {
    /// The fields of an object; no fields for any other value.
    pub fn from_value(value: &'a RawValue) -> Self {
        serde_json::from_str(value.get()).unwrap_or_default()
    }

    /// A field that is present and not null.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().rev().find(|(field, _)| field == name)?;
        (value.get() != "null").then_some(*value)
    }

    /// The fields in the order of the text, including repeated ones.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }

    /// A string that is not empty.
    pub fn text(&self, name: &str) -> Option<String> {
        parse_text(self.get(name)?)
    }

    /// The fields of a nested object; no fields if the value is not an object.
    pub fn object(&self, name: &str) -> Self {
        self.get(name).map(Self::from_value).unwrap_or_default()
    }

    /// The elements of a list. An object in place of a list counts as its only element.
    pub fn list(&self, name: &str) -> Vec<&'a RawValue> {
        self.get(name).map(parse_list).unwrap_or_default()
    }

    /// A count: not negative and without a fraction. Some servers send counts as floats.
    pub fn count(&self, name: &str) -> Option<u64> {
        let number: f64 = serde_json::from_str(self.get(name)?.get()).ok()?;
        // Larger numbers are not exact as floats, and no count is that large.
        let is_count = (0.0..=9e15).contains(&number) && number.fract() == 0.0;
        is_count.then_some(number as u64)
    }

    /// The object as a value of its own.
    pub fn to_value(&self) -> Value {
        let field = |(name, value): &(Cow<'_, str>, &RawValue)| {
            (name.to_string(), serde_json::from_str(value.get()).unwrap_or_default())
        };
        Value::Object(self.0.iter().map(field).collect())
    }

    /// Names of the fields that hold something: not null, empty, `false` or a number.
    pub fn filled_fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, value)| is_filled(value)).map(|(name, _)| &**name)
    }
}

/// Parses JSON text, also with the numbers `NaN` and `Infinity`, which Python's `json` writes by
/// default. They become null. `None` if it is no JSON in any other way.
pub fn parse_value(json: &[u8]) -> Option<Cow<'_, RawValue>> {
    if let Ok(value) = serde_json::from_slice(json) {
        return Some(Cow::Borrowed(value));
    }
    let repaired = replace_non_finite(std::str::from_utf8(json).ok()?)?;
    RawValue::from_string(repaired).ok().map(Cow::Owned)
}

/// Replaces numbers that are not finite by null. `None` if all are finite.
fn replace_non_finite(json: &str) -> Option<String> {
    let mut repaired = String::new();
    let mut in_string = false;
    let mut copied = 0;
    let mut at = 0;
    let bytes = json.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string => {
                let rest = &json[at..];
                let word = ["NaN", "Infinity", "-Infinity"]
                    .into_iter()
                    .find(|word| rest.starts_with(word));
                if let Some(word) = word {
                    repaired.push_str(&json[copied..at]);
                    repaired.push_str("null");
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    (copied > 0).then(|| repaired + &json[copied..])
}

/// The string, if the value is one and it is not empty.
pub fn parse_text(value: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(value.get()).ok()?;
    (!text.is_empty()).then_some(text)
}

/// The elements of a list. An object counts as its only element, other values have none.
pub fn parse_list(value: &RawValue) -> Vec<&RawValue> {
    match value.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(value.get()).unwrap_or_default(),
        Some(b'{') => vec![value],
        _ => Vec::new(),
    }
}

/// Whether a value holds something: a text, a list or an object that is not empty, or `true`.
pub fn is_filled(value: &RawValue) -> bool {
    match value.get().as_bytes() {
        [b'"', .., b'"'] => value.get().len() > 2,
        [b'[' | b'{', inner @ .., _] => !inner.trim_ascii().is_empty(),
        other => other == b"true",
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawObject<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = RawObject<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((FieldName(name), value)) = map.next_entry::<FieldName<'de>, &RawValue>()? {
            fields.push((name, value));
        }
        Ok(RawObject(fields))
    }
}

/// Borrows the name from the input unless it contains escapes.
#[derive(serde::Deserialize)]
struct FieldName<'a>(#[serde(borrow)] Cow<'a, str>);

/// The object with each of its fields, at any depth, replaced by each odd value.
#[cfg(test)]
pub fn odd_variants(json: &str) -> Vec<String> {
    fn collect_paths(value: &Value, path: &str, paths: &mut Vec<String>) {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| (name.clone(), value)).collect()
            }
            Value::Array(list) => {
                list.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect()
            }
            _ => Vec::new(),
        };
        for (name, child) in children {
            let path = format!("{path}/{name}");
            collect_paths(child, &path, paths);
            paths.push(path);
        }
    }
    let whole: Value = serde_json::from_str(json).unwrap();
    let mut paths = vec![String::new()];
    collect_paths(&whole, "", &mut paths);
    let odd = ["null", "[]", "\"\"", "0.5", "-1", "{}", "false", "[null]", "\"odd\""];
    let variant = |path: &String, odd: &str| {
        let mut variant = whole.clone();
        *variant.pointer_mut(path).unwrap() = serde_json::from_str(odd).unwrap();
        variant.to_string()
    };
    // A word in place of an error is an error.
    let is_error = |path: &String, odd: &str| path.ends_with("/error") && odd == "\"odd\"";
    paths
        .iter()
        .flat_map(|path| odd.map(|odd| (path, odd)))
        .filter(|(path, odd)| !is_error(path, odd))
        .map(|(path, odd)| variant(path, odd))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn numbers_that_are_not_finite_become_null() {
        let parse = |json: &str| parse_value(json.as_bytes()).map(|value| value.get().to_owned());
        let json = r#"{"a":NaN,"b":[-Infinity,Infinity,-1],"é":"NaN \" Infinity"}"#;
        let null = r#"{"a":null,"b":[null,null,-1],"é":"NaN \" Infinity"}"#;
        assert_eq!(parse(json).as_deref(), Some(null));
        assert_eq!(parse(null).as_deref(), Some(null));
        for bad in ["{\"a\":Nan}", "N", "{\"a\":NaN", "\"NaN", "NaNNaN"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn values_of_other_types_count_as_absent() {
        let object = RawObject::from_value(raw(
            r#"{"a": null, "b": "", "c": "text", "d": 3.0, "e": -1, "f": 0.5, "g": {}, "\u0068": [1]}"#,
        ));
        assert_eq!(object.text("c").as_deref(), Some("text"));
        assert_eq!(
            ["a", "b", "d", "g", "h", "z"].map(|name| object.text(name)),
            [const { None }; 6]
        );
        assert_eq!(object.count("d"), Some(3));
        assert_eq!(["a", "c", "e", "f", "g"].map(|name| object.count(name)), [None; 5]);
        assert_eq!(
            (object.list("h").len(), object.list("g").len(), object.list("c").len()),
            (1, 1, 0)
        );
        assert_eq!(object.filled_fields().collect::<Vec<_>>(), ["c", "h"]);
        for other in ["null", "[]", "7", "\"x\""] {
            assert!(RawObject::from_value(raw(other)).0.is_empty(), "{other}");
        }
    }
}
