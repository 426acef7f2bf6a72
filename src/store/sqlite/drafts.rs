//! Imports and forks in SQLite: drafts that grow step by step.
//!
//! A draft's content is stored under a key that no row in `sessions` has yet, so nothing finds it.
//! Each step is a short transaction, and so is the last one, which publishes the draft.

use super::SqliteStore;
use super::paths::{find_message, find_message_by_id};
use super::rows::{SEQ_MASK, message_key};
use super::session_remains::{abandon_draft, create_draft, replace_content, touch_draft};
use super::session_rows::{KeyedSession, find_session};
use super::transaction::{SqliteTransaction, run_ready};
use super::writer::StepBudget;
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use crate::store::drafts::{StoredIds, WrittenDraft};
use crate::store::rules::{self, ForkSource, SessionDraft};
use crate::store::transaction::NodeTransaction;
use crate::store::{
    DraftStore, ImportDraft, ImportEnd, ImportOutcome, ImportTarget, MessageParent, NewMessage,
    UnknownReferences,
};
use async_trait::async_trait;
use rusqlite::{Connection, params};
use std::vec::IntoIter;

/// Messages copied by one statement. They may be large.
const COPY_MESSAGES: u32 = 16;

#[async_trait]
impl DraftStore for SqliteStore {
    async fn begin_import(
        &self,
        principal: &Principal,
        target: ImportTarget,
        _now: Timestamp,
    ) -> Result<ImportDraft> {
        let principal = principal.clone();
        self.run_read(move |db| {
            let mut tx = SqliteTransaction::new(db);
            let existing = run_ready(rules::find_import_session(&mut tx, &principal, &target))?;
            let existing = existing.map(|row| row.session);
            Ok(ImportDraft::new(&principal, target, existing.as_ref()))
        })
        .await
    }

    async fn add_to_import(
        &self,
        draft: &mut ImportDraft,
        messages: Vec<(NewMessage, MessageParent)>,
    ) -> Result<Vec<usize>> {
        if let Some(written) = draft.written.take() {
            let (written, orphans) = self.append_in_steps(written, messages).await?;
            draft.written = Some(written);
            return Ok(orphans);
        }
        let ids = messages.iter().map(|(message, _)| message.id.clone()).collect();
        let references = draft.outside_references(&messages);
        let stored = self.find_stored_ids(draft, ids, references).await?;
        let orphans = draft.collect(messages, &stored);
        if draft.is_large() {
            let written = self.begin_writing(draft).await?;
            // Parents are resolved already.
            let (written, _) = self.append_in_steps(written, draft.take_pending()).await?;
            draft.written = Some(written);
        }
        Ok(orphans)
    }

    async fn finish_import(
        &self,
        mut draft: ImportDraft,
        end: ImportEnd,
        now: Timestamp,
    ) -> Result<(ImportOutcome, UnknownReferences)> {
        match draft.written.take() {
            Some(written) => self.publish_import(draft.principal, written, end, now).await,
            None => self.finish_small_import(draft, end, now).await,
        }
    }

    async fn discard_import(&self, draft: ImportDraft) {
        if let Some(written) = draft.written {
            self.abandon(written.key).await;
        }
    }

    async fn sweep_remains(&self) -> Result<bool> {
        self.sweep_step().await
    }
}

impl SqliteStore {
    async fn finish_small_import(
        &self,
        draft: ImportDraft,
        end: ImportEnd,
        now: Timestamp,
    ) -> Result<(ImportOutcome, UnknownReferences)> {
        let references = end.head_id.iter().cloned().collect();
        let stored = self.find_stored_ids(&draft, Vec::new(), references).await?;
        let head = draft.names_unknown_head(&end, &stored);
        let mut unknown = UnknownReferences { head, ..UnknownReferences::default() };
        let (principal, existing) = (draft.principal.clone(), draft.existing.clone());
        let import = draft.into_import_session(end, &mut unknown);
        self.transact(async move |tx| {
            rules::ensure_unchanged(tx, existing.as_ref()).await?;
            Ok((rules::import_session(tx, &principal, &import, now).await?, unknown))
        })
        .await
    }

