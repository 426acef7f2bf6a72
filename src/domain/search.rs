//! Full-text search: query parsing, the words to index, cursors and snippets. Stores only keep the
//! index and look words up.

use super::text::fold_words;
use super::{FieldError, MessageId, ProjectId, Role, SessionId, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Maximum words of a query; later ones are ignored.
const MAX_TERMS: usize = 16;
/// Longer words are truncated to this length, in the index and in queries.
const MAX_WORD_CHARS: usize = 64;
/// Query words of at least this length match as prefixes; shorter ones match whole words.
const MIN_PREFIX_CHARS: usize = 3;
/// Maximum length of a snippet without its ellipses, and of the text before its first match, in
/// characters.
const MAX_SNIPPET_CHARS: usize = 160;
const MAX_LEAD_CHARS: usize = 40;

/// A folded query word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchTerm {
    pub word: String,
    /// Whether longer words starting with `word` match.
    pub is_prefix: bool,
}

impl SearchTerm {
    fn is_match(&self, word: &str) -> bool {
        if self.is_prefix { word.starts_with(&self.word) } else { word == self.word }
    }
}

/// A query and its filters.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// At least one. All of them must occur in the same message or title.
    pub terms: Vec<SearchTerm>,
    pub project_id: Option<ProjectId>,
    pub session_id: Option<SessionId>,
    /// Restricts the search to messages of this role; titles are excluded.
    pub role: Option<Role>,
    /// Inclusive.
    pub from: Option<Timestamp>,
    /// Exclusive.
    pub to: Option<Timestamp>,
    /// Only results after this position.
    pub after: Option<SearchCursor>,
    pub limit: u32,
}

/// Parses a query. Errors: the query contains no word.
pub fn parse_terms(question: &str) -> Result<Vec<SearchTerm>, FieldError> {
    let term = |word: String| {
        let word = truncate_word(&word).to_owned();
        SearchTerm { is_prefix: word.chars().count() >= MIN_PREFIX_CHARS, word }
    };
    let terms: Vec<_> = fold_words(question).into_iter().take(MAX_TERMS).map(term).collect();
    if terms.is_empty() {
        return Err(FieldError::new("q", "must contain a word"));
    }
    Ok(terms)
}

fn truncate_word(word: &str) -> &str {
    super::text::truncate_chars(word, MAX_WORD_CHARS)
}

/// The distinct words to index for a text.
pub fn extract_index_words(text: &str) -> Vec<String> {
    let each: BTreeSet<String> =
        fold_words(text).iter().map(|word| truncate_word(word).to_owned()).collect();
    each.into_iter().collect()
}

/// Position in the search results, which are ordered by time, then session, then message, newest
/// first. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SearchCursor {
    /// Milliseconds since 1970.
    #[serde(rename = "a")]
    pub at_millis: i64,
    #[serde(rename = "s")]
    pub session: String,
    /// The message's `seq`; 0 is the session's title.
    #[serde(rename = "q")]
    pub seq: u32,
}

impl SearchCursor {
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub fn decode(text: &str) -> Result<Self, FieldError> {
        let invalid = || FieldError::new("cursor", "must be a nextCursor of a search");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        serde_json::from_slice(&bytes).map_err(|_| invalid())
    }
}

/// A matching message or title.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchMatch {
    pub cursor: SearchCursor,
    /// `None` if the title matched.
    pub message: Option<MessageId>,
}

/// An excerpt around the first match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchSnippet {
    /// On a single line.
    pub text: String,
    /// Start and end of each match in `text`, in characters (Unicode scalar values).
    pub highlights: Vec<[usize; 2]>,
}

