//! Full-text search: query parsing, the words to index, cursors and snippets. Stores only keep the
//! index and look words up.

use super::tokenizer::{IndexWord, SegmentKind, TextSegment, for_each_segment};
use super::{FieldError, MessageId, ProjectId, Role, SessionId, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::Range;

/// Maximum terms of a query; later ones are ignored.
const MAX_TERMS: usize = 16;
/// Maximum pairs of a run that are looked up. The rest of a longer run is only compared with the
/// text of a hit.
const MAX_RUN_LOOKUPS: usize = 16;
/// Query words of at least this length match as prefixes; shorter ones match whole words. In
/// titles, words of any length match as prefixes.
const MIN_PREFIX_CHARS: usize = 3;
/// Maximum length of a snippet without its ellipses, and of the text before its first match, in
/// characters.
const MAX_SNIPPET_CHARS: usize = 160;
const MAX_LEAD_CHARS: usize = 40;
/// Maximum size of a text's index words, which MongoDB stores in one document of at most 16 MiB.
const MAX_WORDS_BYTES: usize = 8 << 20;
/// Bytes of a word in a BSON array besides its text: type, position in digits, length.
const WORD_OVERHEAD_BYTES: usize = 16;

/// A word, run or symbol of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchTerm {
    pub kind: SegmentKind,
    /// Folded. A run must occur like this in a text; its lookups may match texts that have the
    /// same pairs of characters in other places.
    pub text: String,
    /// All of them match an index word of each text that the term matches.
    pub lookups: Vec<WordLookup>,
}

/// A word to look up in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordLookup {
    pub word: String,
    /// Whether longer index words starting with `word` match.
    pub is_prefix: bool,
}

impl SearchTerm {
    fn from_segment(segment: &TextSegment<'_>, min_prefix_chars: usize) -> Self {
        let is_prefix = match segment.kind {
            SegmentKind::Word => segment.text.chars().count() >= min_prefix_chars,
            SegmentKind::Run | SegmentKind::Symbol => false,
        };
        let mut lookups = Vec::new();
        segment.for_each_index_word(|word| match word {
            IndexWord::RunEnd(_) => {}
            _ if lookups.len() == MAX_RUN_LOOKUPS => {}
            IndexWord::Single(text) => {
                lookups.push(WordLookup { word: text.to_owned(), is_prefix: true });
            }
            IndexWord::Word(text) | IndexWord::Symbol(text) | IndexWord::Pair(text, _) => {
                lookups.push(WordLookup { word: text.to_owned(), is_prefix });
            }
        });
        // In the text, the last character may have further vowel signs.
        if let Some(last) = lookups.last_mut().filter(|_| segment.kind == SegmentKind::Run) {
            last.is_prefix = true;
        }
        Self { kind: segment.kind, text: segment.text.to_owned(), lookups }
    }

    /// The folded run, if its lookups alone do not prove that it occurs in a text.
    pub fn unproven_run(&self) -> Option<&str> {
        Some(&*self.text).filter(|_| self.lookups.len() > 1)
    }

    /// Appends the positions at which the term occurs in a segment of a text.
    fn locate_in(&self, segment: &TextSegment<'_>, found: &mut Vec<Range<usize>>) {
        if segment.kind != self.kind {
            return;
        }
        if self.kind != SegmentKind::Run {
            let is_prefix = self.lookups.iter().any(|lookup| lookup.is_prefix);
            if segment.text == self.text || is_prefix && segment.text.starts_with(&self.text) {
                found.push(segment.range.clone());
            }
            return;
        }
        let mut from = 0;
        while let Some((first, last)) = find_run(segment, &self.text, from) {
            found.push(segment.units[first].range.start..segment.units[last].range.end);
            from = last + 1;
        }
    }
}

/// The first and last character of the next occurrence of a run within a longer one.
fn find_run(segment: &TextSegment<'_>, run: &str, from: usize) -> Option<(usize, usize)> {
    let units = segment.units;
    let first = (from..units.len()).find(|at| segment.text[units[*at].start..].starts_with(run))?;
    let end = units[first].start + run.len();
    let last = units.partition_point(|unit| unit.start < end).saturating_sub(1);
    Some((first, last))
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
    let terms = split_into_terms(question, MIN_PREFIX_CHARS);
    if terms.is_empty() {
        return Err(FieldError::new("q", "must contain a word"));
    }
    Ok(terms)
}

/// Parses a search in titles; empty if it contains no word.
pub fn parse_title_terms(question: &str) -> Vec<SearchTerm> {
    split_into_terms(question, 1)
}

fn split_into_terms(question: &str, min_prefix_chars: usize) -> Vec<SearchTerm> {
    let mut terms = Vec::new();
    for_each_segment(question, |segment| {
        if terms.len() < MAX_TERMS {
            terms.push(SearchTerm::from_segment(&segment, min_prefix_chars));
        }
    });
    terms
}

/// The distinct words to index for a text. Beyond several hundred thousand, the last ones are left
/// out.
pub fn extract_index_words(text: &str) -> Vec<String> {
    extract_words_within(text, MAX_WORDS_BYTES)
}

