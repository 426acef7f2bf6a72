//! One path of a session as recall keeps it in memory: its messages' texts and their index.
//!
//! It follows the path that it is asked about: what that path does not have is taken from the end,
//! what is new is read from the store. So a turn reads the two messages since the last one, a switch
//! to another branch reads that branch back to where it left, and only who knows nothing reads all.

use crate::domain::{MessageId, Role, Session, SessionId, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::memory::rank::{Index, Said, Vector};
use crate::memory::tokens::Vocabulary;
use crate::store::{HistoryLimits, HistoryMessage, Store};
use std::ops::Range;

/// How many messages are read at first, when few will be new, and then.
const PAGES: [u32; 3] = [16, 256, 4096];
/// Of a path with more bytes of text, only the newest messages are kept.
const MOST: usize = 48 << 20;
/// What a message takes beside its text, about.
const OVERHEAD: usize = 160;
const DAY: i64 = 24 * 60 * 60 * 1000;

/// A message of the path.
pub(super) struct KeptMessage {
    pub(super) id: MessageId,
    pub(super) text: Box<str>,
    /// Whose label it has, by number.
    pub(super) speaker: u16,
    /// The day on which it was said, counted from 1970.
    pub(super) day: i64,
    /// Tokens of the path up to it: its place in the path.
    path_tokens: u64,
    at: Timestamp,
}

/// A path.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) messages: Vec<KeptMessage>,
    pub(super) index: Index,
    /// Who speaks, as the prompt calls them.
    pub(super) speakers: Vec<Box<str>>,
    /// The tokens of each passage's line, once they were counted.
    pub(super) lines: Vec<u32>,
    /// What each passage means, as far as that is known.
    pub(super) vectors: Vec<Option<Vector>>,
    /// The length of the model's vectors, as its last one had it.
    pub(super) vector_length: Option<usize>,
    vocabulary: Option<Vocabulary>,
    text_bytes: usize,
    /// The message that its path ends with, shown or not.
    end: Option<MessageId>,
}

impl Kept {
    /// Brings it to the path that ends with `last`. `read` are the newest messages of that path, as
    /// far as somebody has read them already, newest first.
    pub(super) async fn follow(
        mut self,
        store: &dyn Store,
        session: &Session,
        last: &MessageId,
        read: Vec<HistoryMessage>,
    ) -> Result<Self> {
        if self.text_bytes > MOST + MOST / 2 {
            self = Self::default();
        }
        if self.ends_with(last) {
            return Ok(self);
        }
        let mut followed = self.follow_to(store, session, last, read).await?;
        followed.end = Some(last.clone());
        Ok(followed)
    }

    async fn follow_to(
        self,
        store: &dyn Store,
        session: &Session,
        last: &MessageId,
        read: Vec<HistoryMessage>,
    ) -> Result<Self> {
        if let Some(from) = self.place_of(&read) {
            return self.take_up(session, from, read).await;
        }
        let mut newest = Vec::new();
        for most in PAGES {
            newest = tail(store, &session.id, last, most).await?;
            if let Some(from) = self.place_of(&newest) {
                return self.take_up(session, from, newest).await;
            }
            if newest.len() < most as usize {
                break;
            }
        }
        // Nothing of it is known: all of it is read, page by page.
        let (most, mut bytes) = (PAGES[PAGES.len() - 1], size(&newest));
        loop {
            let before = newest.last().and_then(|oldest| oldest.parent_id.clone());
            let Some(before) = before.filter(|_| bytes < MOST) else { break };
            let page = tail(store, &session.id, &before, most).await?;
            if page.is_empty() {
                break;
            }
            bytes += size(&page);
            newest.extend(page);
        }
        Self::default().take_up(session, From { messages: 0, new: newest.len() }, newest).await
    }

    /// Whether its path ends with this message.
    pub(super) fn ends_with(&self, last: &MessageId) -> bool {
        self.end.as_ref() == Some(last)
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let messages = self.messages.len() * OVERHEAD + self.text_bytes;
        let vectors = self.vectors.iter().flatten().map(|vector| vector.as_bytes().len() + 32);
        messages + self.index.bytes() + self.lines.capacity() * 4 + vectors.sum::<usize>()
    }

