//! Imports and forks in MongoDB: drafts that grow step by step.
//!
//! A draft's content is stored under a content key that no session has yet, so nothing finds it. A
//! step writes the messages of one chunk, and the last one, a short transaction, publishes the
//! draft.

use super::MongoStore;
use super::content_keys::numbered_key;
use super::transaction::{TransactionMode, transact};
use crate::domain::node::format_chat_id;
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use crate::store::drafts::{StoredIds, WrittenDraft};
use crate::store::rules::{self, ForkSource, SessionDraft};
use crate::store::transaction::{MessageTransaction, NodeTransaction, SessionRow};
use crate::store::{
    DraftStore, ImportDraft, ImportEnd, ImportOutcome, ImportTarget, MessageParent, NewMessage,
    UnknownReferences,
};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use tokio::time::timeout;

/// Nodes copied by one write, unless their messages have [`COPY_BYTES`] before.
const COPY_NODES: usize = 100;
const COPY_BYTES: i64 = 1 << 20;

#[async_trait]
impl DraftStore for MongoStore {
    async fn begin_import(
        &self,
        principal: &Principal,
        target: ImportTarget,
        _now: Timestamp,
    ) -> Result<ImportDraft> {
        let wanted = &target;
        let existing = transact!(self, TransactionMode::DRAFT, |tx| {
            rules::find_import_session(tx, principal, wanted).await
        })?;
        let existing = existing.map(|row| row.session);
        Ok(ImportDraft::new(principal, target, existing.as_ref()))
    }

    async fn add_to_import(
        &self,
        draft: &mut ImportDraft,
        messages: Vec<(NewMessage, MessageParent)>,
    ) -> Result<Vec<usize>> {
        if let Some(written) = draft.written.take() {
            let (written, orphans) = self.append_to_draft(written, &messages).await?;
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
            let (written, _) = self.append_to_draft(written, &draft.take_pending()).await?;
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
            Some(written) => self.publish_import(&draft.principal, written, &end, now).await,
            None => self.finish_small_import(draft, end, now).await,
        }
    }

    async fn discard_import(&self, draft: ImportDraft) {
        if let Some(written) = draft.written {
            self.abandon_draft(&draft_key(&written)).await;
        }
    }

    async fn sweep_remains(&self) -> Result<bool> {
        self.sweep_step().await
    }
}

fn draft_key(draft: &WrittenDraft) -> SessionId {
    numbered_key(&draft.content.row.session.id, draft.key)
}