pub fn build_snippet(text: &str, terms: &[SearchTerm]) -> SearchSnippet {
    let found: Vec<[usize; 2]> = locate_words(text)
        .into_iter()
        .filter(|(word, _)| terms.iter().any(|term| term.is_match(truncate_word(word))))
        .map(|(_, place)| place)
        .collect();
    let begin = match found.first() {
        Some([first, _]) if *first > MAX_LEAD_CHARS => first - MAX_LEAD_CHARS,
        _ => 0,
    };
    let mut piece = String::new();
    if begin > 0 {
        piece.push('…');
    }
    // Highlights are positions in the snippet, which starts at `begin` and may have an ellipsis.
    let shift = piece.chars().count();
    let mut rest = text.chars().skip(begin);
    piece.extend(
        rest.by_ref().take(MAX_SNIPPET_CHARS).map(|c| if c.is_whitespace() { ' ' } else { c }),
    );
    if rest.next().is_some() {
        piece.push('…');
    }
    let end = begin + MAX_SNIPPET_CHARS;
    // A match that the end of the snippet cuts is not highlighted.
    let inside = found.into_iter().filter(|[from, to]| *from >= begin && *to <= end);
    let highlights = inside.map(|[from, to]| [from - begin + shift, to - begin + shift]).collect();
    SearchSnippet { text: piece, highlights }
}

/// The folded words of a text, the same as [`fold_words`] returns, with the start and end of each
/// in characters. A test compares the two functions.
fn locate_words(text: &str) -> Vec<(String, [usize; 2])> {
    let mut located: Vec<(String, [usize; 2])> = Vec::new();
    let mut is_open = false;
    for (index, original) in text.chars().enumerate() {
        // One character can decompose into several (ﬁ, ½), all at the same position in the text.
        for c in original.nfkd() {
            if is_combining_mark(c) {
                // A combining accent belongs to the letter before it.
                if let Some((_, [_, end])) = located.last_mut().filter(|_| is_open) {
                    *end = index + 1;
                }
                continue;
            }
            for c in c.to_lowercase() {
                if !c.is_alphanumeric() {
                    // Anything but a letter or digit ends the word, except for a combining mark
                    // that lower-casing may add.
                    is_open = is_open && is_combining_mark(c);
                    continue;
                }
                if !is_open {
                    located.push((String::new(), [index, index]));
                    is_open = true;
                }
                if let Some((word, [_, end])) = located.last_mut() {
                    word.push(c);
                    *end = index + 1;
                }
            }
        }
    }
    located
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn highlight(text: &str, question: &str) -> (String, Vec<String>) {
        let SearchSnippet { text, highlights } =
            build_snippet(text, &parse_terms(question).unwrap());
        let piece = |[from, to]: &[usize; 2]| text.chars().skip(*from).take(to - from).collect();
        let pieces = highlights.iter().map(piece).collect();
        (text, pieces)
    }

    #[test]
    fn three_letter_terms_match_by_prefix() {
        let term = |word: &str, is_prefix| SearchTerm { word: word.to_owned(), is_prefix };
        assert_eq!(
            parse_terms("Crème à 42").unwrap(),
            [term("creme", true), term("a", false), term("42", false)]
        );
        assert!(parse_terms(" -- ").is_err());
    }

    #[test]
    fn snippet_keeps_original_spelling() {
        let (text, found) = highlight("Die Crème\nbrûlée, bitte", "creme brul");
        assert_eq!(text, "Die Crème brûlée, bitte");
        assert_eq!(found, ["Crème", "brûlée"]);
        // Decomposed accents follow their letters.
        let (_, found) = highlight("Cre\u{300}me", "creme");
        assert_eq!(found, ["Cre\u{300}me"]);
    }

    #[test]
    fn snippet_shows_context_around_match() {
        let long = format!("{}needle {}", "hay ".repeat(500), "straw ".repeat(500));
        let (text, found) = highlight(&long, "needle");
        assert_eq!(found, ["needle"]);
        assert!(text.starts_with('…') && text.ends_with('…'), "{text}");
        assert_eq!(text.chars().count(), MAX_SNIPPET_CHARS + 2);
    }

    proptest! {
        #[test]
        fn snippet_words_match_indexed_words(text in ".{0,60}") {
            let located: Vec<_> = locate_words(&text).into_iter().map(|(word, _)| word).collect();
            prop_assert_eq!(located, fold_words(&text));
        }
    }
}
