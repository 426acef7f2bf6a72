//! Index of one path of a session: texts, passages and terms of its messages.
//!
//! The index follows the path that is queried: messages that are not on that path are removed from
//! its end, new ones are read from the store ([`super::path_reader`]). A switch to another branch
//! reads that branch back to the fork. Only an empty index reads the full path.
//!
//! An index has a bound. Beyond it, the oldest messages are left out.

use crate::domain::model::TokenVocabulary;
use crate::domain::{MessageId, Role, Timestamp, UserId};
use crate::memory::rank::{PassageIndex, QuantizedVector, Utterance};
use crate::store::HistoryMessage;
use std::collections::HashMap;
use std::mem;

/// Upper bound of the memory of one index, without its vectors.
pub(super) const MAX_INDEX_BYTES: usize = 64 << 20;
/// Upper bound of the memory of an index's vectors. Further passages are searched by words only.
const MAX_VECTOR_BYTES: usize = 64 << 20;
/// Only the beginning of a longer text is indexed.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Text that is indexed in one go: about 0.1 s.
const STEP_TEXT_BYTES: usize = 256 << 10;
/// Approximate memory of a message in addition to its text: its fields, its id, and what an
/// allocator adds to both texts.
pub(super) const MESSAGE_OVERHEAD_BYTES: usize = size_of::<IndexedMessage>() + 96;
const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;

pub(super) struct IndexedMessage {
    pub(super) id: MessageId,
    /// At most [`MAX_TEXT_BYTES`] of the message's text.
    pub(super) text: Box<str>,
    /// Index into [`PathIndex::speakers`].
    pub(super) speaker: u16,
    /// Whether the speaker's label is a name, and not a role.
    is_named: bool,
    /// Day on which it was written, counted from 1970.
    pub(super) day: i64,
    /// Tokens of the path up to and including this message: its position.
    path_tokens: u64,
    created_at: Timestamp,
}

/// The index of a path. An empty one belongs to no path yet.
#[derive(Default)]
pub(super) struct PathIndex {
    pub(super) messages: Vec<IndexedMessage>,
    pub(super) index: PassageIndex,
    /// Labels of the speakers, as prompts show them.
    pub(super) speakers: Vec<Box<str>>,
    speaker_ids: HashMap<Box<str>, u16>,
    /// Tokens of each passage's line; 0 if not counted yet.
    pub(super) line_token_counts: Vec<u32>,
    /// Embedding of each passage, as far as known. Shorter than the list of passages while passages
    /// at the end have none.
    pub(super) vectors: Vec<Option<QuantizedVector>>,
    /// Length of the query's vectors; passages with other lengths are embedded again.
    pub(super) vector_length: Option<usize>,
    vector_bytes: usize,
    vocabulary: Option<TokenVocabulary>,
    /// Memory of the messages.
    message_bytes: usize,
    /// Last message of the path, which may itself be left out of the index.
    last_message: Option<MessageId>,
}

impl PathIndex {
    /// Whether the indexed path ends with this message.
    pub(super) fn ends_at(&self, last: &MessageId) -> bool {
        self.last_message.as_ref() == Some(last)
    }

    pub(super) fn set_last_message(&mut self, last: MessageId) {
        self.last_message = Some(last);
    }