fn extract_words_within(text: &str, max_bytes: usize) -> Vec<String> {
    let mut words = BTreeSet::new();
    let mut bytes = 0;
    for_each_segment(text, |segment| {
        segment.for_each_index_word(|word| {
            let word = word.as_str();
            let new_bytes = bytes + word.len() + WORD_OVERHEAD_BYTES;
            if new_bytes <= max_bytes && !words.contains(word) {
                words.insert(word.to_owned());
                bytes = new_bytes;
            }
        });
    });
    words.into_iter().collect()
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

/// The snippet of a hit; `None` if the text has the pairs of a term's run, but not the run.
pub fn build_snippet(text: &str, terms: &[SearchTerm]) -> Option<SearchSnippet> {
    let found = locate_terms(text, terms)?;
    let found = to_char_positions(text, &found);
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
    Some(SearchSnippet { text: piece, highlights })
}

/// Where the terms occur, in order and without overlaps, in bytes. `None` if a run does not occur.
fn locate_terms(text: &str, terms: &[SearchTerm]) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut has_run = vec![false; terms.len()];
    for_each_segment(text, |segment| {
        for (term, has_run) in terms.iter().zip(&mut has_run) {
            let before = found.len();
            term.locate_in(&segment, &mut found);
            *has_run |= found.len() > before;
        }
    });
    let is_missing =
        |(term, has_run): (&SearchTerm, &bool)| term.unproven_run().is_some() && !has_run;
    if terms.iter().zip(&has_run).any(is_missing) {
        return None;
    }
    found.sort_unstable_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in found {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    Some(merged)
}

/// Positions in characters for positions in bytes, which are in order.
fn to_char_positions(text: &str, ranges: &[Range<usize>]) -> Vec<[usize; 2]> {
    let mut at_byte = 0;
    let mut at_char = 0;
    let mut position = |byte: usize| {
        at_char += text[at_byte..byte].chars().count();
        at_byte = byte;
        at_char
    };
    ranges.iter().map(|range| [position(range.start), position(range.end)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn highlight(text: &str, question: &str) -> (String, Vec<String>) {
        let SearchSnippet { text, highlights } =
            build_snippet(text, &parse_terms(question).unwrap()).unwrap();
        let piece = |[from, to]: &[usize; 2]| text.chars().skip(*from).take(to - from).collect();
        let pieces = highlights.iter().map(piece).collect();
        (text, pieces)
    }

    /// The lookups of a query, with a star for prefixes.
    fn lookups(terms: &[SearchTerm]) -> String {
        let star = |lookup: &WordLookup| if lookup.is_prefix { "*" } else { "" };
        let lookups = terms.iter().flat_map(|term| &term.lookups);
        lookups.map(|lookup| format!("{}{} ", lookup.word, star(lookup))).collect()
    }

    #[test]
    fn words_of_a_text_have_a_maximum_size() {
        let text = "one two three two one four";
        let max_bytes = 3 * WORD_OVERHEAD_BYTES + "onetwothree".len();
        assert_eq!(extract_words_within(text, max_bytes), ["one", "three", "two"]);
        assert_eq!(extract_index_words(text), ["four", "one", "three", "two"]);
    }

    #[test]
    fn three_letter_words_match_by_prefix() {
        assert_eq!(lookups(&parse_terms("Crème à 42").unwrap()), "creme* a 42 ");
        assert_eq!(lookups(&parse_title_terms("Crème à 🎉")), "creme* a* 🎉 ");
        assert!(parse_terms(" -- ").is_err());
    }

    #[test]
    fn runs_are_looked_up_by_pairs() {
        assert_eq!(lookups(&parse_terms("東京都 駅").unwrap()), "東京 京都* 駅* ");
        assert_eq!(extract_index_words("東京都"), ["京都", "東京", "都"]);
        let long = "一二三四五六七八九十".repeat(9);
        assert_eq!(parse_terms(&long).unwrap()[0].lookups.len(), MAX_RUN_LOOKUPS);
    }

    #[test]
    fn snippet_requires_adjacent_characters() {
        let terms = parse_terms("東京都").unwrap();
        assert_eq!(build_snippet("東京と京都", &terms), None);
        let (_, found) = highlight("昨日、東京都庁。東京と京都と東京都", "東京都");
        assert_eq!(found, ["東京都", "東京都"]);
        let (_, found) = highlight("黒猫と猫、ＮＥＫＯ", "猫 neko");
        assert_eq!(found, ["猫", "猫", "ＮＥＫＯ"]);
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
        fn text_is_found_by_each_of_its_words(text in "([a-zé ]|[東京タ。]|[กขน้ำ]|[🎉ß]|.){0,40}") {
            let words = extract_index_words(&text);
            let terms = split_into_terms(&text, 1);
            for lookup in terms.iter().flat_map(|term| &term.lookups) {
                let is_match = |word: &String| match lookup.is_prefix {
                    true => word.starts_with(&lookup.word),
                    false => *word == lookup.word,
                };
                prop_assert!(words.iter().any(is_match), "{} of {:?}", lookup.word, words);
            }
            let snippet = build_snippet(&text, &terms);
            prop_assert!(snippet.is_some_and(|snippet| terms.is_empty() || !snippet.highlights.is_empty()));
        }
    }
}
