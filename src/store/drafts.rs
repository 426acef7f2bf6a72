//! Store operations that import a session in chunks. Nothing of an import is visible until it is
//! complete.

use super::rules::SessionDraft;
use super::{ImportOutcome, ImportSession, MessageParent, NewMessage, NewSession};
use crate::domain::session::{ListPlacement, SessionStatus};
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp, UserId};
use crate::error::Result;
use async_trait::async_trait;
use std::collections::{HashMap, HashSet};

/// Messages that callers collect at most before they add them to a draft.
pub const MAX_CHUNK_MESSAGES: usize = 500;
/// Bytes of texts and parts at which callers add the collected messages to a draft.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;
/// An import with at most this many new messages is stored in one transaction, if
/// they have at most [`MAX_PENDING_BYTES`].
const MAX_PENDING_MESSAGES: usize = 200;
const MAX_PENDING_BYTES: usize = 256 << 10;

/// The session that an import goes to.
#[derive(Debug, Clone)]
pub struct ImportTarget {
    pub id: SessionId,
    /// Used instead of `id` if that belongs to another user's session.
    pub fallback_id: SessionId,
}

/// The fields of an imported session, which a file may name after its messages.
#[derive(Debug, Clone)]
pub struct ImportEnd {
    pub fields: NewSession,
    /// Keeps the given title, even the default one. Otherwise the first user message names a
    /// session that has the default title.
    pub keep_title: bool,
    pub status: SessionStatus,
    pub archived: bool,
    pub pinned: bool,
    /// Where participants other than the owner have the session in their lists.
    pub placements: Vec<(UserId, ListPlacement)>,
    pub created_at: Timestamp,
    /// When the owner was last seen, if the file says so.
    pub last_seen: Option<Timestamp>,
    /// The last message that each user has read. Only a new session takes them over.
    pub read_marks: HashMap<String, MessageId>,
    /// `None` makes the last message the head.
    pub head_id: Option<MessageId>,
}

/// References of an [`ImportEnd`] to messages that the session does not have. They are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnknownReferences {
    /// The last message is the head instead.
    pub head: bool,
    /// Number of read marks.
    pub read_marks: usize,
}

/// An import that has begun. Dropping it without [`DraftStore::discard_import`] leaves its removal
/// to a later sweep.
#[derive(Debug)]
pub struct ImportDraft {
    pub(super) principal: Principal,
    pub(super) target: ImportTarget,
    /// The session with one of the target's ids, if the caller has it already.
    pub(super) existing: Option<(SessionId, Timestamp)>,
    /// Messages in memory: all of a small import, none of a large one.
    pub(super) pending: Vec<(NewMessage, MessageParent)>,
    pending_ids: HashSet<MessageId>,
    pending_bytes: usize,
    /// The last message of the file so far, if the session had it already.
    skipped_last: Option<MessageId>,
    pub(super) written: Option<WrittenDraft>,
}

/// The part of an import that a store has written.
#[derive(Debug)]
pub(super) struct WrittenDraft {
    pub(super) key: i64,
    pub(super) content: SessionDraft,
}

/// Ids of an import that the existing session has.
#[derive(Debug, Default)]
pub(super) struct StoredIds {
    pub(super) messages: HashSet<MessageId>,
    /// Parents and heads, which may be named by their client message ids.
    pub(super) references: HashSet<MessageId>,
}

impl ImportDraft {
    pub(super) fn new(
        principal: &Principal,
        target: ImportTarget,
        existing: Option<&Session>,
    ) -> Self {
        Self {
            principal: principal.clone(),
            target,
            existing: existing.map(|session| (session.id.clone(), session.created_at)),
            pending: Vec::new(),
            pending_ids: HashSet::new(),
            pending_bytes: 0,
            skipped_last: None,
            written: None,
        }
    }

    /// The references of a chunk that the messages in memory do not resolve.
    pub(super) fn outside_references(
        &self,
        messages: &[(NewMessage, MessageParent)],
    ) -> Vec<MessageId> {
        let mut chunk_ids = HashSet::new();
        let mut references = Vec::new();
        for (message, parent) in messages {
            if let MessageParent::Message(id) = parent
                && !self.pending_ids.contains(id)
                && !chunk_ids.contains(id)
            {
                references.push(id.clone());
            }
            chunk_ids.insert(&message.id);
            chunk_ids.extend(&message.client_message_id);
        }
        references
    }

