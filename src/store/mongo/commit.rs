//! The commit of a transaction: one conditional write of the session's document, then the writes
//! that it lists in `pending`.
//!
//! Invariant: the operation has taken effect exactly when the session's document is written with a
//! majority. Everything after that write can be finished by any instance.

use super::errors::{
    MAX_COMMIT_BYTES, RETRY_PAUSE, check_message_size, is_duplicate_key, is_transient,
};
use super::ledger_entries::apply_usage;
use super::pending_writes::apply_pending;
use super::transaction::{LoadedSession, MongoTransaction};
use crate::error::Result;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT;
use mongodb::options::ReadConcern;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Limit for applying `pending` within the operation. After it the next reader applies it.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit for the cleanup in the background.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);
/// A session's document keeps the ids of its last eight commits.
const COMMIT_IDS_SLICE: i32 = -8;

impl MongoTransaction {
    /// Writes the changes of the loaded session; does nothing if it is unchanged.
    pub(super) async fn commit_session(&mut self) -> Result<()> {
        let writes = std::mem::take(&mut self.pending_writes);
        let Some(mut loaded) = self.loaded.take() else { return Ok(()) };
        if !self.mode.is_multi_document {
            // All of it becomes part of the session's document for a moment.
            check_message_size(writes.bytes + self.last_log_bytes, MAX_COMMIT_BYTES)?;
        }
        let mut pending = writes.into_document()?;
        if let Some(batch) = self.last_log_batch.take() {
            pending.insert("log", batch);
        }
        if let Some(entry) = self.ledger_entry.take() {
            pending.insert("usage", entry);
        }
        let is_unchanged = loaded.revision.is_some()
            && loaded.fields_to_set.is_empty()
            && loaded.fields_to_unset.is_empty()
            && pending.is_empty();
        if is_unchanged {
            return Ok(());
        }
        if self.mode.is_multi_document {
            return self.write_in_transaction(&loaded, &pending).await;
        }
        // `pending` of the previous commit was applied when this session was loaded, so it may be
        // overwritten here.
        if pending.is_empty() {
            loaded.fields_to_unset.insert("pending", "");
        } else {
            loaded.fields_to_set.insert("pending", &pending);
        }
        self.write_session(&loaded).await?;
        if loaded.revision.is_none() {
            self.record_content_key(&loaded);
        }
        self.apply_after_commit(&loaded, pending).await;
        Ok(())
    }

