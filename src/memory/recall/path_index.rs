//! Index of one path of a session: texts, passages and terms of its messages.
//!
//! The index follows the path that is queried: messages that are not on that path are removed from
//! its end, new ones are read from the store. A turn reads the messages since the last turn, and a
//! switch to another branch reads that branch back to the fork. Only an empty index reads the full
//! path.

use crate::domain::model::TokenVocabulary;
use crate::domain::{MessageId, Role, Session, SessionId, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::memory::rank::{PassageIndex, QuantizedVector, Utterance};
use crate::store::{HistoryLimits, HistoryMessage, Store};
use std::ops::Range;

/// Messages per read: small pages first, because usually few messages are new.
const PAGE_SIZES: [u32; 3] = [16, 256, 4096];
/// Only the newest messages of a path are indexed once their text takes more bytes than this.
const MAX_TEXT_BYTES: usize = 48 << 20;
/// Approximate memory of a message in addition to its text.
const MESSAGE_OVERHEAD_BYTES: usize = 160;
const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;

pub(super) struct IndexedMessage {
    pub(super) id: MessageId,
    pub(super) text: Box<str>,
    /// Index into [`PathIndex::speakers`].
    pub(super) speaker: u16,
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
    /// Tokens of each passage's line; 0 if not counted yet.
    pub(super) line_token_counts: Vec<u32>,
    /// Embedding of each passage, as far as known. Shorter than the list of passages while passages
    /// at the end have none.
    pub(super) vectors: Vec<Option<QuantizedVector>>,
    /// Length of the query's vectors; passages with other lengths are embedded again.
    pub(super) vector_length: Option<usize>,
    vocabulary: Option<TokenVocabulary>,
    text_bytes: usize,
    /// Last message of the path, which may itself be left out of the index.
    last_message: Option<MessageId>,
}

impl PathIndex {
    /// Updates the index to the path that ends with `last`. `history` are the newest messages of
    /// that path, newest first, as far as the caller has read them.
    pub(super) async fn extend_to(
        mut self,
        store: &dyn Store,
        session: &Session,
        last: &MessageId,
        history: Vec<HistoryMessage>,
    ) -> Result<Self> {
        // Messages are only appended, so the text grows past its bound. Starting over at 1.5 times
        // the bound keeps that rare.
        if self.text_bytes > MAX_TEXT_BYTES + MAX_TEXT_BYTES / 2 {
            self = Self::default();
        }
        if self.ends_at(last) {
            return Ok(self);
        }
        let mut extended = self.extend_from_store(store, session, last, history).await?;
        extended.last_message = Some(last.clone());
        Ok(extended)
    }

    async fn extend_from_store(
        self,
        store: &dyn Store,
        session: &Session,
        last: &MessageId,
        history: Vec<HistoryMessage>,
    ) -> Result<Self> {
        if let Some(overlap) = self.find_overlap(&history) {
            return self.ingest_messages(session, overlap, history).await;
        }
        let mut newest = Vec::new();
        for page_size in PAGE_SIZES {
            newest = read_tail(store, &session.id, last, page_size).await?;
            if let Some(overlap) = self.find_overlap(&newest) {
                return self.ingest_messages(session, overlap, newest).await;
            }
            // A page that is not full has reached the root.
            if newest.len() < page_size as usize {
                break;
            }
        }
        // Nothing in common with the index: read the whole path, page by page.
        let page_size = PAGE_SIZES[PAGE_SIZES.len() - 1];
        let mut bytes = estimate_bytes(&newest);
        loop {
            let before = newest.last().and_then(|oldest| oldest.parent_id.clone());
            let Some(before) = before.filter(|_| bytes < MAX_TEXT_BYTES) else { break };
            let page = read_tail(store, &session.id, &before, page_size).await?;
            if page.is_empty() {
                break;
            }
            bytes += estimate_bytes(&page);
            newest.extend(page);
        }
        let overlap = PathOverlap { kept_messages: 0, new_messages: newest.len() };
        Self::default().ingest_messages(session, overlap, newest).await
    }

    /// Whether the indexed path ends with this message.
    pub(super) fn ends_at(&self, last: &MessageId) -> bool {
        self.last_message.as_ref() == Some(last)
    }

    /// Approximate memory in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let messages = self.messages.len() * MESSAGE_OVERHEAD_BYTES + self.text_bytes;
        let vectors = self.vectors.iter().flatten().map(|vector| vector.as_bytes().len() + 32);
        messages
            + self.index.memory_bytes()
            + self.line_token_counts.capacity() * 4
            + vectors.sum::<usize>()
    }

    /// Number of messages that end at or before this position of the path.
    pub(super) fn count_before(&self, path_tokens: u64) -> u32 {
        let before = self.messages.partition_point(|known| known.path_tokens <= path_tokens);
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// Indexes of a message's passages; empty if the message is not on the path.
    pub(super) fn message_passages(&self, id: &MessageId) -> Range<usize> {
        let message = self.messages.iter().rposition(|known| known.id == *id);
        let message = message.and_then(|message| u32::try_from(message).ok());
        message.map_or(0..0, |message| self.index.message_passages(message))
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
    fn find_overlap(&self, newest: &[HistoryMessage]) -> Option<PathOverlap> {
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
                && known.text.len() == message.content.len();
            is_same.then_some(PathOverlap { kept_messages: at + 1, new_messages })
        })
    }

    /// Removes the messages after the overlap and adds the new ones.
    async fn ingest_messages(
        mut self,
        session: &Session,
        overlap: PathOverlap,
        mut newest: Vec<HistoryMessage>,
    ) -> Result<Self> {
        newest.truncate(overlap.new_messages);
        let owner = session.owner.clone();
        let ingest = move || {
            self.truncate(overlap.kept_messages);
            for message in newest.into_iter().rev() {
                self.push(&owner, message);
            }
            self
        };
        if overlap.new_messages <= MAX_INLINE_MESSAGES {
            return Ok(ingest());
        }
        tokio::task::spawn_blocking(ingest).await.map_err(Error::internal)
    }

    fn truncate(&mut self, messages: usize) {
        if messages >= self.messages.len() {
            return;
        }
        let removed = self.messages.drain(messages..);
        self.text_bytes -= removed.map(|message| message.text.len()).sum::<usize>();
        self.index.truncate(u32::try_from(messages).unwrap_or(u32::MAX));
        self.line_token_counts.truncate(self.index.passages().len());
        self.vectors.truncate(self.index.passages().len());
    }

    fn push(&mut self, owner: &UserId, message: HistoryMessage) {
        // Tool results are not recalled: they are invalid without their calls, and the reply that
        // follows says what matters of them.
        if message.role == Role::Tool {
            return;
        }
        let day = message.created_at.as_millis().div_euclid(DAY_MILLIS);
        let speaker = self.intern_speaker(owner, &message);
        self.index.push(Utterance {
            day: &format_day(day),
            // Labels like "user" are not names, so they must not match words of a query.
            speaker: if is_default_sender(owner, &message) {
                ""
            } else {
                message.sender_id.as_str()
            },
            text: &message.content,
            at_millis: message.created_at.as_millis(),
        });
        self.text_bytes += message.content.len();
        self.messages.push(IndexedMessage {
            id: message.id,
            text: message.content.into(),
            speaker,
            day,
            path_tokens: message.path_tokens,
            created_at: message.created_at,
        });
    }

    /// Number of the sender's label: the role for the model and the session's owner, the user id
    /// for other senders.
    fn intern_speaker(&mut self, owner: &UserId, message: &HistoryMessage) -> u16 {
        let label = if is_default_sender(owner, message) {
            message.role.as_str()
        } else {
            message.sender_id.as_str()
        };
        let known = self.speakers.iter().position(|known| **known == *label);
        let number = known.unwrap_or_else(|| {
            self.speakers.push(label.into());
            self.speakers.len() - 1
        });
        u16::try_from(number).unwrap_or(u16::MAX)
    }
}

