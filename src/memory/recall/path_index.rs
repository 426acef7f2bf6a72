//! One path of a session as recall keeps it in memory: its messages' texts and their index.
//!
//! It follows the path that it is asked about: what that path does not have is taken from the end,
//! what is new is read from the store. So a turn reads the two messages since the last one, a switch
//! to another branch reads that branch back to where it left, and only who knows nothing reads all.

use crate::domain::{MessageId, Role, Session, SessionId, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::memory::rank::{PassageIndex, QuantizedVector, Utterance};
use crate::memory::tokens::TokenVocabulary;
use crate::store::{HistoryLimits, HistoryMessage, Store};
use std::ops::Range;

/// How many messages are read at first, when few will be new, and then.
const PAGE_SIZES: [u32; 3] = [16, 256, 4096];
/// Of a path with more bytes of text, only the newest messages are kept.
const MAX_TEXT_BYTES: usize = 48 << 20;
/// What a message takes beside its text, about.
const MESSAGE_OVERHEAD_BYTES: usize = 160;
const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;

/// A message of the path.
pub(super) struct IndexedMessage {
    pub(super) id: MessageId,
    pub(super) text: Box<str>,
    /// Whose label it has, by number.
    pub(super) speaker: u16,
    /// The day on which it was said, counted from 1970.
    pub(super) day: i64,
    /// Tokens of the path up to it: its place in the path.
    path_tokens: u64,
    created_at: Timestamp,
}

/// A path.
#[derive(Default)]
pub(super) struct PathIndex {
    pub(super) messages: Vec<IndexedMessage>,
    pub(super) index: PassageIndex,
    /// Who speaks, as the prompt calls them.
    pub(super) speakers: Vec<Box<str>>,
    /// The tokens of each passage's line, once they were counted.
    pub(super) line_token_counts: Vec<u32>,
    /// What each passage means, as far as that is known.
    pub(super) vectors: Vec<Option<QuantizedVector>>,
    /// The length of the model's vectors, as its last one had it.
    pub(super) vector_length: Option<usize>,
    vocabulary: Option<TokenVocabulary>,
    text_bytes: usize,
    /// The message that its path ends with, shown or not.
    last_message: Option<MessageId>,
}

impl PathIndex {
    /// Brings it to the path that ends with `last`. `read` are the newest messages of that path, as
    /// far as somebody has read them already, newest first.
    pub(super) async fn extend_to(
        mut self,
        store: &dyn Store,
        session: &Session,
        last: &MessageId,
        read: Vec<HistoryMessage>,
    ) -> Result<Self> {
        if self.text_bytes > MAX_TEXT_BYTES + MAX_TEXT_BYTES / 2 {
            self = Self::default();
        }
        if self.ends_at(last) {
            return Ok(self);
        }
        let mut followed = self.extend_from_store(store, session, last, read).await?;
        followed.last_message = Some(last.clone());
        Ok(followed)
    }

    async fn extend_from_store(
        self,
        store: &dyn Store,
        session: &Session,
        last: &MessageId,
        read: Vec<HistoryMessage>,
    ) -> Result<Self> {
        if let Some(from) = self.find_overlap(&read) {
            return self.ingest_messages(session, from, read).await;
        }
        let mut newest = Vec::new();
        for most in PAGE_SIZES {
            newest = read_tail(store, &session.id, last, most).await?;
            if let Some(from) = self.find_overlap(&newest) {
                return self.ingest_messages(session, from, newest).await;
            }
            if newest.len() < most as usize {
                break;
            }
        }
        // Nothing of it is known: all of it is read, page by page.
        let (most, mut bytes) = (PAGE_SIZES[PAGE_SIZES.len() - 1], estimate_bytes(&newest));
        loop {
            let before = newest.last().and_then(|oldest| oldest.parent_id.clone());
            let Some(before) = before.filter(|_| bytes < MAX_TEXT_BYTES) else { break };
            let page = read_tail(store, &session.id, &before, most).await?;
            if page.is_empty() {
                break;
            }
            bytes += estimate_bytes(&page);
            newest.extend(page);
        }
        Self::default()
            .ingest_messages(
                session,
                PathOverlap { kept_messages: 0, new_messages: newest.len() },
                newest,
            )
            .await
    }

    /// Whether its path ends with this message.
    pub(super) fn ends_at(&self, last: &MessageId) -> bool {
        self.last_message.as_ref() == Some(last)
    }

    /// About how many bytes it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        let messages = self.messages.len() * MESSAGE_OVERHEAD_BYTES + self.text_bytes;
        let vectors = self.vectors.iter().flatten().map(|vector| vector.as_bytes().len() + 32);
        messages
            + self.index.memory_bytes()
            + self.line_token_counts.capacity() * 4
            + vectors.sum::<usize>()
    }

    /// How many of its messages end at this place of the path or before it.
    pub(super) fn count_before(&self, path_tokens: u64) -> u32 {
        let before = self.messages.partition_point(|known| known.path_tokens <= path_tokens);
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// Where the passages of a message lie; nowhere if it is not on the path.
    pub(super) fn message_passages(&self, id: &MessageId) -> Range<usize> {
        let message = self.messages.iter().rposition(|known| known.id == *id);
        let message = message.and_then(|message| u32::try_from(message).ok());
        message.map_or(0..0, |message| self.index.message_passages(message))
    }

    /// Counts lines in this vocabulary from now on.
    pub(super) fn set_vocabulary(&mut self, vocabulary: TokenVocabulary) {
        if self.vocabulary != Some(vocabulary) {
            self.vocabulary = Some(vocabulary);
            self.line_token_counts.fill(0);
        }
        self.line_token_counts.resize(self.index.passages().len(), 0);
    }

    /// Where messages of a path, newest first, come upon one that is known.
    fn find_overlap(&self, newest: &[HistoryMessage]) -> Option<PathOverlap> {
        newest.iter().enumerate().find_map(|(new, message)| {
            let at =
                self.messages.binary_search_by_key(&message.path_tokens, |known| known.path_tokens);
            let known = at.ok().map(|at| (at, &self.messages[at]))?;
            // A session that was deleted and imported again may have the same ids.
            let is_same = known.1.id == message.id
                && known.1.created_at == message.created_at
                && known.1.text.len() == message.content.len();
            is_same.then_some(PathOverlap { kept_messages: known.0 + 1, new_messages: new })
        })
    }

    /// Keeps so many messages and adds the new ones, on a thread that may block.
    async fn ingest_messages(
        mut self,
        session: &Session,
        from: PathOverlap,
        mut newest: Vec<HistoryMessage>,
    ) -> Result<Self> {
        newest.truncate(from.new_messages);
        let owner = session.owner.clone();
        let add = move || {
            self.truncate(from.kept_messages);
            for message in newest.into_iter().rev() {
                self.push(&owner, message);
            }
            self
        };
        if from.new_messages <= MAX_INLINE_MESSAGES {
            return Ok(add());
        }
        tokio::task::spawn_blocking(add).await.map_err(Error::internal)
    }

    fn truncate(&mut self, messages: usize) {
        if messages >= self.messages.len() {
            return;
        }
        let gone = self.messages.drain(messages..);
        self.text_bytes -= gone.map(|message| message.text.len()).sum::<usize>();
        self.index.truncate(u32::try_from(messages).unwrap_or(u32::MAX));
        self.line_token_counts.truncate(self.index.passages().len());
        self.vectors.truncate(self.index.passages().len());
    }

    fn push(&mut self, owner: &UserId, message: HistoryMessage) {
        // A tool's result means nothing without its call.
        if message.role == Role::Tool {
            return;
        }
        let day = message.created_at.as_millis().div_euclid(DAY_MILLIS);
        let speaker = self.intern_speaker(owner, &message);
        self.index.push(Utterance {
            day: &format_day(day),
            // A role is no name that anybody asks for.
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

    /// The number of a sender's label: the role of the model and of the session's owner, the name
    /// of anybody else.
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

/// Whether a message's role says who sent it.
fn is_default_sender(owner: &UserId, message: &HistoryMessage) -> bool {
    message.sender_id == *owner || message.sender_id == UserId::assistant()
}

/// As many new messages are indexed where they are; more take longer than a task should.
const MAX_INLINE_MESSAGES: usize = 64;

/// How many messages stay, and how many are new.
#[derive(Debug, Clone, Copy)]
struct PathOverlap {
    kept_messages: usize,
    new_messages: usize,
}

async fn read_tail(
    store: &dyn Store,
    session: &SessionId,
    last: &MessageId,
    messages: u32,
) -> Result<Vec<HistoryMessage>> {
    let bounds = HistoryLimits {
        max_messages: messages,
        max_tokens: u32::MAX,
        token_overhead: 0,
        max_part_bytes: 0,
    };
    store.recent_history(session, last, bounds).await
}

fn estimate_bytes(messages: &[HistoryMessage]) -> usize {
    messages.iter().map(|message| message.content.len() + MESSAGE_OVERHEAD_BYTES).sum()
}

/// A day counted from 1970, as people write it.
pub(super) fn format_day(day: i64) -> String {
    Timestamp::from_millis(day * DAY_MILLIS).format_day()
}
