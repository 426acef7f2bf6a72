//! The words of one path of a session: which passages hold them, how often, and who said each
//! passage when. Messages are added at the end, and taken away there.

use super::passages::split_passages;
use super::tokenizer::TermTokenizer;
use std::collections::HashMap;
use std::ops::Range;

/// A silence longer than this ends a sitting.
const SITTING_GAP_MILLIS: i64 = 60 * 60 * 1000;
/// The most passages of a block: of a long sitting, every so many are one.
const MAX_BLOCK_PASSAGES: u32 = 40;

/// A message, as far as finding it again goes.
#[derive(Debug, Clone, Copy)]
pub struct Utterance<'a> {
    /// The day on which it was said, in words.
    pub day: &'a str,
    /// The name of who said it; empty where it tells nothing.
    pub speaker: &'a str,
    /// What.
    pub text: &'a str,
    /// When, in milliseconds since 1970.
    pub at_millis: i64,
}

/// A passage of a message.
#[derive(Debug, Clone)]
pub struct IndexedPassage {
    /// The message, by its place in the path.
    pub message_index: u32,
    /// Where it lies in the message's text.
    pub byte_range: Range<u32>,
    /// How many terms it has, those of day and speaker included.
    pub(super) term_count: u16,
    /// Who said it, by their number.
    pub(super) speaker: u16,
    /// The block of neighbours that it is part of.
    pub(super) block: u32,
    /// When it was said.
    at_millis: i64,
    /// Whether it ends with a question.
    pub(super) is_question: bool,
    /// Whether it says of itself when something is.
    pub(super) mentions_time: bool,
}

/// Where a term is.
#[derive(Debug, Clone, Copy)]
pub(super) struct TermPosting {
    pub(super) passage: u32,
    pub(super) occurrences: u16,
}

/// The index.
#[derive(Default)]
pub struct PassageIndex {
    tokenizer: TermTokenizer,
    pub(super) passages: Vec<IndexedPassage>,
    /// The first passage of each message, in the path's order.
    first_passages: Vec<u32>,
    term_ids: HashMap<Box<str>, u32>,
    pub(super) postings: Vec<Vec<TermPosting>>,
    /// The terms of all passages together.
    pub(super) total_terms: u64,
    /// When the last message was said.
    last_at_millis: i64,
    /// The passages of the last block.
    block_len: u32,
    /// The words of each speaker's name.
    speaker_names: Vec<Vec<Box<str>>>,
    speaker_ids: HashMap<Box<str>, u16>,
}

impl PassageIndex {
    /// Adds a message at the end of the path.
    pub fn push(&mut self, said: Utterance<'_>) {
        let message = self.len();
        self.first_passages.push(self.passages.len() as u32);
        let speaker = self.intern_speaker(said.speaker);
        for range in split_passages(said.text) {
            let passage = &said.text[range.clone()];
            let block = self.assign_block(said.at_millis);
            let terms =
                self.add_postings(self.passages.len() as u32, [said.day, said.speaker, passage]);
            self.passages.push(IndexedPassage {
                message_index: message,
                byte_range: range.start as u32..range.end as u32,
                term_count: terms,
                speaker,
                block,
                at_millis: said.at_millis,
                is_question: ends_with_question(passage),
                mentions_time: self.mentions_time(passage),
            });
            self.total_terms += u64::from(terms);
            self.last_at_millis = said.at_millis;
        }
    }

    /// Takes messages from the end of the path until so many are left.
    pub fn truncate(&mut self, messages: u32) {
        let Some(first) = self.first_passages.get(messages as usize).copied() else { return };
        self.first_passages.truncate(messages as usize);
        let gone = self.passages.drain(first as usize..);
        self.total_terms -= gone.map(|passage| u64::from(passage.term_count)).sum::<u64>();
        self.last_at_millis = self.passages.last().map_or(0, |last| last.at_millis);
        let block = self.passages.last().map(|last| last.block);
        let of_block = self.passages.iter().rev().take_while(|one| Some(one.block) == block);
        self.block_len = of_block.count() as u32;
        for postings in &mut self.postings {
            let kept = postings.partition_point(|posting| posting.passage < first);
            postings.truncate(kept);
        }
    }