/// Whether the role alone identifies the sender.
fn is_default_sender(owner: &UserId, message: &HistoryMessage) -> bool {
    message.sender_id == *owner || message.sender_id == UserId::assistant()
}

/// More new messages than this are indexed on a blocking thread.
const MAX_INLINE_MESSAGES: usize = 64;

/// Where newly read messages continue the index.
#[derive(Debug, Clone, Copy)]
struct PathOverlap {
    /// Messages at the beginning of the index that are on both paths.
    kept_messages: usize,
    /// Messages at the beginning of the newly read ones that are not indexed.
    new_messages: usize,
}

async fn read_tail(
    store: &dyn Store,
    session: &SessionId,
    last: &MessageId,
    messages: u32,
) -> Result<Vec<HistoryMessage>> {
    let limits = HistoryLimits {
        max_messages: messages,
        max_tokens: u32::MAX,
        token_overhead: 0,
        max_part_bytes: 0,
    };
    store.recent_history(session, last, limits).await
}

fn estimate_bytes(messages: &[HistoryMessage]) -> usize {
    messages.iter().map(|message| message.content.len() + MESSAGE_OVERHEAD_BYTES).sum()
}

pub(super) fn format_day(day: i64) -> String {
    Timestamp::from_millis(day * DAY_MILLIS).format_day()
}
