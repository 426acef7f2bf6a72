//! OpenRouter's `reasoning_details`, put together from their deltas.
//!
//! Models behind OpenRouter want the list back unchanged between a call and its result. In a stream
//! one text arrives in several entries of the same type and index; all other entries are whole.

use serde_json::Value;
use serde_json::value::RawValue;

/// Fields whose text continues in later entries.
const TEXT_FIELDS: &[&str] = &["text", "summary"];

#[derive(Debug, Default)]
pub(super) struct ReasoningDetails(Vec<Value>);

impl ReasoningDetails {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn to_value(&self) -> Value {
        Value::Array(self.0.clone())
    }

    /// Adds an entry, or continues the last one. Entries that are not objects are left out.
    pub(super) fn push(&mut self, entry: &RawValue) {
        let entry = serde_json::from_str(entry.get());
        let Some(entry) = entry.ok().filter(|entry: &Value| entry.is_object()) else { return };
        match self.0.last_mut().filter(|last| continues(last, &entry)) {
            Some(last) => append_fields(last, entry),
            None => self.0.push(entry),
        }
    }
}

/// Whether an entry continues the last one: the same text, which has not been signed yet.
fn continues(last: &Value, entry: &Value) -> bool {
    let has_text = |value: &Value| TEXT_FIELDS.iter().any(|field| value[field].is_string());
    // The signature may arrive in an entry without text.
    let is_signature = entry["signature"].is_string() && !has_text(entry);
    let has_same = |field: &str| last[field] == entry[field];
    has_text(last)
        && (has_text(entry) || is_signature)
        && has_same("type")
        && has_same("index")
        && (has_same("id") || last["id"].is_null() || entry["id"].is_null())
        && last["signature"].is_null()
}

fn append_fields(last: &mut Value, entry: Value) {
    let (Value::Object(last), Value::Object(entry)) = (last, entry) else { return };
    for (name, value) in entry {
        let is_text = TEXT_FIELDS.contains(&&*name);
        match (last.get_mut(&name), value) {
            (_, Value::Null) => {}
            (Some(Value::String(so_far)), Value::String(more)) if is_text => so_far.push_str(&more),
            (_, value) => {
                last.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_joined_and_other_entries_stay_whole() {
        let mut details = ReasoningDetails::default();
        for entry in [
            json!({"type": "reasoning.text", "text": "I ", "index": 0, "signature": null}),
            json!({"type": "reasoning.text", "text": "think.", "index": 0}),
            json!({"type": "reasoning.text", "signature": "s+/=", "index": 0}),
            json!({"type": "reasoning.text", "text": "More.", "index": 1}),
            json!({"type": "reasoning.summary", "summary": "A", "index": 2}),
            json!({"type": "reasoning.encrypted", "data": "ZW5j", "id": "a", "index": 3}),
            json!({"type": "reasoning.encrypted", "data": "ZW5j", "id": "a", "index": 3}),
            json!("odd"),
        ] {
            details.push(&serde_json::value::to_raw_value(&entry).unwrap());
        }
        let encrypted =
            json!({"type": "reasoning.encrypted", "data": "ZW5j", "id": "a", "index": 3});
        assert_eq!(
            details.to_value(),
            json!([
                {"type": "reasoning.text", "text": "I think.", "index": 0, "signature": "s+/="},
                {"type": "reasoning.text", "text": "More.", "index": 1},
                {"type": "reasoning.summary", "summary": "A", "index": 2},
                encrypted,
                encrypted,
            ])
        );
    }
}
