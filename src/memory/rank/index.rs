//! Inverted index of one path of a session: the terms of its passages, their speakers and times.
//! Messages are added and removed at the end only.

use super::fingerprint::PassageFingerprint;
use super::passages::split_passages;
use super::term_table::TermTable;
use super::tokenizer::{TermTokenizer, for_each_word};
use crate::domain::tokenizer::IndexWord;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// A pause longer than this between messages ends a sitting.
const SITTING_GAP_MILLIS: i64 = 60 * 60 * 1000;
/// A longer sitting is split into blocks of this many passages.
const MAX_BLOCK_PASSAGES: u32 = 40;

/// A message as the index sees it.
#[derive(Debug, Clone, Copy)]
pub struct Utterance<'a> {
    /// Day on which it was written, in words; its terms are indexed like those of the text.
    pub day: &'a str,
    /// Name of the sender; empty if it is only a role.
    pub speaker: &'a str,
    pub text: &'a str,
    /// Milliseconds since 1970.
    pub at_millis: i64,
}

/// A part of a message that can be recalled by itself.
#[derive(Debug, Clone)]
pub struct IndexedPassage {
    /// Index of its message in the path.
    pub message_index: u32,
    /// Position in the message's text, in bytes.
    pub byte_range: Range<u32>,
    /// Number of terms, those of day and speaker included.
    pub(super) term_count: u16,
    /// Index into the names of the speakers.
    pub(super) speaker: u16,
    /// Block of neighboring passages that it belongs to; blocks are numbered from 0.
    pub(super) block: u32,
    pub(super) at_millis: i64,
    pub(super) fingerprint: PassageFingerprint,
    pub(super) is_question: bool,
    /// Whether it contains a word that places something in time.
    pub(super) mentions_time: bool,
}

/// The occurrences of a term in one passage.
#[derive(Debug, Clone, Copy)]
pub(super) struct TermPosting {
    pub(super) passage: u32,
    pub(super) occurrences: u16,
}

/// Occurrences of a term, in the order of passages. Most terms occur once or twice, which takes no
/// allocation.
type PostingList = SmallVec<[TermPosting; 2]>;

/// Memory of a speaker in addition to the name: entries of a list and of a hash table.
const SPEAKER_OVERHEAD_BYTES: usize = 160;

/// Inverted index of a path's passages.
#[derive(Default)]
pub struct PassageIndex {
    tokenizer: TermTokenizer,
    pub(super) passages: Vec<IndexedPassage>,
    /// First passage of each message, in the order of the path.
    first_passages: Vec<u32>,
    terms: TermTable,
    /// By number of the term.
    postings: Vec<PostingList>,
    /// The characters of scripts without spaces.
    characters: TermTable,
    /// Numbers of the terms that contain a character, by number of the character.
    character_terms: Vec<SmallVec<[u32; 4]>>,
    /// Memory of the lists that take an allocation of their own, and of the speakers.
    list_bytes: usize,
    /// Number of terms of all passages, for the mean length in BM25.
    pub(super) total_terms: u64,
    last_at_millis: i64,
    /// Number of passages in the last block.
    block_len: u32,
    /// Words of each speaker's name.
    speaker_names: Vec<Vec<Box<str>>>,
    speaker_ids: HashMap<Box<str>, u16>,
}

impl PassageIndex {
    /// Adds a message at the end of the path.
    pub fn push(&mut self, message: Utterance<'_>) {
        let message_index = self.len();
        self.first_passages.push(self.passages.len() as u32);
        let speaker = self.intern_speaker(message.speaker);
        for range in split_passages(message.text) {
            let text = &message.text[range.clone()];
            let block = self.assign_block(message.at_millis);
            let passage = self.passages.len() as u32;
            let (term_count, fingerprint) =
                self.add_postings(passage, [message.day, message.speaker], text);
            let fingerprint = match self.passages.last() {
                Some(previous) if previous.is_question => {
                    fingerprint.after_question(&previous.fingerprint)
                }
                _ => fingerprint,
            };
            self.passages.push(IndexedPassage {
                message_index,
                byte_range: range.start as u32..range.end as u32,
                term_count,
                speaker,
                block,
                at_millis: message.at_millis,
                fingerprint,
                is_question: ends_with_question(text),
                mentions_time: Self::mentions_time(text),
            });
            self.total_terms += u64::from(term_count);
            self.last_at_millis = message.at_millis;
        }
    }