    /// Keeps messages in memory, without those that the session has. Returns the positions of
    /// those that became roots.
    pub(super) fn collect(
        &mut self,
        messages: Vec<(NewMessage, MessageParent)>,
        stored: &StoredIds,
    ) -> Vec<usize> {
        let mut orphans = Vec::new();
        for (index, (message, mut parent)) in messages.into_iter().enumerate() {
            match &parent {
                MessageParent::Message(id)
                    if !self.pending_ids.contains(id) && !stored.references.contains(id) =>
                {
                    orphans.push(index);
                    parent = MessageParent::Root;
                }
                MessageParent::Head => {
                    if let Some(last) = self.skipped_last.take() {
                        parent = MessageParent::Message(last);
                    }
                }
                _ => {}
            }
            let ids = [Some(&message.id), message.client_message_id.as_ref()];
            self.pending_ids.extend(ids.into_iter().flatten().cloned());
            if stored.messages.contains(&message.id) {
                self.skipped_last = Some(message.id);
                continue;
            }
            self.skipped_last = None;
            self.pending_bytes += message.body.content.len() + message.body.parts.as_json().len();
            self.pending.push((message, parent));
        }
        orphans
    }

    /// Whether there is more in memory than one transaction should store.
    pub(super) fn is_large(&self) -> bool {
        self.pending.len() > MAX_PENDING_MESSAGES || self.pending_bytes > MAX_PENDING_BYTES
    }

    pub(super) fn take_pending(&mut self) -> Vec<(NewMessage, MessageParent)> {
        self.pending_ids = HashSet::new();
        std::mem::take(&mut self.pending)
    }

    /// The head that the file names, if the messages in memory or the stored ones have it.
    pub(super) fn names_unknown_head(&self, end: &ImportEnd, stored: &StoredIds) -> bool {
        let is_known =
            |id: &MessageId| self.pending_ids.contains(id) || stored.references.contains(id);
        end.head_id.as_ref().is_some_and(|id| !is_known(id))
    }

    /// The import as one transaction stores it, for an import that is in memory as a whole.
    pub(super) fn into_import_session(
        self,
        end: ImportEnd,
        unknown: &mut UnknownReferences,
    ) -> ImportSession {
        let given_marks = end.read_marks.len();
        let position = |id: &MessageId| {
            let index = self.pending.iter().position(|(message, _)| message.id == *id)?;
            u32::try_from(index + 1).ok()
        };
        let read_marks = match &self.existing {
            // Only a new session takes them over.
            Some(_) => HashMap::new(),
            None => {
                let marks = end.read_marks.into_iter();
                let marks: HashMap<_, _> =
                    marks.filter_map(|(user, id)| Some((user, position(&id)?))).collect();
                unknown.read_marks = given_marks - marks.len();
                marks
            }
        };
        let head_id = end.head_id.filter(|_| !unknown.head);
        ImportSession {
            id: self.target.id,
            fallback_id: self.target.fallback_id,
            fields: end.fields,
            keep_title: end.keep_title,
            status: end.status,
            archived: end.archived,
            pinned: end.pinned,
            placements: end.placements,
            created_at: end.created_at,
            last_seen: end.last_seen,
            read_marks,
            head_id: head_id.or(self.skipped_last),
            messages: self.pending,
        }
    }
}

/// Importing a session chunk by chunk.
#[async_trait]
pub trait DraftStore: Send + Sync {
    /// Begins an import by `principal`. Errors: `session_busy`, `id_conflict`.
    async fn begin_import(
        &self,
        principal: &Principal,
        target: ImportTarget,
        now: Timestamp,
    ) -> Result<ImportDraft>;

    /// Adds messages, parents before children. `MessageParent::Head` is the preceding message of
    /// the file; for the first one, the head of the session. Messages that the session already has
    /// are skipped.
    ///
    /// Returns the positions in `messages`, counted from 0, of those whose parent neither precedes
    /// them nor is in the session. They become roots. Errors: `session_closed`, `invalid_request`.
    /// After an error the draft can only be discarded.
    async fn add_to_import(
        &self,
        draft: &mut ImportDraft,
        messages: Vec<(NewMessage, MessageParent)>,
    ) -> Result<Vec<usize>>;

    /// Makes the imported session visible as a whole: creates it, or adds the missing messages to
    /// the caller's session with that id. After an error nothing is left of the import. Errors:
    /// `session_busy`, `session_closed`, `id_conflict`.
    async fn finish_import(
        &self,
        draft: ImportDraft,
        end: ImportEnd,
        now: Timestamp,
    ) -> Result<(ImportOutcome, UnknownReferences)>;

    /// Abandons an import.
    async fn discard_import(&self, draft: ImportDraft);

    /// Deletes a part of the content that belongs to no session: of deleted sessions, and of
    /// imports and forks that were abandoned. Returns whether more may be left.
    async fn sweep_remains(&self) -> Result<bool>;
}
