//! What is asked of a store about whole sessions.

use super::{MessageParent, NewMessage, NewSession};
use crate::domain::session::SessionStatus;
use crate::domain::{Message, MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use async_trait::async_trait;
use std::collections::HashMap;

/// A piece of a session ends before it holds more messages than this …
const CHUNK_MESSAGES: usize = 1000;
/// … or once its texts and parts have this many bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// A session to import.
#[derive(Debug, Clone)]
pub struct ImportSession {
    /// Its id.
    pub id: SessionId,
    /// The id it gets if another user has a session of that id.
    pub fallback_id: SessionId,
    /// Its fields.
    pub fields: NewSession,
    /// Whether it keeps the title it has, even the default one; else its first user message names a
    /// session that nothing has named.
    pub keep_title: bool,
    /// Its status.
    pub status: SessionStatus,
    /// Put away.
    pub archived: bool,
    /// Kept at the head of lists.
    pub pinned: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its owner was last seen, if the file says so.
    pub last_seen: Option<Timestamp>,
    /// How far each user has read, as a place in `messages`, counted from 1. Only a session that is
    /// new takes them over.
    pub read_marks: HashMap<String, u32>,
    /// The head, if the file names one; else the last message.
    pub head_id: Option<MessageId>,
    /// Its messages, parents before children. `Parent::Head` is the message before it in this
    /// list, for the first one the head that the session has.
    pub messages: Vec<(NewMessage, MessageParent)>,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOutcome {
    /// The session's id here.
    pub session_id: SessionId,
    /// Its title.
    pub title: String,
    /// Messages that were not there before.
    pub added_messages: u64,
}

/// A piece of a session, and the session as it was when the piece was read.
#[derive(Debug)]
pub struct SessionChunk {
    /// The session, without its nodes.
    pub session: Session,
    /// How far each user has read, as a seq.
    pub read_marks: HashMap<String, u32>,
    /// Messages of all branches in the order of their seqs, without siblings.
    pub messages: Vec<Message>,
    bytes: usize,
}

impl SessionChunk {
    /// A piece without messages.
    pub(super) fn new(session: Session, read_marks: HashMap<String, u32>) -> Self {
        Self { session, read_marks, messages: Vec::new(), bytes: 0 }
    }

    /// Adds a message. Whether there is room for another.
    pub(super) fn push(&mut self, message: Message) -> bool {
        self.bytes += message.content.len() + message.parts.as_json().len();
        self.messages.push(message);
        self.messages.len() < CHUNK_MESSAGES && self.bytes < CHUNK_BYTES
    }
}

/// Whole sessions, in and out.
#[async_trait]
pub trait TransferStore: Send + Sync {
    /// Adds the session, or to the caller's session of that id the messages it does not have yet:
    /// all of them or none. Errors: `session_busy`,
    /// `session_closed`, `invalid_request`.
    async fn import_session(
        &self,
        principal: &Principal,
        import: ImportSession,
        now: Timestamp,
    ) -> Result<ImportOutcome>;

    /// Reads on in a session, behind the message with the seq `after` (0 is the beginning):
    /// messages until `SessionPiece::push` says that there is no more room (a thousand, or a
    /// mebibyte), so at least one if there is one. Session and messages are one consistent view; as messages never change and
    /// never go away one by one, those up to the first piece's `messages_count` are together what
    /// the session held then. Siblings need not be looked up. The access is
    /// [`Own`](crate::domain::principal::AccessLevel::Owner). Errors: `session_not_found`, `forbidden`.
    async fn read_chunk(
        &self,
        principal: &Principal,
        session: &SessionId,
        after: u32,
    ) -> Result<SessionChunk>;
}