    /// Removes messages from the end of the path until `messages` are left.
    pub fn truncate(&mut self, messages: u32) {
        let Some(first) = self.first_passages.get(messages as usize).copied() else { return };
        self.first_passages.truncate(messages as usize);
        let removed = self.passages.drain(first as usize..);
        self.total_terms -= removed.map(|passage| u64::from(passage.term_count)).sum::<u64>();
        self.last_at_millis = self.passages.last().map_or(0, |last| last.at_millis);
        let block = self.passages.last().map(|last| last.block);
        let of_block = self.passages.iter().rev().take_while(|one| Some(one.block) == block);
        self.block_len = of_block.count() as u32;
        // Postings are in the order of passages, so the removed ones are at the end of each list.
        // Terms that are left without postings keep their id: branches often share words.
        for postings in &mut self.postings {
            let remaining = postings.partition_point(|posting| posting.passage < first);
            postings.truncate(remaining);
        }
    }

    /// Indexes of a message's passages; empty for a message without text.
    pub fn message_passages(&self, message: u32) -> Range<usize> {
        let all = self.passages.len();
        let first =
            |at: u32| self.first_passages.get(at as usize).map_or(all, |first| *first as usize);
        first(message)..first(message + 1)
    }

    /// Number of messages.
    pub fn len(&self) -> u32 {
        self.first_passages.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.first_passages.is_empty()
    }

    /// All passages, in the order of the path.
    pub fn passages(&self) -> &[IndexedPassage] {
        &self.passages
    }

    /// Memory in bytes, without the allocator's overhead. Does not depend on the number of terms.
    pub fn memory_bytes(&self) -> usize {
        self.terms.memory_bytes()
            + self.postings.capacity() * size_of::<PostingList>()
            + self.characters.memory_bytes()
            + self.character_terms.capacity() * size_of::<SmallVec<[u32; 4]>>()
            + self.list_bytes
            + self.passages.capacity() * size_of::<IndexedPassage>()
            + self.first_passages.capacity() * size_of::<u32>()
    }

    /// Questions must be split into terms by the same rules as messages.
    pub(super) fn tokenizer(&self) -> &TermTokenizer {
        &self.tokenizer
    }

