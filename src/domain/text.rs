//! Text handling: validation, truncation and word folding.

use super::FieldError;
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

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

/// The words of a text in the form that search compares: lower case, without accents, split at
/// every character that is neither a letter nor a digit.
pub fn fold_words(text: &str) -> Vec<String> {
    let folded: String =
        // Compatibility decomposition separates accents from letters and unifies ligatures and
        // full-width forms, so that é, ﬁ and Ａ are found by e, fi and a.
        text.nfkd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect();
    folded
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_ignore_case_and_accents() {
        assert_eq!(fold_words("Crème-BRÛLÉE, für 2!"), ["creme", "brulee", "fur", "2"]);
        assert_eq!(fold_words("Ñandú Ελλάδα 東京"), ["nandu", "ελλαδα", "東京"]);
        assert!(fold_words(" -- ").is_empty());
    }

    #[test]
    fn truncation_never_splits_a_character() {
        assert_eq!(truncate_chars("añb", 2), "añ");
        assert_eq!(truncate_chars("añb", 9), "añb");
    }
}
