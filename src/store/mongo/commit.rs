//! The commit of a step: one write of the session's document, and what goes along with it.

use super::errors::{is_duplicate_key, is_transient};
use super::ledger::apply_usage;
use super::nodes::apply_pending;
use super::transaction::{LoadedSession, MongoTransaction};
use crate::error::Result;
use mongodb::bson::{Document, doc};
use mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT;
use mongodb::options::ReadConcern;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long to wait before the database is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(4);
/// How long a step waits for what is done behind its commit.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what nobody needs any more may take to go.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Names of commits that a session's document keeps.
const COMMIT_IDS_SLICE: i32 = -8;

impl MongoTransaction {
    /// Makes what this step has changed of the session take effect.
    pub(super) async fn commit_session(&mut self) -> Result<()> {
        let gathered = std::mem::take(&mut self.pending_writes);
        let Some(mut current) = self.loaded.take() else { return Ok(()) };
        let mut pending = gathered.into_document()?;
        if let Some(end) = self.last_log_batch.take() {
            pending.insert("log", end);
        }
        if let Some(entry) = self.ledger_entry.take() {
            pending.insert("usage", entry);
        }
        let is_unchanged = current.revision.is_some()
            && current.fields_to_set.is_empty()
            && current.fields_to_unset.is_empty()
            && pending.is_empty();
        if is_unchanged {
            return Ok(());
        }
        if self.mode.is_multi_document {
            let tables = self.collections.clone();
            let carried_out =
                apply_pending(&tables, &pending, Some(&mut self.client_session)).await;
            self.check_result(carried_out)?;
            let replaced = self.try_write_session(&current).await;
            return match self.check_result(replaced)? {
                true => Ok(()),
                false => Err(self.record_conflict()),
            };
        }
        if pending.is_empty() {
            current.fields_to_unset.insert("pending", "");
        } else {
            current.fields_to_set.insert("pending", &pending);
        }
        self.write_session(&current).await?;
        // It has happened; whoever reads the session next does what fails here.
        // The use of a turn is booked beside the path, where nobody waits for it. Where quotas go by
        // it, it is booked first: who has heard of the turn's end finds it counted.
        let beside =
            pending.get_document("usage").ok().filter(|_| !self.applies_usage_first).cloned();
        let has_pending = !pending.is_empty();
        if beside.is_some() {
            pending.remove("usage");
        }
        match timeout(APPLY_TIMEOUT, apply_pending(&self.collections, &pending, None)).await {
            Ok(Ok(())) => self.spawn_cleanup(&current, has_pending, beside),
            Ok(Err(error)) => tracing::warn!(%error, "a step is committed and not yet carried out"),
            Err(_) => tracing::warn!("a step is committed and takes long to be carried out"),
        }
        Ok(())
    }

    /// Writes the session's document until the answer is known. A repeat does nothing twice: it
    /// finds another revision, and its own name.
    async fn write_session(&mut self, current: &LoadedSession) -> Result<()> {
        loop {
            match self.try_write_session(current).await {
                Ok(true) => return Ok(()),
                Err(failure) if is_duplicate_key(&failure) => {
                    return match self.was_committed(current).await? {
                        true => Ok(()),
                        false => self.check_result(Err(failure)),
                    };
                }
                Ok(false) => {
                    return match self.was_committed(current).await? {
                        true => Ok(()),
                        false => Err(self.record_conflict()),
                    };
                }
                Err(failure) if is_transient(&failure) => sleep(RETRY_PAUSE).await,
                Err(failure) => return self.check_result(Err(failure)),
            }
        }
    }

    /// Writes the session's document once. Whether it was as it had been read.
    async fn try_write_session(&mut self, current: &LoadedSession) -> mongodb::error::Result<bool> {
        let sessions = self.collections.sessions.clone();
        let Some(revision) = current.revision else {
            let mut document = current.document.clone();
            document.extend(current.fields_to_set.clone());
            document.extend(
                doc! { "revision": current.created_revision, "commits": [&self.commit_id] },
            );
            sessions.insert_one(document).session(&mut self.client_session).await?;
            return Ok(true);
        };
        let mut set = current.fields_to_set.clone();
        set.insert("revision", revision + 1);
        let mut update = doc! {
            "$set": set,
            "$push": { "commits": { "$each": [&self.commit_id], "$slice": COMMIT_IDS_SLICE } },
        };
        if !current.fields_to_unset.is_empty() {
            update.insert("$unset", current.fields_to_unset.clone());
        }
        let same = doc! { "_id": current.id.as_str(), "revision": revision };
        let updated = sessions.update_one(same, update).session(&mut self.client_session).await?;
        Ok(updated.matched_count == 1)
    }

    /// Whether the document knows this step's name, and a majority knows it, too.
    async fn was_committed(&mut self, current: &LoadedSession) -> Result<bool> {
        let named = doc! { "_id": current.id.as_str(), "commits": &self.commit_id };
        let sessions = self.collections.sessions.clone();
        loop {
            let near = sessions.find_one(named.clone()).read_concern(ReadConcern::local()).await;
            let far = sessions.find_one(named.clone()).read_concern(ReadConcern::majority()).await;
            match (near, far) {
                (Ok(None), Ok(_)) => return Ok(false),
                (Ok(Some(_)), Ok(Some(_))) => return Ok(true),
                (Ok(Some(_)), Ok(None)) => sleep(RETRY_PAUSE).await,
                (Err(failure), _) | (_, Err(failure)) if is_transient(&failure) => {
                    sleep(RETRY_PAUSE).await;
                }
                (Err(failure), _) | (_, Err(failure)) => return self.check_result(Err(failure)),
            }
        }
    }

    /// Takes away, beside the step's path, what nobody needs any more.
    fn spawn_cleanup(
        &mut self,
        current: &LoadedSession,
        has_pending: bool,
        entry: Option<Document>,
    ) {
        let tables = self.collections.clone();
        let dequeued = std::mem::take(&mut self.dequeued_turns);
        let revision = current.revision.map_or(current.created_revision, |read| read + 1);
        let same = doc! { "_id": current.id.as_str(), "revision": revision };
        let noted = self.unconfirmed_request.take();
        if !has_pending && dequeued.is_empty() && noted.is_none() {
            return;
        }
        // Nobody waits for it, and nothing depends on it.
        tokio::spawn(timeout(CLEANUP_TIMEOUT, async move {
            if let Some(noted) = noted {
                let confirm = doc! { "$set": { "isConfirmed": true } };
                let _ = tables.idempotency_keys.update_one(noted, confirm).await;
            }
            // What is not booked stays pending, for whoever reads the session next.
            if let Some(entry) = entry {
                apply_usage(&tables, &entry).await?;
            }
            if has_pending {
                let _ =
                    tables.sessions.update_one(same, doc! { "$unset": { "pending": "" } }).await;
            }
            if !dequeued.is_empty() {
                let _ = tables.queue.delete_many(doc! { "_id": { "$in": dequeued } }).await;
            }
            Ok::<_, mongodb::error::Error>(())
        }));
    }

    pub(super) async fn commit_multi_document(&mut self) -> Result<()> {
        while let Err(failure) = self.client_session.commit_transaction().await {
            if !failure.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
                return self.check_result(Err(failure));
            }
            sleep(RETRY_PAUSE).await;
        }
        Ok(())
    }
}
