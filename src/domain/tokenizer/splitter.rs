//! Finds the segments of a text.
//!
//! The text is read by grapheme clusters, so that a segment never begins or ends within a
//! character with its accents, and an emoji of several parts is seen as a whole. ASCII and plain
//! East Asian characters, which are most of most texts, are read without that.

use super::folding::fold_cluster;
use super::scripts::{CharClass, classify_char};
use super::{MAX_WORD_CHARS, RunUnit, SegmentKind, TextSegment};
use icu_properties::props::Script;
use std::ops::Range;
use unicode_segmentation::UnicodeSegmentation;

/// Calls `emit` with each segment of the text, in order.
pub fn for_each_segment(text: &str, emit: impl FnMut(TextSegment<'_>)) {
    let mut splitter = SegmentSplitter::new(emit);
    let mut folded = String::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let ascii = count_plain_ascii(rest.as_bytes());
        if ascii > 0 {
            splitter.push_ascii(&rest[..ascii], at);
            at += ascii;
            continue;
        }
        let plain = count_plain_run(rest);
        if plain > 0 {
            splitter.push_run(&rest[..plain], at);
            at += plain;
            continue;
        }
        let Some(cluster) = rest.graphemes(true).next() else { break };
        folded.clear();
        fold_cluster(cluster, &mut folded);
        splitter.push_cluster(&folded, at..at + cluster.len());
        at += cluster.len();
    }
    splitter.close_segment();
}

/// Length of the ASCII at the beginning, without a last character to which following accents may
/// belong.
fn count_plain_ascii(bytes: &[u8]) -> usize {
    match bytes.iter().position(|byte| !byte.is_ascii()) {
        Some(end) => end.saturating_sub(1),
        None => bytes.len(),
    }
}

/// Length of the Han, hiragana and Hangul syllables at the beginning, each of which is a grapheme
/// cluster and its own folded form. The last one is left out if marks may follow it.
fn count_plain_run(text: &str) -> usize {
    let is_plain = |c: char| matches!(c, '\u{4e00}'..='\u{9fff}' | '\u{3041}'..='\u{3096}' | '\u{ac00}'..='\u{d7a3}');
    let end = text.find(|c| !is_plain(c)).unwrap_or(text.len());
    let may_continue = text[end..].chars().next().is_some_and(|next| !next.is_ascii());
    match text[..end].char_indices().next_back() {
        Some((last, _)) if may_continue => last,
        _ => end,
    }
}

struct SegmentSplitter<F> {
    emit: F,
    /// Kind and position of the open segment.
    open: Option<(SegmentKind, Range<usize>)>,
    /// Its folded text.
    text: String,
    /// Characters of an open word, the truncated ones excluded.
    word_chars: usize,
    /// Script of an open word, once it has a letter.
    script: Option<Script>,
    /// Characters of an open run.
    units: Vec<RunUnit>,
}

