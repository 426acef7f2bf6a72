//! Text handling: validation and truncation.

use super::FieldError;
use serde_json::Value;

/// Rejects NUL, which not every store can keep.
pub fn reject_nul(field: &'static str, text: &str) -> Result<(), FieldError> {
    if text.contains('\0') {
        return Err(FieldError::new(field, "must not contain the character NUL (U+0000)"));
    }
    Ok(())
}

/// Whether a string or key anywhere in a JSON value contains NUL.
pub fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(list) => list.iter().any(has_nul),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The first `most` characters (Unicode scalar values) of a text.
pub fn truncate_chars(text: &str, most: usize) -> &str {
    match text.char_indices().nth(most) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_never_splits_a_character() {
        assert_eq!(truncate_chars("añb", 2), "añ");
        assert_eq!(truncate_chars("añb", 9), "añb");
    }
}