impl MongoStore {
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
        let principal = &draft.principal.clone();
        let existing = &draft.existing.clone();
        let import = &draft.into_import_session(end, &mut unknown);
        let outcome = transact!(self, TransactionMode::MULTI_DOCUMENT, |tx| {
            rules::ensure_unchanged(tx, existing.as_ref()).await?;
            rules::import_session(tx, principal, import, now).await
        })?;
        Ok((outcome, unknown))
    }

    async fn find_stored_ids(
        &self,
        draft: &ImportDraft,
        ids: Vec<MessageId>,
        references: Vec<MessageId>,
    ) -> Result<StoredIds> {
        let Some((session, _)) = &draft.existing else { return Ok(StoredIds::default()) };
        let (ids, references) = (&ids, &references);
        transact!(self, TransactionMode::DRAFT, |tx| {
            let mut stored = StoredIds::default();
            // A session that was deleted meanwhile is noticed in the last transaction.
            let Some(row) = tx.load_session(session).await? else { return Ok(stored) };
            tx.preload_messages(&row, ids.iter().chain(references).cloned().collect()).await?;
            for id in ids {
                if tx.find_message_by_id(&row, id).await?.is_some() {
                    stored.messages.insert(id.clone());
                }
            }
            for id in references {
                if tx.find_message(&row, id).await?.is_some() {
                    stored.references.insert(id.clone());
                }
            }
            Ok(stored)
        })
    }

    /// Creates the draft of an import that is too large for one transaction: an empty one, or a
    /// copy of the session that the import goes to.
    async fn begin_writing(&self, draft: &ImportDraft) -> Result<WrittenDraft> {
        let Some((session, _)) = &draft.existing else {
            let target = &draft.target;
            let id = transact!(self, TransactionMode::DRAFT, |tx| {
                rules::choose_new_id(tx, target).await
            })?;
            let key = self.create_draft(&id).await?;
            return Ok(WrittenDraft {
                key,
                content: SessionDraft::new(&draft.principal.user, &id),
            });
        };
        let (row, source) = transact!(self, TransactionMode::DRAFT, |tx| {
            let row = tx.load_session(session).await?.ok_or_else(rules::changed_meanwhile)?;
            rules::ensure_importable(&row)?;
            let key = tx.content_key(session);
            Ok((row, key))
        })?;
        let number = self.create_draft(session).await?;
        let key = numbered_key(session, number);
        if let Err(error) = self.copy_nodes(&row, &source, &key).await {
            self.abandon_draft(&key).await;
            return Err(error);
        }
        Ok(WrittenDraft { key: number, content: SessionDraft::copy_of(row) })
    }

    /// Adds the messages of a chunk to a draft. An error abandons the draft.
    async fn append_to_draft(
        &self,
        draft: WrittenDraft,
        messages: &[(NewMessage, MessageParent)],
    ) -> Result<(WrittenDraft, Vec<usize>)> {
        let key = &draft_key(&draft);
        let before = &draft.content;
        let appended = transact!(self, TransactionMode::DRAFT, |tx| {
            tx.touch_draft(key).await?;
            tx.open_draft(&before.row.session.id, key);
            let mut content = before.clone();
            tx.preload_messages(&content.row, rules::mentioned_ids(messages, &None)).await?;
            let mut orphans = Vec::new();
            for (position, (message, parent)) in messages.iter().enumerate() {
                if !rules::append_to_draft(tx, &mut content, message, parent).await? {
                    orphans.push(position);
                }
            }
            tx.write_draft().await?;
            Ok((content, orphans))
        });
        match appended {
            Ok((content, orphans)) => Ok((WrittenDraft { content, ..draft }, orphans)),
            Err(error) => {
                self.abandon_draft(key).await;
                Err(error)
            }
        }
    }

    async fn publish_import(
        &self,
        principal: &Principal,
        draft: WrittenDraft,
        end: &ImportEnd,
        now: Timestamp,
    ) -> Result<(ImportOutcome, UnknownReferences)> {
        let key = &draft_key(&draft);
        let content = &draft.content;
        let published = transact!(self, TransactionMode::MULTI_DOCUMENT, |tx| {
            tx.publish_draft(&content.row.session.id, key).await?;
            let published = rules::publish_import(tx, principal, content, end, now).await?;
            if content.is_copy() {
                tx.replace_content(key).await?;
            }
            Ok(published)
        });
        self.content_keys.remove(&content.row.session.id);
        if published.is_err() {
            self.abandon_draft(key).await;
        }
        published
    }

    /// Copies the nodes of a session to a draft. Summaries and embeddings are computed again.
    async fn copy_nodes(
        &self,
        row: &SessionRow,
        source: &SessionId,
        draft: &SessionId,
    ) -> Result<()> {
        let own = doc! {
            "sessionId": source.as_str(),
            "number": { "$lte": i64::from(row.node_count) },
        };
        let by_number = doc! { "sessionId": 1, "number": 1 };
        let nodes = &self.collections.nodes;
        let mut cursor = nodes.find(own).sort(by_number).await?;
        let mut copies: Vec<Document> = Vec::new();
        let mut bytes = 0;
        loop {
            let next = timeout(super::OPERATION_TIMEOUT, cursor.try_next());
            let node = next.await.map_err(|_| super::timed_out())??;
            let is_last = node.is_none();
            if let Some(mut node) = node {
                let number = u32::try_from(node.get_i64("number").unwrap_or_default());
                node.insert("_id", format_chat_id(draft, number.unwrap_or_default()));
                node.insert("sessionId", draft.as_str());
                bytes += node.get_i64("bytes").unwrap_or_default();
                copies.push(node);
            }
            if !copies.is_empty() && (is_last || copies.len() >= COPY_NODES || bytes >= COPY_BYTES)
            {
                transact!(self, TransactionMode::DRAFT, |tx| tx.touch_draft(draft).await)?;
                nodes.insert_many(std::mem::take(&mut copies)).await?;
                bytes = 0;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    pub(super) async fn fork_in_steps(
        &self,
        principal: &Principal,
        source: ForkSource,
        now: Timestamp,
    ) -> Result<Session> {
        let id = SessionId::generate();
        let ForkSource { row, fields, path } = source;
        let key = self.create_draft(&id).await?;
        let mut draft = WrittenDraft { key, content: SessionDraft::new(&principal.user, &id) };
        let key = &draft_key(&draft);
        let source = &row;
        for up_to in path {
            let part = transact!(self, TransactionMode::DRAFT, |tx| {
                rules::find_same_session(tx, source).await?;
                tx.node_messages(source, up_to).await
            });
            let part = match part {
                Ok(part) => part,
                Err(error) => {
                    self.abandon_draft(key).await;
                    return Err(error);
                }
            };
            let messages: Vec<_> =
                part.into_iter().map(|(_, message)| (message, MessageParent::Head)).collect();
            (draft, _) = self.append_to_draft(draft, &messages).await?;
        }
        let (content, fields, source) = (&draft.content, &fields, &row.session.id);
        let published = transact!(self, TransactionMode::MULTI_DOCUMENT, |tx| {
            tx.publish_draft(&content.row.session.id, key).await?;
            rules::publish_fork(tx, principal, source, fields, content, now).await
        });
        if published.is_err() {
            self.abandon_draft(key).await;
        }
        published
    }
}
