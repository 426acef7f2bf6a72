//! Splits texts into folded words, for recall and for search.
//!
//! A text becomes segments: words of letters and digits, runs of scripts that put no spaces between
//! words, and emoji. A run has no visible words, so it is indexed by its pairs of adjacent
//! characters and found by them. Korean has spaces but glues particles to nouns, and is split into
//! pairs as well.
//!
//! `folding` makes spellings equal, `scripts` knows the scripts, `splitter` finds the
//! segments. Stemming is left to recall, prefixes to search.

mod folding;
mod scripts;
mod splitter;

use std::ops::Range;

pub use splitter::for_each_segment;

/// Version of the words that this module makes of a text. A search index with words of another
/// version is rebuilt, so it must change with them.
pub const WORDS_VERSION: u32 = 2;

/// Longer words are truncated to this length, in characters.
pub const MAX_WORD_CHARS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// Letters of one script and digits.
    Word,
    /// Adjacent characters of scripts that put no spaces between words.
    Run,
    /// An emoji, without skin tone and presentation; a flag.
    Symbol,
}

/// A word, run or symbol of a text.
#[derive(Debug, Clone)]
pub struct TextSegment<'a> {
    pub kind: SegmentKind,
    /// The folded text.
    pub text: &'a str,
    /// Position in the original text, in bytes.
    pub range: Range<usize>,
    /// The characters of a run; empty for the other kinds.
    pub units: &'a [RunUnit],
}

/// A character of a run, with its vowel signs and tone marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunUnit {
    /// Start in the folded text, in bytes.
    pub start: usize,
    /// Position in the original text, in bytes.
    pub range: Range<usize>,
}

/// An entry of an index for a part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexWord<'a> {
    Word(&'a str),
    Symbol(&'a str),
    /// Two adjacent characters of a run, and the length of the first one in bytes.
    Pair(&'a str, usize),
    /// A run that is a single character.
    Single(&'a str),
    /// The last character of a longer run. With the pairs, which begin with each other character,
    /// any character is the beginning of an entry.
    RunEnd(&'a str),
}

impl<'a> IndexWord<'a> {
    pub fn as_str(self) -> &'a str {
        match self {
            Self::Word(text)
            | Self::Symbol(text)
            | Self::Pair(text, _)
            | Self::Single(text)
            | Self::RunEnd(text) => text,
        }
    }
}

impl<'a> TextSegment<'a> {
    /// Calls `emit` with each index entry, in order.
    pub fn for_each_index_word(&self, mut emit: impl FnMut(IndexWord<'a>)) {
        match (self.kind, self.units) {
            (SegmentKind::Word, _) => emit(IndexWord::Word(self.text)),
            (SegmentKind::Symbol, _) => emit(IndexWord::Symbol(self.text)),
            (SegmentKind::Run, [_]) => emit(IndexWord::Single(self.text)),
            (SegmentKind::Run, units) => {
                for (at, pair) in units.windows(2).enumerate() {
                    let end = units.get(at + 2).map_or(self.text.len(), |next| next.start);
                    let first_len = pair[1].start - pair[0].start;
                    emit(IndexWord::Pair(&self.text[pair[0].start..end], first_len));
                }
                if let Some(last) = units.last() {
                    emit(IndexWord::RunEnd(&self.text[last.start..]));
                }
            }
        }
    }
}

/// The folded segments of a text, separated by spaces.
pub fn fold_text(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for_each_segment(text, |segment| {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(segment.text);
    });
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index_words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        for_each_segment(text, |segment| {
            segment.for_each_index_word(|word| words.push(word.as_str().to_owned()));
        });
        words
    }

    #[test]
    fn spellings_of_a_word_are_folded() {
        for (one, other) in [
            ("Crème BRÛLÉE", "creme brulee"),
            ("STRASSE STRAẞE", "straße strasse"),
            ("ΟΔΟΣ", "οδός"),
            ("İI ıi", "ii ii"),
            ("ﬁ Ａ１ ½", "fi a1 1⁄2"),
            ("\u{1109}\u{1165}\u{110b}\u{116e}\u{11af}", "서울"),
            ("ｶﾞ", "ガ"),
            ("Zauber\u{ad}stab", "zauberstab"),
            ("👍🏿 ❤\u{fe0f}", "👍 ❤"),
        ] {
            assert_eq!(fold_text(one), fold_text(other));
        }
    }

    #[test]
    fn texts_are_split_between_scripts_and_at_symbols() {
        for (text, folded) in [
            ("Rust로 만든 v2", "rust 로 만든 v2"),
            ("第3章", "第 3 章"),
            ("SQLзапрос", "sql запрос"),
            ("17µs", "17μs"),
            ("snake_case's", "snake case s"),
            ("👩‍💻🇩🇪🇫🇷!", "👩 💻 🇩🇪 🇫🇷"),
            ("ภาษา\u{200b}ไทย abc\u{200b}def", "ภาษาไทย abc def"),
            ("می\u{200c}خواهم क्\u{200d}ष", "می خواهم क्ष"),
            (" \u{200b}--…!\n", ""),
        ] {
            assert_eq!(fold_text(text), folded);
        }
    }

    #[test]
    fn runs_are_indexed_by_pairs_with_their_marks() {
        assert_eq!(index_words("東京都"), ["東京", "京都", "都"]);
        assert_eq!(index_words("猫 a"), ["猫", "a"]);
        assert_eq!(index_words("ข้อมูล"), ["ข้อ", "อมู", "มูล", "ล"]);
        assert_eq!(index_words("हिन्दी"), ["हिन्दी"]);
    }

    #[test]
    fn long_words_are_truncated() {
        let word = "x".repeat(MAX_WORD_CHARS);
        assert_eq!(
            fold_text(&format!("{word}yz é{word}{word}")),
            format!("{word} e{}", &word[1..])
        );
    }

    proptest! {
        #[test]
        fn segments_are_in_order_and_fold_alone_to_the_same(
            text in "([a-zé ]|[東京タｶﾞ。]|[กขน้ำ]|[가나가]|[🎉👩‍💻ß]|.){0,40}"
        ) {
            let mut end = 0;
            let mut wrong = Vec::new();
            for_each_segment(&text, |segment| {
                let is_ordered = segment.range.start < segment.range.end
                    && text.is_char_boundary(segment.range.start)
                    && text.is_char_boundary(segment.range.end);
                let alone = fold_text(&text[segment.range.clone()]);
                if !is_ordered || !format!(" {alone} ").contains(&format!(" {} ", segment.text)) {
                    wrong.push((segment.range.clone(), segment.text.to_owned(), alone));
                }
                end = end.max(segment.range.end);
            });
            prop_assert!(wrong.is_empty() && end <= text.len(), "{:?}", wrong);
        }
    }
}
