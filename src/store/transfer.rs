//! Store operations that import and export whole sessions.

use super::transaction::SessionRow;
use super::{MessageParent, NewMessage, NewSession};
use crate::domain::session::{ListPlacement, SessionStatus};
use crate::domain::{Message, MessageId, Principal, Session, SessionId, Timestamp, UserId};
use crate::error::Result;
use async_trait::async_trait;
use std::collections::{BTreeMap, HashMap};

/// Maximum number of messages in a chunk.
const CHUNK_MESSAGES: usize = 1000;
/// A chunk ends once its texts and parts have this size.
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
pub struct ImportSession {
    pub id: SessionId,
    /// Used instead of `id` if that belongs to another user's session.
    pub fallback_id: SessionId,
    pub fields: NewSession,
    /// Keeps the given title, even the default one. Otherwise the first user message names a
    /// session that has the default title.
    pub keep_title: bool,
    pub status: SessionStatus,
    /// The owner's, as is `pinned`.
    pub archived: bool,
    pub pinned: bool,
    /// `archived` and `pinned` of other participants.
    pub placements: Vec<(UserId, ListPlacement)>,
    pub created_at: Timestamp,
    /// When the owner was last seen, if the file says so.
    pub last_seen: Option<Timestamp>,
    /// Read mark of each user as a position in `messages`, counted from 1. Only a new session
    /// takes them over.
    pub read_marks: HashMap<String, u32>,
    /// `None` makes the last message the head.
    pub head_id: Option<MessageId>,
    /// Messages, parents before children. `MessageParent::Head` is the preceding entry of this
    /// list; for the first entry, the current head of the session.
    pub messages: Vec<(NewMessage, MessageParent)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOutcome {
    /// Id in this store, which may be the fallback id.
    pub session_id: SessionId,
    pub title: String,
    /// Messages that did not exist before.
    pub added_messages: u64,
}

/// Consecutive messages of a session, with the session's state when they were read.
#[derive(Debug)]
pub struct SessionChunk {
    /// Without its nodes.
    pub session: Session,
    /// Read mark of each user, as a seq.
    pub read_marks: HashMap<String, u32>,
    /// `archived` and `pinned` of the participants who have set them.
    pub placements: BTreeMap<String, ListPlacement>,
    /// Messages of all branches in the order of their seqs, without sibling ids.
    pub messages: Vec<Message>,
    bytes: usize,
}

impl SessionChunk {
    /// A chunk without messages. The session is as its owner sees it.
    pub(super) fn new(row: &SessionRow) -> Self {
        let row = row.clone().for_viewer(&row.session.owner);
        Self {
            session: row.session,
            read_marks: row.read_marks,
            placements: row.placements,
            messages: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds a message. Returns whether the chunk has room for another one.
    pub(super) fn push(&mut self, message: Message) -> bool {
        self.bytes += message.content.len() + message.parts.as_json().len();
        self.messages.push(message);
        // Checked after a message is added, so a chunk has at least one, however large.
        self.messages.len() < CHUNK_MESSAGES && self.bytes < CHUNK_BYTES
    }
}

/// Importing and exporting whole sessions.
#[async_trait]
pub trait TransferStore: Send + Sync {
    /// Creates the session, or adds the missing messages to the caller's session with that id: all
    /// of them or none. Errors: `session_busy`, `session_closed`, `invalid_request`.
    async fn import_session(
        &self,
        principal: &Principal,
        import: ImportSession,
        now: Timestamp,
    ) -> Result<ImportOutcome>;

    /// Reads the messages that follow the seq `after` (0 for the beginning) until a
    /// [`SessionChunk`] is full: up to 1,000 messages or 1 MiB, and at least one if any is left.
    ///
    /// Session and messages are one consistent snapshot. Messages never change and are never
    /// deleted one by one, so those up to the first chunk's `messages_count` are exactly what the
    /// session contained at that moment. Requires
    /// [`AccessLevel::Owner`](crate::domain::principal::AccessLevel::Owner). Errors:
    /// `session_not_found`, `forbidden`.
    async fn read_chunk(
        &self,
        principal: &Principal,
        session: &SessionId,
        after: u32,
    ) -> Result<SessionChunk>;
}