impl<F: FnMut(TextSegment<'_>)> SegmentSplitter<F> {
    fn new(emit: F) -> Self {
        Self {
            emit,
            open: None,
            text: String::new(),
            word_chars: 0,
            script: None,
            units: Vec::new(),
        }
    }

    fn close_segment(&mut self) {
        if let Some((kind, range)) = self.open.take() {
            (self.emit)(TextSegment { kind, text: &self.text, range, units: &self.units });
        }
        self.text.clear();
        self.units.clear();
        self.word_chars = 0;
        self.script = None;
    }

    /// Makes the open segment one of this kind that reaches to the end of `range`.
    fn extend_segment(&mut self, kind: SegmentKind, range: &Range<usize>) {
        if self.open.as_ref().is_some_and(|(open, _)| *open != kind) {
            self.close_segment();
        }
        let (_, open) = self.open.get_or_insert_with(|| (kind, range.clone()));
        open.end = range.end;
    }

    fn is_open(&self, kind: SegmentKind) -> bool {
        self.open.as_ref().is_some_and(|(open, _)| *open == kind)
    }

    /// `at` is the position in the whole text.
    fn push_ascii(&mut self, text: &str, at: usize) {
        let mut start = 0;
        while start < text.len() {
            let rest = &text[start..];
            let is_word = |c: char| c.is_ascii_alphanumeric();
            let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            if word > 0 {
                self.push_ascii_word(&rest[..word], at + start);
            }
            let gap = rest[word..].find(is_word).unwrap_or(rest.len() - word);
            if gap > 0 {
                self.close_segment();
            }
            start += word + gap;
        }
    }

    /// Letters and digits.
    fn push_ascii_word(&mut self, word: &str, at: usize) {
        let has_letter = word.bytes().any(|byte| byte.is_ascii_alphabetic());
        if has_letter && self.script.is_some_and(|script| script != Script::Latin) {
            for (offset, c) in word.char_indices() {
                let range = at + offset..at + offset + 1;
                self.push_letter(c.to_ascii_lowercase(), ascii_script(c), &range);
            }
            return;
        }
        self.extend_segment(SegmentKind::Word, &(at..at + word.len()));
        if has_letter {
            self.script = Some(Script::Latin);
        }
        let kept = word.len().min(MAX_WORD_CHARS - self.word_chars);
        let start = self.text.len();
        self.text.push_str(&word[..kept]);
        self.text[start..].make_ascii_lowercase();
        self.word_chars += kept;
    }

    fn push_letter(&mut self, c: char, script: Option<Script>, range: &Range<usize>) {
        if self.is_open(SegmentKind::Word)
            && self.script.is_some_and(|open| script.is_some_and(|script| script != open))
        {
            self.close_segment();
        }
        self.extend_segment(SegmentKind::Word, range);
        self.script = self.script.or(script);
        if self.word_chars < MAX_WORD_CHARS {
            self.text.push(c);
            self.word_chars += 1;
        }
    }

    /// A folded grapheme cluster, which is at `range` in the text.
    fn push_cluster(&mut self, folded: &str, range: Range<usize>) {
        // Within a cluster, only symbols form a segment that the cluster ends.
        let mut has_symbol = false;
        for c in folded.chars() {
            match classify_char(c) {
                CharClass::Letter(script) => self.push_letter(c, script, &range),
                CharClass::Unspaced => self.push_unit(c, &range),
                CharClass::Mark => self.push_mark(c, &range),
                CharClass::RegionalIndicator if has_symbol => self.text.push(c),
                CharClass::EmojiTag if has_symbol => self.text.push(c),
                CharClass::Symbol | CharClass::RegionalIndicator => {
                    self.close_segment();
                    self.extend_segment(SegmentKind::Symbol, &range);
                    self.text.push(c);
                    has_symbol = true;
                }
                CharClass::Ignorable | CharClass::EmojiTag => {}
                CharClass::RunSpace if self.is_open(SegmentKind::Run) => {}
                CharClass::NonJoiner if self.script != Some(Script::Arabic) => {}
                CharClass::RunSpace | CharClass::NonJoiner | CharClass::Separator => {
                    self.close_segment();
                }
            }
        }
        if has_symbol && self.is_open(SegmentKind::Symbol) {
            self.close_segment();
        }
    }

    /// Characters of a run that need no folding.
    fn push_run(&mut self, text: &str, at: usize) {
        for (offset, c) in text.char_indices() {
            self.push_unit(c, &(at + offset..at + offset + c.len_utf8()));
        }
    }

    fn push_unit(&mut self, c: char, range: &Range<usize>) {
        self.extend_segment(SegmentKind::Run, range);
        self.units.push(RunUnit { start: self.text.len(), range: range.clone() });
        self.text.push(c);
    }

    /// A vowel sign or tone mark. Without a letter before it, it belongs to no word.
    fn push_mark(&mut self, c: char, range: &Range<usize>) {
        match &mut self.open {
            Some((SegmentKind::Word, open)) => {
                open.end = range.end;
                if self.word_chars < MAX_WORD_CHARS {
                    self.text.push(c);
                    self.word_chars += 1;
                }
            }
            Some((SegmentKind::Run, open)) => {
                open.end = range.end;
                self.text.push(c);
                if let Some(unit) = self.units.last_mut() {
                    unit.range.end = range.end;
                }
            }
            Some((SegmentKind::Symbol, _)) | None => {}
        }
    }
}

fn ascii_script(c: char) -> Option<Script> {
    c.is_ascii_alphabetic().then_some(Script::Latin)
}