    async fn find_stored_ids(
        &self,
        draft: &ImportDraft,
        ids: Vec<MessageId>,
        references: Vec<MessageId>,
    ) -> Result<StoredIds> {
        let Some((session, _)) = draft.existing.clone() else { return Ok(StoredIds::default()) };
        self.run_read(move |db| {
            let mut stored = StoredIds::default();
            // A session that was deleted meanwhile is noticed in the last transaction.
            let Some(KeyedSession { key, .. }) = find_session(db, &session)? else {
                return Ok(stored);
            };
            for id in ids {
                if find_message_by_id(db, key, &id)?.is_some() {
                    stored.messages.insert(id);
                }
            }
            for id in references {
                if find_message(db, key, &id)?.is_some() {
                    stored.references.insert(id);
                }
            }
            Ok(stored)
        })
        .await
    }

    /// Creates the draft of an import that is too large for one transaction: an empty one, or a
    /// copy of the session that the import goes to.
    async fn begin_writing(&self, draft: &ImportDraft) -> Result<WrittenDraft> {
        let Some((session, _)) = draft.existing.clone() else {
            let (owner, target) = (draft.principal.clone(), draft.target.clone());
            let id = self
                .run_read(move |db| {
                    let mut tx = SqliteTransaction::new(db);
                    run_ready(rules::choose_new_id(&mut tx, &target))
                })
                .await?;
            let key = self.run_step(create_draft).await?;
            return Ok(WrittenDraft { key, content: SessionDraft::new(&owner.user, &id) });
        };
        let base = self.run_read(move |db| find_session(db, &session)).await?;
        let base = base.ok_or_else(rules::changed_meanwhile)?;
        rules::ensure_importable(&base.row)?;
        let key = self.run_step(create_draft).await?;
        if let Err(error) = self.copy_content(&base, key).await {
            self.abandon(key).await;
            return Err(error);
        }
        Ok(WrittenDraft { key, content: SessionDraft::copy_of(base.row) })
    }

    /// Appends messages to a draft in as many steps as it takes. An error abandons the draft.
    async fn append_in_steps(
        &self,
        draft: WrittenDraft,
        messages: Vec<(NewMessage, MessageParent)>,
    ) -> Result<(WrittenDraft, Vec<usize>)> {
        let key = draft.key;
        let mut append =
            DraftAppend { draft, messages: messages.into_iter(), position: 0, orphans: Vec::new() };
        while append.messages.len() > 0 {
            let step = self.run_step(move |db| append.run_step(db)).await;
            append = match step {
                Ok(append) => append,
                Err(error) => {
                    self.abandon(key).await;
                    return Err(error);
                }
            };
        }
        Ok((append.draft, append.orphans))
    }

    async fn publish_import(
        &self,
        principal: Principal,
        draft: WrittenDraft,
        end: ImportEnd,
        now: Timestamp,
    ) -> Result<(ImportOutcome, UnknownReferences)> {
        let WrittenDraft { key, content } = draft;
        let published = self
            .run_write(move |db| {
                if content.is_copy() {
                    replace_content(db, &content.row.session.id, key)?;
                }
                let mut tx = SqliteTransaction::on_draft(db, &content.row.session.id, key);
                run_ready(rules::publish_import(&mut tx, &principal, &content, &end, now))
            })
            .await;
        if published.is_err() {
            self.abandon(key).await;
        }
        published
    }

    /// Leaves a draft to the sweep.
    async fn abandon(&self, key: i64) {
        // If this fails, the draft expires.
        let _ = self.run_step(move |db| abandon_draft(db, key)).await;
    }

    /// Copies the messages, nodes, embeddings and summaries of a session to a draft. Words are
    /// indexed again.
    async fn copy_content(&self, base: &KeyedSession, draft: i64) -> Result<()> {
        let session = base.key;
        let mut next = CopyPosition::start(&base.row);
        while !next.is_end() {
            next = self.run_step(move |db| next.run_step(db, session, draft)).await?;
        }
        Ok(())
    }

    pub(super) async fn fork_in_steps(
        &self,
        principal: &Principal,
        source: ForkSource,
        now: Timestamp,
    ) -> Result<Session> {
        let id = SessionId::generate();
        let key = self.run_step(create_draft).await?;
        let mut draft = WrittenDraft { key, content: SessionDraft::new(&principal.user, &id) };
        let ForkSource { row, fields, path } = source;
        let source_id = row.session.id.clone();
        for up_to in path {
            let row = row.clone();
            let read = move |db: &rusqlite::Transaction<'_>| {
                let mut tx = SqliteTransaction::new(db);
                run_ready(async {
                    rules::find_same_session(&mut tx, &row).await?;
                    tx.node_messages(&row, up_to).await
                })
            };
            let part = match self.run_read(read).await {
                Ok(part) => part,
                Err(error) => {
                    self.abandon(key).await;
                    return Err(error);
                }
            };
            let messages =
                part.into_iter().map(|(_, message)| (message, MessageParent::Head)).collect();
            (draft, _) = self.append_in_steps(draft, messages).await?;
        }
        let principal = principal.clone();
        let content = draft.content;
        let published = self
            .run_write(move |db| {
                let mut tx = SqliteTransaction::on_draft(db, &content.row.session.id, key);
                run_ready(rules::publish_fork(
                    &mut tx, &principal, &source_id, &fields, &content, now,
                ))
            })
            .await;
        if published.is_err() {
            self.abandon(key).await;
        }
        published
    }
}