    /// Stores the messages that were added to a draft. Repeated until the outcome is known, because
    /// a second run of the rules would find the messages of the first one.
    pub(super) async fn write_draft(&mut self) -> Result<()> {
        let mut pending = std::mem::take(&mut self.pending_writes).into_document()?;
        self.loaded = None;
        let new_nodes = pending.remove("opened");
        let new_nodes = new_nodes.as_ref().and_then(Bson::as_array).into_iter().flatten();
        let new_nodes: Vec<&Document> = new_nodes.filter_map(Bson::as_document).collect();
        loop {
            match self.insert_draft_nodes(&new_nodes, &pending).await {
                Ok(()) => return Ok(()),
                Err(error) if is_transient(&error) => sleep(RETRY_PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn insert_draft_nodes(
        &self,
        new_nodes: &[&Document],
        pending: &Document,
    ) -> mongodb::error::Result<()> {
        if !new_nodes.is_empty() {
            match self.collections.nodes.insert_many(new_nodes.iter().copied()).ordered(false).await
            {
                // Inserted by a try whose response was lost: no other writer has this draft.
                Err(error) if !is_duplicate_key(&error) => return Err(error),
                _ => {}
            }
        }
        apply_pending(&self.collections, pending, None).await
    }

    /// Writes everything inside the MongoDB transaction. All of it becomes visible together, so
    /// nothing is left pending.
    async fn write_in_transaction(
        &mut self,
        loaded: &LoadedSession,
        pending: &Document,
    ) -> Result<()> {
        let collections = self.collections.clone();
        let applied = apply_pending(&collections, pending, Some(&mut self.client_session)).await;
        self.check_result(applied)?;
        let written = self.try_write_session(loaded).await;
        match self.check_result(written)? {
            true => Ok(()),
            false => Err(self.record_conflict()),
        }
    }

    /// Applies `pending` once the commit has taken effect. A failure is not reported to the caller:
    /// the next reader of the session finds `pending` and applies it.
    async fn apply_after_commit(&mut self, loaded: &LoadedSession, mut pending: Document) {
        let has_pending = !pending.is_empty();
        // Usage is normally recorded in the background, off the critical path of a reply. With
        // quotas it is recorded first: a client that has seen the end of its turn must find it
        // counted.
        let deferred_usage =
            pending.get_document("usage").ok().filter(|_| !self.applies_usage_first).cloned();
        if deferred_usage.is_some() {
            pending.remove("usage");
        }
        match timeout(APPLY_TIMEOUT, apply_pending(&self.collections, &pending, None)).await {
            Ok(Ok(())) => self.spawn_cleanup(loaded, has_pending, deferred_usage),
            Ok(Err(error)) => {
                tracing::warn!(%error, "applying pending writes failed; the next reader will retry")
            }
            Err(_) => {
                tracing::warn!("applying pending writes timed out; the next reader will retry")
            }
        }
    }

    /// Writes the session's document and retries until the outcome is known. A repeated write has
    /// no effect: it finds another revision, and its own commit id.
    async fn write_session(&mut self, loaded: &LoadedSession) -> Result<()> {
        loop {
            match self.try_write_session(loaded).await {
                Ok(true) => return Ok(()),
                // A new session whose id exists: either the first try of this insert succeeded and
                // its response was lost, or the id is taken.
                Err(error) if is_duplicate_key(&error) => {
                    return match self.was_committed(loaded).await? {
                        true => Ok(()),
                        false => self.check_result(Err(error)),
                    };
                }
                // The revision has changed: likewise by a lost first try, or by another writer.
                Ok(false) => {
                    return match self.was_committed(loaded).await? {
                        true => Ok(()),
                        false => Err(self.record_conflict()),
                    };
                }
                // Whether it was written is unknown. Repeating it is the way to find out.
                Err(error) if is_transient(&error) => sleep(RETRY_PAUSE).await,
                Err(error) => return self.check_result(Err(error)),
            }
        }
    }

    /// Writes the session's document once. Returns whether its revision was still the one read.
    async fn try_write_session(&mut self, loaded: &LoadedSession) -> mongodb::error::Result<bool> {
        let sessions = self.collections.sessions.clone();
        let Some(revision) = loaded.revision else {
            let mut document = loaded.document.clone();
            document.extend(loaded.fields_to_set.clone());
            document
                .extend(doc! { "revision": loaded.created_revision, "commits": [&self.commit_id] });
            sessions.insert_one(document).session(&mut self.client_session).await?;
            return Ok(true);
        };
        let mut set = loaded.fields_to_set.clone();
        set.insert("revision", revision + 1);
        let mut update = doc! {
            "$set": set,
            "$push": { "commits": { "$each": [&self.commit_id], "$slice": COMMIT_IDS_SLICE } },
        };
        if !loaded.fields_to_unset.is_empty() {
            update.insert("$unset", loaded.fields_to_unset.clone());
        }
        let unchanged = doc! { "_id": loaded.id.as_str(), "revision": revision };
        let updated =
            sessions.update_one(unchanged, update).session(&mut self.client_session).await?;
        Ok(updated.matched_count == 1)
    }

    /// Whether the session's document contains this commit id on a majority of the replica set.
    async fn was_committed(&mut self, loaded: &LoadedSession) -> Result<bool> {
        let committed = doc! { "_id": loaded.id.as_str(), "commits": &self.commit_id };
        let sessions = self.collections.sessions.clone();
        loop {
            // A write that is missing on the primary did not happen. One that only the primary has
            // can still be rolled back by a failover; it counts once a majority has it.
            let local =
                sessions.find_one(committed.clone()).read_concern(ReadConcern::local()).await;
            let majority =
                sessions.find_one(committed.clone()).read_concern(ReadConcern::majority()).await;
            match (local, majority) {
                (Ok(None), Ok(_)) => return Ok(false),
                (Ok(Some(_)), Ok(Some(_))) => return Ok(true),
                (Ok(Some(_)), Ok(None)) => sleep(RETRY_PAUSE).await,
                (Err(error), _) | (_, Err(error)) if is_transient(&error) => {
                    sleep(RETRY_PAUSE).await;
                }
                (Err(error), _) | (_, Err(error)) => return self.check_result(Err(error)),
            }
        }
    }

    /// Starts the work that follows a commit in the background: confirms the idempotency record,
    /// records deferred usage, clears `pending`, and deletes the content of dequeued turns.
    fn spawn_cleanup(
        &mut self,
        loaded: &LoadedSession,
        has_pending: bool,
        deferred_usage: Option<Document>,
    ) {
        let collections = self.collections.clone();
        let dequeued = std::mem::take(&mut self.dequeued_turns);
        let revision = loaded.revision.map_or(loaded.created_revision, |read| read + 1);
        // A later commit has its own `pending`, which must stay; hence the revision in the filter.
        let this_commit = doc! { "_id": loaded.id.as_str(), "revision": revision };
        let request = self.unconfirmed_request.take();
        if !has_pending && dequeued.is_empty() && request.is_none() {
            return;
        }
        // Without retries: if it is lost, `pending` is applied again, an unconfirmed record is
        // checked against the session, and a leftover queue entry is never read.
        self.cleanup_tasks.spawn(timeout(CLEANUP_TIMEOUT, async move {
            if let Some(request) = request {
                let confirm = doc! { "$set": { "isConfirmed": true } };
                let _ = collections.idempotency_keys.update_one(request, confirm).await;
            }
            // Before `pending` is cleared, and an error returns early: usage that is not recorded
            // stays pending for the next reader.
            if let Some(entry) = deferred_usage {
                apply_usage(&collections, &entry).await?;
            }
            if has_pending {
                let _ = collections
                    .sessions
                    .update_one(this_commit, doc! { "$unset": { "pending": "" } })
                    .await;
            }
            if !dequeued.is_empty() {
                let _ = collections.queue.delete_many(doc! { "_id": { "$in": dequeued } }).await;
            }
            Ok::<_, mongodb::error::Error>(())
        }));
    }

    /// Commits the MongoDB transaction of this attempt.
    pub(super) async fn commit_multi_document(&mut self) -> Result<()> {
        while let Err(error) = self.client_session.commit_transaction().await {
            // With this label the commit may have succeeded; repeating it is safe and finds out.
            if !error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
                return self.check_result(Err(error));
            }
            sleep(RETRY_PAUSE).await;
        }
        Ok(())
    }
}