    /// Where the passages of a message lie among all.
    pub fn message_passages(&self, message: u32) -> Range<usize> {
        let all = self.passages.len();
        let first =
            |at: u32| self.first_passages.get(at as usize).map_or(all, |first| *first as usize);
        first(message)..first(message + 1)
    }

    /// How many messages it holds.
    pub fn len(&self) -> u32 {
        self.first_passages.len() as u32
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.first_passages.is_empty()
    }

    /// Its passages, in the path's order.
    pub fn passages(&self) -> &[IndexedPassage] {
        &self.passages
    }

    /// About how many bytes it takes.
    pub fn memory_bytes(&self) -> usize {
        let postings: usize =
            self.postings.iter().map(|list| 24 + list.capacity() * size_of::<TermPosting>()).sum();
        // A term's text, its number and its place in the table.
        let numbers = self.term_ids.len() * 40;
        postings
            + numbers
            + self.passages.capacity() * size_of::<IndexedPassage>()
            + self.first_passages.len() * 4
    }

    /// The words of a text, for a question to be read like the messages were.
    pub(super) fn tokenizer(&self) -> &TermTokenizer {
        &self.tokenizer
    }

    /// Where a term is; nowhere if nobody said it.
    pub(super) fn postings(&self, term: &str) -> &[TermPosting] {
        self.term_ids.get(term).map_or(&[], |number| &self.postings[*number as usize])
    }

    /// Counts the terms of a passage that is about to be added.
    fn add_postings(&mut self, passage: u32, texts: [&str; 3]) -> u16 {
        let Self { tokenizer: words, term_ids: numbers, postings, .. } = self;
        let mut terms: u16 = 0;
        for text in texts {
            words.for_each_term(text, |term| {
                terms = terms.saturating_add(1);
                let number = match numbers.get(term) {
                    Some(number) => *number as usize,
                    None => {
                        numbers.insert(term.into(), postings.len() as u32);
                        postings.push(Vec::new());
                        postings.len() - 1
                    }
                };
                match postings[number].last_mut() {
                    Some(last) if last.passage == passage => {
                        last.occurrences = last.occurrences.saturating_add(1);
                    }
                    _ => postings[number].push(TermPosting { passage, occurrences: 1 }),
                }
            });
        }
        terms
    }

    /// The block of a passage that is said now: the last one's, unless a silence came before or it
    /// is full.
    fn assign_block(&mut self, at: i64) -> u32 {
        let last = self.passages.last().map(|passage| passage.block);
        let is_new = at.saturating_sub(self.last_at_millis) > SITTING_GAP_MILLIS
            || self.block_len >= MAX_BLOCK_PASSAGES;
        match last {
            Some(last) if !is_new => {
                self.block_len += 1;
                last
            }
            last => {
                self.block_len = 1;
                last.map_or(0, |last| last + 1)
            }
        }
    }

    /// The number of a speaker.
    fn intern_speaker(&mut self, name: &str) -> u16 {
        if let Some(number) = self.speaker_ids.get(name) {
            return *number;
        }
        let mut words: Vec<Box<str>> = Vec::new();
        self.tokenizer.for_each_word(name, |word| words.push(word.into()));
        let number = u16::try_from(self.speaker_names.len()).unwrap_or(u16::MAX);
        if number < u16::MAX {
            self.speaker_names.push(words);
            self.speaker_ids.insert(name.into(), number);
        }
        // Nobody tells more speakers apart; those beyond count as the first one.
        if number < u16::MAX { number } else { 0 }
    }

    /// The words of each speaker's name.
    pub(super) fn speaker_names(&self) -> &[Vec<Box<str>>] {
        &self.speaker_names
    }

    fn mentions_time(&self, text: &str) -> bool {
        let mut found = false;
        self.tokenizer.for_each_word(text, |word| found |= super::time_cues::is_time_word(word));
        found
    }
}

fn ends_with_question(text: &str) -> bool {
    text.ends_with(['?', '？', '؟', '\u{37e}'])
}