    /// Memory in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let list = self.vectors.capacity() * size_of::<Option<QuantizedVector>>();
        self.word_bytes() + list + self.vector_bytes
    }

    /// Memory without vectors.
    fn word_bytes(&self) -> usize {
        self.message_bytes
            + (self.messages.capacity() - self.messages.len()) * size_of::<IndexedMessage>()
            + self.index.memory_bytes()
            + self.line_token_counts.capacity() * size_of::<u32>()
    }

    /// Whether further vectors would exceed their bound.
    pub(super) fn is_full_of_vectors(&self) -> bool {
        self.vector_bytes >= MAX_VECTOR_BYTES
    }

    /// Number of messages that end at or before this position of the path.
    pub(super) fn count_before(&self, path_tokens: u64) -> u32 {
        let before = self.messages.partition_point(|known| known.path_tokens <= path_tokens);
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// Sets the vocabulary in which lines are counted; a change discards earlier counts.
    pub(super) fn set_vocabulary(&mut self, vocabulary: TokenVocabulary) {
        if self.vocabulary != Some(vocabulary) {
            self.vocabulary = Some(vocabulary);
            self.line_token_counts.fill(0);
        }
        self.line_token_counts.resize(self.index.passages().len(), 0);
    }

    /// Finds the newest indexed message in `newest`, which is newest first.
    pub(super) fn find_overlap(&self, newest: &[HistoryMessage]) -> Option<PathOverlap> {
        newest.iter().enumerate().find_map(|(new_messages, message)| {
            let at = self
                .messages
                .binary_search_by_key(&message.path_tokens, |known| known.path_tokens)
                .ok()?;
            let known = &self.messages[at];
            // Ids alone are not enough: a session that was deleted and imported again has the same
            // ids with possibly other texts.
            let is_same = known.id == message.id
                && known.created_at == message.created_at
                && known.text.len() == indexed_text(&message.content).len();
            is_same.then_some(PathOverlap { kept_messages: at + 1, new_messages })
        })
    }

    pub(super) fn passage_count(&self) -> usize {
        self.index.passages().len()
    }

    /// Removes messages from the end until `messages` are left.
    pub(super) fn truncate(&mut self, messages: usize) {
        if messages >= self.messages.len() {
            return;
        }
        let removed = self.messages.drain(messages..);
        self.message_bytes -= removed.map(|message| message.memory_bytes()).sum::<usize>();
        self.index.truncate(u32::try_from(messages).unwrap_or(u32::MAX));
        self.line_token_counts.truncate(self.index.passages().len());
        let left = self.index.passages().len().min(self.vectors.len());
        let dropped: usize =
            self.vectors.drain(left..).map(|vector| count_vector_bytes(vector.as_ref())).sum();
        self.vector_bytes -= dropped;
    }

    /// Sets the vector of a passage, or removes it.
    pub(super) fn set_vector(&mut self, passage: usize, vector: Option<QuantizedVector>) {
        if self.vectors.len() <= passage {
            self.vectors.resize(passage + 1, None);
        }
        self.vector_bytes += count_vector_bytes(vector.as_ref());
        let before = mem::replace(&mut self.vectors[passage], vector);
        self.vector_bytes -= count_vector_bytes(before.as_ref());
    }

    /// The form in which a message is added by [`Self::push_some`]; `None` for messages that are
    /// not recalled.
    pub(super) fn prepare_message(
        &mut self,
        owner: &UserId,
        message: HistoryMessage,
    ) -> Option<IndexedMessage> {
        // Tool results are not recalled: they are invalid without their calls, and the reply that
        // follows says what matters of them.
        if message.role == Role::Tool {
            return None;
        }
        let is_named = !is_default_sender(owner, &message);
        let label = if is_named { message.sender_id.as_str() } else { message.role.as_str() };
        Some(IndexedMessage {
            speaker: self.intern_speaker(label),
            is_named,
            day: message.created_at.as_millis().div_euclid(DAY_MILLIS),
            path_tokens: message.path_tokens,
            created_at: message.created_at,
            id: message.id,
            text: indexed_text(&message.content).into(),
        })
    }

    /// Adds messages from the end of `pending`, which is newest first, as many as one step takes.
    /// Beyond `max_bytes`, the oldest messages of the path are dropped, and those that remain are
    /// pending again.
    pub(super) fn push_some(&mut self, pending: &mut Vec<IndexedMessage>, max_bytes: usize) {
        let mut bytes = 0;
        while bytes < STEP_TEXT_BYTES
            && let Some(message) = pending.pop()
        {
            bytes += message.memory_bytes();
            self.push(message);
            if self.word_bytes() > max_bytes {
                self.drop_oldest(pending);
                return;
            }
        }
    }

    /// Starts over with the newest messages: as many as have three quarters of the text that the
    /// bound left room for, so that the next turns need not start over.
    fn drop_oldest(&mut self, pending: &mut Vec<IndexedMessage>) {
        let mut room = self.message_bytes / 4 * 3;
        pending.extend(mem::take(&mut self.messages).into_iter().rev());
        let fits = pending.iter().take_while(|message| {
            let left = room.checked_sub(message.memory_bytes());
            room = left.unwrap_or(0);
            left.is_some()
        });
        let kept = fits.count();
        pending.truncate(kept);
        *self = Self {
            speakers: mem::take(&mut self.speakers),
            speaker_ids: mem::take(&mut self.speaker_ids),
            vector_length: self.vector_length,
            ..Self::default()
        };
    }

    fn push(&mut self, message: IndexedMessage) {
        self.index.push(Utterance {
            day: &format_day(message.day),
            // Labels like "user" are not names, so they must not match words of a query.
            speaker: if message.is_named { &self.speakers[message.speaker as usize] } else { "" },
            text: &message.text,
            at_millis: message.created_at.as_millis(),
        });
        self.message_bytes += message.memory_bytes();
        self.messages.push(message);
    }

    /// Number of the sender's label: the role for the model and the session's owner, the user id
    /// for other senders. Beyond 65,535 labels, further ones share the last.
    fn intern_speaker(&mut self, label: &str) -> u16 {
        if let Some(known) = self.speaker_ids.get(label) {
            return *known;
        }
        let number = u16::try_from(self.speakers.len()).unwrap_or(u16::MAX);
        if self.speakers.len() <= usize::from(u16::MAX) {
            self.speakers.push(label.into());
            self.speaker_ids.insert(label.into(), number);
        }
        number
    }
}

impl IndexedMessage {
    /// Memory in bytes, terms not included.
    pub(super) fn memory_bytes(&self) -> usize {
        self.text.len() + MESSAGE_OVERHEAD_BYTES
    }
}

