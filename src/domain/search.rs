//! Searching in what was said: what is looked for, which words are kept for that, and how a finding
//! is shown. Stores keep the words and look them up; everything else about searching is here.

use super::text::fold_words;
use super::{FieldError, MessageId, ProjectId, Role, SessionId, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Words of a question beyond these are not looked at.
const MAX_TERMS: usize = 16;
/// Of a longer word so many characters count.
const MAX_WORD_CHARS: usize = 64;
/// A word of the question with so many characters is the beginning of what it finds.
const MIN_PREFIX_CHARS: usize = 3;
/// The most characters of a snippet, marks of omission aside, and how many of them may stand before
/// the first finding.
const MAX_SNIPPET_CHARS: usize = 160;
const MAX_LEAD_CHARS: usize = 40;

/// A folded word that must be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchTerm {
    /// Letters and digits only.
    pub word: String,
    /// Whether words that begin with it count, too.
    pub is_prefix: bool,
}

impl SearchTerm {
    fn is_match(&self, word: &str) -> bool {
        if self.is_prefix { word.starts_with(&self.word) } else { word == self.word }
    }
}

/// What is looked for, and where.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// All of these, in one message or one title; at least one.
    pub terms: Vec<SearchTerm>,
    /// Only in sessions of a project.
    pub project_id: Option<ProjectId>,
    /// Only in a session.
    pub session_id: Option<SessionId>,
    /// Only messages of a role, and no titles.
    pub role: Option<Role>,
    /// Only what is as new as this, or newer.
    pub from: Option<Timestamp>,
    /// Only what is older than this.
    pub to: Option<Timestamp>,
    /// Only what comes behind this.
    pub after: Option<SearchCursor>,
    /// Most findings.
    pub limit: u32,
}

/// The terms of a question. Errors: a question without words.
pub fn parse_terms(question: &str) -> Result<Vec<SearchTerm>, FieldError> {
    let term = |word: String| {
        let word = truncate_word(&word).to_owned();
        SearchTerm { is_prefix: word.chars().count() >= MIN_PREFIX_CHARS, word }
    };
    let terms: Vec<_> = fold_words(question).into_iter().take(MAX_TERMS).map(term).collect();
    if terms.is_empty() {
        return Err(FieldError::new("q", "must hold a word"));
    }
    Ok(terms)
}

fn truncate_word(word: &str) -> &str {
    super::text::truncate_chars(word, MAX_WORD_CHARS)
}

/// The words by which a text is found, each once.
pub fn extract_index_words(text: &str) -> Vec<String> {
    let each: BTreeSet<String> =
        fold_words(text).iter().map(|word| truncate_word(word).to_owned()).collect();
    each.into_iter().collect()
}

/// Where a finding stands in the order of findings, the newest first: by time, then by session and
/// place in it, the last first. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SearchCursor {
    /// When it was written, in milliseconds.
    #[serde(rename = "a")]
    pub at_millis: i64,
    /// The session.
    #[serde(rename = "s")]
    pub session: String,
    /// The message's seq; 0 is the session's title.
    #[serde(rename = "q")]
    pub seq: u32,
}

impl SearchCursor {
    /// The place as clients carry it.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads a place that was given out.
    pub fn decode(text: &str) -> Result<Self, FieldError> {
        let wants = || FieldError::new("cursor", "must be a nextCursor of a search");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wants())?;
        serde_json::from_slice(&bytes).map_err(|_| wants())
    }
}

/// A message or a title that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchMatch {
    /// Where it stands.
    pub cursor: SearchCursor,
    /// The message; `None` is the title.
    pub message: Option<MessageId>,
}

/// A piece of a text around what was found in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchSnippet {
    /// The piece, on one line.
    pub text: String,
    /// Where the found words stand in it: from and behind, in characters (Unicode scalar values).
    pub highlights: Vec<[usize; 2]>,
}

/// Shows where the terms stand in a text.
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
    let (before, after) = ("…", "…");
    let mut piece = String::new();
    if begin > 0 {
        piece.push_str(before);
    }
    let shift = piece.chars().count();
    let mut rest = text.chars().skip(begin);
    piece.extend(
        rest.by_ref().take(MAX_SNIPPET_CHARS).map(|c| if c.is_whitespace() { ' ' } else { c }),
    );
    if rest.next().is_some() {
        piece.push_str(after);
    }
    let end = begin + MAX_SNIPPET_CHARS;
    let inside = found.into_iter().filter(|[from, to]| *from >= begin && *to <= end);
    let highlights = inside.map(|[from, to]| [from - begin + shift, to - begin + shift]).collect();
    SearchSnippet { text: piece, highlights }
}

/// The folded words of a text as [`fold_words`] gives them, and where each stands, in characters.
fn locate_words(text: &str) -> Vec<(String, [usize; 2])> {
    let mut placed: Vec<(String, [usize; 2])> = Vec::new();
    let mut is_open = false;
    for (index, original) in text.chars().enumerate() {
        for c in original.nfkd() {
            if is_combining_mark(c) {
                // An accent belongs to the letter before it.
                if let Some((_, [_, end])) = placed.last_mut().filter(|_| is_open) {
                    *end = index + 1;
                }
                continue;
            }
            for c in c.to_lowercase() {
                if !c.is_alphanumeric() {
                    // What the lower case of a letter is made of beside letters.
                    is_open = is_open && is_combining_mark(c);
                    continue;
                }
                if !is_open {
                    placed.push((String::new(), [index, index]));
                    is_open = true;
                }
                if let Some((word, [_, end])) = placed.last_mut() {
                    word.push(c);
                    *end = index + 1;
                }
            }
        }
    }
    placed
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
        // The accents stand behind their letters here.
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
        fn the_words_that_are_shown_are_those_that_are_kept(text in ".{0,60}") {
            let placed: Vec<_> = locate_words(&text).into_iter().map(|(word, _)| word).collect();
            prop_assert_eq!(placed, fold_words(&text));
        }
    }
}
