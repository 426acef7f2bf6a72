//! The words of one path of a session: which passages hold them, how often, and who said each
//! passage when. Messages are added at the end, and taken away there.

use super::passages::passages;
use super::words::Words;
use std::collections::HashMap;
use std::ops::Range;

/// A silence longer than this ends a sitting.
const SITTING: i64 = 60 * 60 * 1000;
/// The most passages of a block: of a long sitting, every so many are one.
const BLOCK: u32 = 40;

/// A message, as far as finding it again goes.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// The day on which it was said, in words.
    pub day: &'a str,
    /// The name of who said it; empty where it tells nothing.
    pub speaker: &'a str,
    /// What.
    pub text: &'a str,
    /// When, in milliseconds since 1970.
    pub at: i64,
}

/// A passage of a message.
#[derive(Debug, Clone)]
pub struct Passage {
    /// The message, by its place in the path.
    pub message: u32,
    /// Where it lies in the message's text.
    pub range: Range<u32>,
    /// How many terms it has, those of day and speaker included.
    pub(super) terms: u16,
    /// Who said it, by their number.
    pub(super) speaker: u16,
    /// The block of neighbours that it is part of.
    pub(super) block: u32,
    /// When it was said.
    at: i64,
    /// Whether it ends with a question.
    pub(super) asks: bool,
    /// Whether it says of itself when something is.
    pub(super) dates: bool,
}

/// Where a term is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posting {
    pub(super) passage: u32,
    pub(super) times: u16,
}

/// The index.
#[derive(Default)]
pub struct Index {
    words: Words,
    pub(super) passages: Vec<Passage>,
    /// The first passage of each message, in the path's order.
    firsts: Vec<u32>,
    numbers: HashMap<Box<str>, u32>,
    pub(super) postings: Vec<Vec<Posting>>,
    /// The terms of all passages together.
    pub(super) terms: u64,
    /// When the last message was said.
    last_at: i64,
    /// The passages of the last block.
    in_block: u32,
    /// The words of each speaker's name.
    speakers: Vec<Vec<Box<str>>>,
    speaker_numbers: HashMap<Box<str>, u16>,
}

impl Index {
    /// Adds a message at the end of the path.
    pub fn push(&mut self, said: Said<'_>) {
        let message = self.len();
        self.firsts.push(self.passages.len() as u32);
        let speaker = self.speaker(said.speaker);
        for range in passages(said.text) {
            let passage = &said.text[range.clone()];
            let block = self.block_of(said.at);
            let terms = self.count(self.passages.len() as u32, [said.day, said.speaker, passage]);
            self.passages.push(Passage {
                message,
                range: range.start as u32..range.end as u32,
                terms,
                speaker,
                block,
                at: said.at,
                asks: ends_with_question(passage),
                dates: self.has_date(passage),
            });
            self.terms += u64::from(terms);
            self.last_at = said.at;
        }
    }

    /// Takes messages from the end of the path until so many are left.
    pub fn truncate(&mut self, messages: u32) {
        let Some(first) = self.firsts.get(messages as usize).copied() else { return };
        self.firsts.truncate(messages as usize);
        let gone = self.passages.drain(first as usize..);
        self.terms -= gone.map(|passage| u64::from(passage.terms)).sum::<u64>();
        self.last_at = self.passages.last().map_or(0, |last| last.at);
        let block = self.passages.last().map(|last| last.block);
        let of_block = self.passages.iter().rev().take_while(|one| Some(one.block) == block);
        self.in_block = of_block.count() as u32;
        for postings in &mut self.postings {
            let kept = postings.partition_point(|posting| posting.passage < first);
            postings.truncate(kept);
        }
    }

    /// Where the passages of a message lie among all.
    pub fn passages_of(&self, message: u32) -> Range<usize> {
        let all = self.passages.len();
        let first = |at: u32| self.firsts.get(at as usize).map_or(all, |first| *first as usize);
        first(message)..first(message + 1)
    }

    /// How many messages it holds.
    pub fn len(&self) -> u32 {
        self.firsts.len() as u32
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.firsts.is_empty()
    }

    /// Its passages, in the path's order.
    pub fn passages(&self) -> &[Passage] {
        &self.passages
    }

    /// About how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let postings: usize =
            self.postings.iter().map(|list| 24 + list.capacity() * size_of::<Posting>()).sum();
        // A term's text, its number and its place in the table.
        let numbers = self.numbers.len() * 40;
        postings + numbers + self.passages.capacity() * size_of::<Passage>() + self.firsts.len() * 4
    }

    /// The words of a text, for a question to be read like the messages were.
    pub(super) fn words(&self) -> &Words {
        &self.words
    }

    /// Where a term is; nowhere if nobody said it.
    pub(super) fn postings(&self, term: &str) -> &[Posting] {
        self.numbers.get(term).map_or(&[], |number| &self.postings[*number as usize])
    }

    /// Counts the terms of a passage that is about to be added.
    fn count(&mut self, passage: u32, texts: [&str; 3]) -> u16 {
        let Self { words, numbers, postings, .. } = self;
        let mut terms: u16 = 0;
        for text in texts {
            words.terms(text, |term| {
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
                        last.times = last.times.saturating_add(1);
                    }
                    _ => postings[number].push(Posting { passage, times: 1 }),
                }
            });
        }
        terms
    }

    /// The block of a passage that is said now: the last one's, unless a silence came before or it
    /// is full.
    fn block_of(&mut self, at: i64) -> u32 {
        let last = self.passages.last().map(|passage| passage.block);
        let is_new = at.saturating_sub(self.last_at) > SITTING || self.in_block >= BLOCK;
        match last {
            Some(last) if !is_new => {
                self.in_block += 1;
                last
            }
            last => {
                self.in_block = 1;
                last.map_or(0, |last| last + 1)
            }
        }
    }

    /// The number of a speaker.
    fn speaker(&mut self, name: &str) -> u16 {
        if let Some(number) = self.speaker_numbers.get(name) {
            return *number;
        }
        let mut words: Vec<Box<str>> = Vec::new();
        self.words.words(name, |word| words.push(word.into()));
        let number = u16::try_from(self.speakers.len()).unwrap_or(u16::MAX);
        if number < u16::MAX {
            self.speakers.push(words);
            self.speaker_numbers.insert(name.into(), number);
        }
        // Nobody tells more speakers apart; those beyond count as the first one.
        if number < u16::MAX { number } else { 0 }
    }

    /// The words of each speaker's name.
    pub(super) fn speakers(&self) -> &[Vec<Box<str>>] {
        &self.speakers
    }

    fn has_date(&self, text: &str) -> bool {
        let mut found = false;
        self.words.words(text, |word| found |= super::cues::is_time(word));
        found
    }
}

fn ends_with_question(text: &str) -> bool {
    text.ends_with(['?', '？', '؟', '\u{37e}'])
}