fn indexed_text(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

fn count_vector_bytes(vector: Option<&QuantizedVector>) -> usize {
    vector.map_or(0, |vector| vector.as_bytes().len())
}

/// Whether the role alone identifies the sender.
fn is_default_sender(owner: &UserId, message: &HistoryMessage) -> bool {
    message.sender_id == *owner || message.sender_id == UserId::assistant()
}

/// Where newly read messages continue the index.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathOverlap {
    /// Messages at the beginning of the index that are on both paths.
    pub(super) kept_messages: usize,
    /// Messages at the beginning of the newly read ones that are not indexed.
    pub(super) new_messages: usize,
}

pub(super) fn format_day(day: i64) -> String {
    Timestamp::from_millis(day * DAY_MILLIS).format_day()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::MessageParts;

    const OWNER: &str = "ann";

    /// Messages with the given texts, as read from a store: newest first.
    fn history(texts: Vec<String>) -> Vec<HistoryMessage> {
        let message = |(at, content): (usize, String)| HistoryMessage {
            id: MessageId::generate(),
            role: Role::User,
            sender_id: UserId::new_unchecked(OWNER),
            content,
            tokens: 1,
            path_tokens: at as u64 + 1,
            parts: MessageParts::default(),
            created_at: Timestamp::from_millis(at as i64 * 1000),
            parent_id: None,
        };
        let mut messages: Vec<_> = texts.into_iter().enumerate().map(message).collect();
        messages.reverse();
        messages
    }

    fn index_history(history: Vec<HistoryMessage>, max_bytes: usize) -> PathIndex {
        let mut index = PathIndex::default();
        let owner = UserId::new_unchecked(OWNER);
        let prepare = |message| index.prepare_message(&owner, message);
        let mut pending: Vec<_> = history.into_iter().filter_map(prepare).collect();
        while !pending.is_empty() {
            index.push_some(&mut pending, max_bytes);
        }
        index
    }

    fn random_cjk(random: &mut fastrand::Rng, chars: usize) -> String {
        (0..chars).map(|_| random.char('\u{4e00}'..='\u{9fff}')).collect()
    }

    #[test]
    fn newest_messages_are_indexed_within_the_bound() {
        let mut random = fastrand::Rng::with_seed(1);
        let history = history((0..200).map(|_| random_cjk(&mut random, 2_000)).collect());
        let newest = history[0].id.clone();
        let max_bytes = 4 << 20;
        let mut index = index_history(history, max_bytes);
        let kept = index.messages.len();
        assert!((10..150).contains(&kept), "{kept}");
        assert!(index.word_bytes() <= max_bytes, "{}", index.word_bytes());
        assert_eq!(index.messages.last().map(|message| &message.id), Some(&newest));
        assert_eq!(index.messages[0].path_tokens, 201 - kept as u64, "without gaps");
        index.truncate(0);
        assert_eq!(index.message_bytes, 0);
    }

    #[test]
    fn long_text_is_indexed_up_to_its_bound() {
        let text = "word ".repeat(MAX_TEXT_BYTES / 4);
        let mut index = index_history(history(vec![text.clone()]), MAX_INDEX_BYTES);
        assert_eq!(index.messages[0].text.len(), MAX_TEXT_BYTES);
        let same =
            HistoryMessage { id: index.messages[0].id.clone(), ..history(vec![text]).remove(0) };
        assert!(index.find_overlap(&[same]).is_some(), "the message is known again");
        index.set_vector(3, Some(QuantizedVector::from_bytes(&[1; 100])));
        index.set_vector(3, None);
        assert_eq!(index.vector_bytes, 0);
    }

    #[cfg(target_os = "linux")]
    fn resident_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// Compares the counted memory with what the process takes. Each test is a process of its own.
    #[cfg(target_os = "linux")]
    fn check_count(texts: Vec<String>) {
        // Static tables of words are loaded by the first text.
        drop(index_history(history(vec!["one 猫".to_owned()]), MAX_INDEX_BYTES));
        let before = resident_bytes();
        let index = index_history(history(texts), MAX_INDEX_BYTES);
        let taken = (resident_bytes() - before) as f64;
        let counted = index.memory_bytes() as f64;
        let factor = counted / taken;
        assert!((1.0 / 1.5..1.5).contains(&factor), "{factor}: {counted} counted, {taken} taken");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_of_random_characters_is_counted() {
        let mut random = fastrand::Rng::with_seed(2);
        check_count((0..200).map(|_| random_cjk(&mut random, 1_000)).collect());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_of_random_words_is_counted() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut text = || -> String {
            (0..2_000).map(|at| if at % 7 == 6 { ' ' } else { random.lowercase() }).collect()
        };
        check_count((0..300).map(|_| text()).collect());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_of_tiny_messages_is_counted() {
        check_count((0..40_000).map(|_| "x".to_owned()).collect());
    }
}
