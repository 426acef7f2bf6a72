//! Splits long messages into passages, so that a passage can be recalled without the rest.

use std::ops::Range;

/// A message of at most this many bytes is a single passage.
const MAX_SINGLE_PASSAGE_BYTES: usize = 1_000;
/// Upper bound of the passages of a longer message.
const MAX_PASSAGE_BYTES: usize = 800;
/// Passages are at least this long if a natural boundary allows it.
const MIN_PASSAGE_BYTES: usize = 320;

/// Ranges of a text's passages. Together they cover the text except for white space around splits.
/// Splits are at the end of a paragraph or else of a line, a sentence, a word or a character.
pub(super) fn split_passages(text: &str) -> Vec<Range<usize>> {
    if text.len() <= MAX_SINGLE_PASSAGE_BYTES {
        let whole = Some(0..text.len()).filter(|_| !text.trim().is_empty());
        return whole.into_iter().collect();
    }
    let mut found = Vec::new();
    let mut start = 0;
    while text.len() - start > MAX_PASSAGE_BYTES {
        let end = start + find_split(&text[start..]);
        found.push(start..end);
        start = end;
    }
    found.push(start..text.len());
    let trimmed = found.into_iter().map(|range| {
        let passage = &text[range.clone()];
        let start = range.start + passage.len() - passage.trim_start().len();
        start..start + passage.trim().len()
    });
    trimmed.filter(|range| !range.is_empty()).collect()
}

/// Length of the first passage of a text that is longer than [`MAX_PASSAGE_BYTES`].
fn find_split(text: &str) -> usize {
    let end = (0..=MAX_PASSAGE_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let first = &text[..end];
    let after = |mark: &str| first.rfind(mark).map(|at| at + mark.len());
    let sentence = first
        .char_indices()
        .rev()
        .find(|(at, c)| {
            // A full stop inside of a word, as in "3.14" or "main.rs", ends no sentence. CJK marks
            // are not followed by a space.
            let next = first[at + c.len_utf8()..].chars().next();
            matches!(c, '。' | '！' | '？')
                || matches!(c, '.' | '!' | '?') && next.is_some_and(char::is_whitespace)
        })
        .map(|(at, c)| at + c.len_utf8());
    let word = first
        .rfind(char::is_whitespace)
        .map(|at| at + first[at..].chars().next().map_or(1, char::len_utf8));
    let splits = [after("\n\n"), after("\n"), sentence, word];
    splits.into_iter().flatten().find(|at| *at >= MIN_PASSAGE_BYTES).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn passages_split_at_natural_boundaries() {
        let paragraph = "A sentence of some forty characters here. ".repeat(12);
        let text = format!("{paragraph}\n\n{paragraph}\n\n{paragraph}");
        let found = split_passages(&text);
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|range| &text[range.clone()] == paragraph.trim()));
        assert_eq!(split_passages("short\n\nas it is ").first(), Some(&(0..16)));
        assert_eq!(split_passages(" \n "), Vec::<Range<usize>>::new());
        let run = "x".repeat(5_000);
        assert!(split_passages(&run).iter().all(|range| range.len() <= MAX_PASSAGE_BYTES));
    }

    proptest! {
        #[test]
        fn passages_cover_text_within_bounds(text in "(?s)(.{0,400}|[a-z .\n]{0,900}|[東京。\n]{0,700}){0,4}") {
            let found = split_passages(&text);
            let mut at = 0;
            for range in &found {
                prop_assert!(text[at..range.start].trim().is_empty());
                let most = if text.len() > MAX_SINGLE_PASSAGE_BYTES { MAX_PASSAGE_BYTES } else { MAX_SINGLE_PASSAGE_BYTES };
                prop_assert!(range.len() <= most);
                at = range.end;
            }
            prop_assert!(text[at..].trim().is_empty());
        }
    }
}