    /// Occurrences of a question's term, in the order of passages; empty for an unknown term.
    pub(super) fn find_postings(&self, term: &str, word: IndexWord<'_>) -> Cow<'_, [TermPosting]> {
        match word {
            IndexWord::Single(character) => Cow::Owned(self.character_postings(character)),
            _ => {
                let id = self.terms.find(term);
                Cow::Borrowed(id.map_or(&[], |id| &self.postings[id as usize]))
            }
        }
    }

    /// Occurrences of a character in runs. Within a run it is in two pairs, so it counts half.
    fn character_postings(&self, character: &str) -> Vec<TermPosting> {
        let id = self.characters.find(character);
        let terms: &[u32] = id.map_or(&[], |id| &self.character_terms[id as usize]);
        let mut all: Vec<TermPosting> =
            terms.iter().flat_map(|id| &self.postings[*id as usize]).copied().collect();
        all.sort_unstable_by_key(|posting| posting.passage);
        all.dedup_by(|later, first| {
            let is_same = later.passage == first.passage;
            if is_same {
                first.occurrences = first.occurrences.saturating_add(later.occurrences);
            }
            is_same
        });
        for posting in &mut all {
            posting.occurrences = posting.occurrences.div_ceil(2);
        }
        all
    }

    /// Adds the terms of a passage that is about to be pushed: of its day and speaker, and of its
    /// text. Returns their number, and the fingerprint of the text.
    fn add_postings(
        &mut self,
        passage: u32,
        names: [&str; 2],
        text: &str,
    ) -> (u16, PassageFingerprint) {
        let Self { tokenizer, terms, postings, characters, character_terms, list_bytes, .. } = self;
        let mut count: u16 = 0;
        let mut fingerprint = PassageFingerprint::default();
        let names = names.map(|name| (name, false));
        for (text, is_message) in names.into_iter().chain([(text, true)]) {
            tokenizer.for_each_term(text, |term, word| {
                count = count.saturating_add(1);
                if is_message {
                    fingerprint.add_term(term, word.as_str());
                }
                let id = terms.find(term).unwrap_or_else(|| {
                    postings.push(PostingList::new());
                    let id = terms.add(term);
                    for character in run_characters(word) {
                        let at = characters.find(character).unwrap_or_else(|| {
                            character_terms.push(SmallVec::new());
                            characters.add(character)
                        });
                        push_counted(&mut character_terms[at as usize], id, list_bytes);
                    }
                    id
                });
                match postings[id as usize].last_mut() {
                    Some(last) if last.passage == passage => {
                        last.occurrences = last.occurrences.saturating_add(1);
                    }
                    _ => {
                        let posting = TermPosting { passage, occurrences: 1 };
                        push_counted(&mut postings[id as usize], posting, list_bytes);
                    }
                }
            });
        }
        (count, fingerprint)
    }

    /// The block of the next passage: that of the last passage, unless a pause came before or the
    /// block is full.
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

    /// The id of a speaker, new or known.
    fn intern_speaker(&mut self, name: &str) -> u16 {
        if let Some(id) = self.speaker_ids.get(name) {
            return *id;
        }
        let mut words: Vec<Box<str>> = Vec::new();
        for_each_word(name, |word| words.push(word.as_str().into()));
        let id = u16::try_from(self.speaker_names.len()).unwrap_or(u16::MAX);
        if id < u16::MAX {
            self.list_bytes += 3 * name.len() + SPEAKER_OVERHEAD_BYTES;
            self.speaker_names.push(words);
            self.speaker_ids.insert(name.into(), id);
        }
        // Beyond 65,535 speakers, further ones count as the first. Scoring indexes by these ids.
        if id < u16::MAX { id } else { 0 }
    }

    /// Words of each speaker's name, by speaker id.
    pub(super) fn speaker_names(&self) -> &[Vec<Box<str>>] {
        &self.speaker_names
    }

    fn mentions_time(text: &str) -> bool {
        let mut found = false;
        for_each_word(text, |word| found |= super::time_cues::is_time_word(word.as_str()));
        found
    }
}

/// Adds an item, and the memory that it takes to `list_bytes`.
fn push_counted<T: Copy, const N: usize>(
    list: &mut SmallVec<[T; N]>,
    item: T,
    list_bytes: &mut usize,
) where
    [T; N]: smallvec::Array<Item = T>,
{
    let before = heap_bytes(list);
    list.push(item);
    *list_bytes += heap_bytes(list) - before;
}

fn heap_bytes<T, const N: usize>(list: &SmallVec<[T; N]>) -> usize
where
    [T; N]: smallvec::Array<Item = T>,
{
    if list.spilled() { list.capacity() * size_of::<T>() } else { 0 }
}

/// The characters of a word that is part of a run, each once.
fn run_characters(word: IndexWord<'_>) -> impl Iterator<Item = &str> {
    let (first, last) = match word {
        IndexWord::Pair(pair, first_len) => pair.split_at(first_len),
        IndexWord::Single(character) => (character, character),
        _ => ("", ""),
    };
    let second = Some(last).filter(|last| *last != first);
    [first].into_iter().filter(|first| !first.is_empty()).chain(second)
}

/// Latin, fullwidth, Arabic and Greek question marks.
fn ends_with_question(text: &str) -> bool {
    text.ends_with(['?', '？', '؟', '\u{37e}'])
}