/// Messages on their way into a draft.
struct DraftAppend {
    draft: WrittenDraft,
    messages: IntoIter<(NewMessage, MessageParent)>,
    /// Number of messages that were appended.
    position: usize,
    /// Positions of messages whose parent is unknown.
    orphans: Vec<usize>,
}

impl DraftAppend {
    fn run_step(mut self, db: &Connection) -> Result<Self> {
        let WrittenDraft { key, content } = &mut self.draft;
        touch_draft(db, *key)?;
        let mut budget = StepBudget::new();
        let mut tx = SqliteTransaction::on_draft(db, &content.row.session.id, *key);
        for (message, parent) in self.messages.by_ref() {
            if !run_ready(rules::append_to_draft(&mut tx, content, &message, &parent))? {
                self.orphans.push(self.position);
            }
            self.position += 1;
            if !budget.spend(1) {
                break;
            }
        }
        Ok(self)
    }
}

/// How far the copy of a session has come.
#[derive(Debug, Clone, Copy)]
struct CopyPosition {
    /// The next seq to copy, with its embedding and summary.
    seq: u32,
    last_seq: u32,
    /// The next node to copy.
    node: u32,
    last_node: u32,
}

impl CopyPosition {
    fn start(row: &crate::store::transaction::SessionRow) -> Self {
        Self { seq: 1, last_seq: row.session.messages_count, node: 1, last_node: row.node_count }
    }

    fn is_end(&self) -> bool {
        self.seq > self.last_seq && self.node > self.last_node
    }

    fn run_step(mut self, db: &Connection, session: i64, draft: i64) -> Result<Self> {
        touch_draft(db, draft)?;
        let mut budget = StepBudget::new();
        while !self.is_end() {
            let copied = if self.seq <= self.last_seq {
                self.copy_messages(db, session, draft)?
            } else {
                self.copy_nodes(db, session, draft)?
            };
            if !budget.spend(copied) {
                break;
            }
        }
        Ok(self)
    }

    fn copy_messages(&mut self, db: &Connection, session: i64, draft: i64) -> Result<usize> {
        let end = self.last_seq.min(self.seq + COPY_MESSAGES - 1);
        let keys = params![
            message_key(session, self.seq),
            message_key(session, end),
            message_key(draft, 0),
            SEQ_MASK,
            draft
        ];
        let mut copied = 0;
        for sql in [
            "INSERT INTO messages SELECT ?3 | (key & ?4), ?5, node, id, parent_id, role, sender_id, \
             type, content, parts, status, model, finish_reason, client_message_id, error, usage, \
             tokens, created_at, path_tokens, imported FROM messages WHERE key BETWEEN ?1 AND ?2",
            "INSERT INTO embeddings SELECT ?3 | (key & ?4), model, vectors FROM embeddings \
             WHERE key BETWEEN ?1 AND ?2 AND ?5 > 0",
        ] {
            copied += db.prepare_cached(sql)?.execute(keys)?;
        }
        let sql = "INSERT INTO summaries SELECT ?4, last_seq, last_node, first_id, last_id, \
                   tokens_before, path_tokens, text, model FROM summaries \
                   WHERE session = ?1 AND last_seq BETWEEN ?2 AND ?3";
        copied += db.prepare_cached(sql)?.execute(params![session, self.seq, end, draft])?;
        self.seq = end + 1;
        Ok(copied)
    }

    fn copy_nodes(&mut self, db: &Connection, session: i64, draft: i64) -> Result<usize> {
        let end = self.last_node.min(self.node + COPY_MESSAGES - 1);
        let sql = "INSERT INTO nodes SELECT ?4, number, prev_node, prev_seq, first_seq, first_id, \
                   last_seq, messages, bytes, created_at FROM nodes \
                   WHERE session = ?1 AND number BETWEEN ?2 AND ?3";
        let copied = db.prepare_cached(sql)?.execute(params![session, self.node, end, draft])?;
        self.node = end + 1;
        Ok(copied)
    }
}