    /// How many of its messages end at this place of the path or before it.
    pub(super) fn before(&self, path_tokens: u64) -> u32 {
        let before = self.messages.partition_point(|known| known.path_tokens <= path_tokens);
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// Where the passages of a message lie; nowhere if it is not on the path.
    pub(super) fn passages_of(&self, id: &MessageId) -> Range<usize> {
        let message = self.messages.iter().rposition(|known| known.id == *id);
        let message = message.and_then(|message| u32::try_from(message).ok());
        message.map_or(0..0, |message| self.index.passages_of(message))
    }

    /// Counts lines in this vocabulary from now on.
    pub(super) fn count_in(&mut self, vocabulary: Vocabulary) {
        if self.vocabulary != Some(vocabulary) {
            self.vocabulary = Some(vocabulary);
            self.lines.fill(0);
        }
        self.lines.resize(self.index.passages().len(), 0);
    }

    /// Where messages of a path, newest first, come upon one that is known.
    fn place_of(&self, newest: &[HistoryMessage]) -> Option<From> {
        newest.iter().enumerate().find_map(|(new, message)| {
            let at =
                self.messages.binary_search_by_key(&message.path_tokens, |known| known.path_tokens);
            let known = at.ok().map(|at| (at, &self.messages[at]))?;
            // A session that was deleted and imported again may have the same ids.
            let is_same = known.1.id == message.id
                && known.1.at == message.created_at
                && known.1.text.len() == message.content.len();
            is_same.then_some(From { messages: known.0 + 1, new })
        })
    }

    /// Keeps so many messages and adds the new ones, on a thread that may block.
    async fn take_up(
        mut self,
        session: &Session,
        from: From,
        mut newest: Vec<HistoryMessage>,
    ) -> Result<Self> {
        newest.truncate(from.new);
        let owner = session.owner.clone();
        let add = move || {
            self.truncate(from.messages);
            for message in newest.into_iter().rev() {
                self.push(&owner, message);
            }
            self
        };
        if from.new <= FEW {
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
        self.lines.truncate(self.index.passages().len());
        self.vectors.truncate(self.index.passages().len());
    }

    fn push(&mut self, owner: &UserId, message: HistoryMessage) {
        // A tool's result means nothing without its call.
        if message.role == Role::Tool {
            return;
        }
        let day = message.created_at.as_millis().div_euclid(DAY);
        let speaker = self.speaker(owner, &message);
        self.index.push(Said {
            day: &day_in_words(day),
            // A role is no name that anybody asks for.
            speaker: if is_usual(owner, &message) { "" } else { message.sender_id.as_str() },
            text: &message.content,
            at: message.created_at.as_millis(),
        });
        self.text_bytes += message.content.len();
        self.messages.push(KeptMessage {
            id: message.id,
            text: message.content.into(),
            speaker,
            day,
            path_tokens: message.path_tokens,
            at: message.created_at,
        });
    }

    /// The number of a sender's label: the role of the model and of the session's owner, the name
    /// of anybody else.
    fn speaker(&mut self, owner: &UserId, message: &HistoryMessage) -> u16 {
        let label = if is_usual(owner, message) {
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
fn is_usual(owner: &UserId, message: &HistoryMessage) -> bool {
    message.sender_id == *owner || message.sender_id == UserId::assistant()
}

/// As many new messages are indexed where they are; more take longer than a task should.
const FEW: usize = 64;

/// How many messages stay, and how many are new.
#[derive(Debug, Clone, Copy)]
struct From {
    messages: usize,
    new: usize,
}

async fn tail(
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

fn size(messages: &[HistoryMessage]) -> usize {
    messages.iter().map(|message| message.content.len() + OVERHEAD).sum()
}

/// A day counted from 1970, as people write it.
pub(super) fn day_in_words(day: i64) -> String {
    Timestamp::from_millis(day * DAY).format_day()
}
