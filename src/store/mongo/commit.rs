//! The commit of a step: one write of the session's document, and what goes along with it.

use super::failures::{is_duplicate, is_passing};
use super::ledger::book;
use super::nodes::carry_out;
use super::step::{Current, Step};
use crate::error::Result;
use mongodb::bson::{Document, doc};
use mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT;
use mongodb::options::ReadConcern;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long to wait before the database is asked again.
const PAUSE: Duration = Duration::from_millis(4);
/// How long a step waits for what is done behind its commit.
const CARRYING_OUT: Duration = Duration::from_secs(2);
/// How long what nobody needs any more may take to go.
const CLEANING_UP: Duration = Duration::from_secs(5);
/// Names of commits that a session's document keeps.
const NAMES: i32 = -8;

impl Step {
    /// Makes what this step has changed of the session take effect.
    pub(super) async fn commit(&mut self) -> Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        let Some(mut current) = self.current.take() else { return Ok(()) };
        let mut pending = gathered.into_pending()?;
        if let Some(end) = self.log_end.take() {
            pending.insert("log", end);
        }
        if let Some(entry) = self.ledger_entry.take() {
            pending.insert("usage", entry);
        }
        let is_unchanged = current.revision.is_some()
            && current.set.is_empty()
            && current.unset.is_empty()
            && pending.is_empty();
        if is_unchanged {
            return Ok(());
        }
        if self.manner.is_transaction {
            let tables = self.tables.clone();
            let carried_out = carry_out(&tables, &pending, Some(&mut self.session)).await;
            self.check(carried_out)?;
            let replaced = self.replace(&current).await;
            return match self.check(replaced)? {
                true => Ok(()),
                false => Err(self.overtaken()),
            };
        }
        if pending.is_empty() {
            current.unset.insert("pending", "");
        } else {
            current.set.insert("pending", &pending);
        }
        self.write(&current).await?;
        // It has happened; whoever reads the session next does what fails here.
        // The use of a turn is booked beside the path, where nobody waits for it. Where quotas go by
        // it, it is booked first: who has heard of the turn's end finds it counted.
        let beside = pending.get_document("usage").ok().filter(|_| !self.books_at_once).cloned();
        let has_pending = !pending.is_empty();
        if beside.is_some() {
            pending.remove("usage");
        }
        match timeout(CARRYING_OUT, carry_out(&self.tables, &pending, None)).await {
            Ok(Ok(())) => self.clean_up(&current, has_pending, beside),
            Ok(Err(error)) => tracing::warn!(%error, "a step is committed and not yet carried out"),
            Err(_) => tracing::warn!("a step is committed and takes long to be carried out"),
        }
        Ok(())
    }

    /// Writes the session's document until the answer is known. A repeat does nothing twice: it
    /// finds another revision, and its own name.
    async fn write(&mut self, current: &Current) -> Result<()> {
        loop {
            match self.replace(current).await {
                Ok(true) => return Ok(()),
                Err(failure) if is_duplicate(&failure) => {
                    return match self.took_place(current).await? {
                        true => Ok(()),
                        false => self.check(Err(failure)),
                    };
                }
                Ok(false) => {
                    return match self.took_place(current).await? {
                        true => Ok(()),
                        false => Err(self.overtaken()),
                    };
                }
                Err(failure) if is_passing(&failure) => sleep(PAUSE).await,
                Err(failure) => return self.check(Err(failure)),
            }
        }
    }

    /// Writes the session's document once. Whether it was as it had been read.
    async fn replace(&mut self, current: &Current) -> mongodb::error::Result<bool> {
        let sessions = self.tables.sessions.clone();
        let Some(revision) = current.revision else {
            let mut document = current.document.clone();
            document.extend(current.set.clone());
            document.extend(doc! { "revision": current.born, "commits": [&self.name] });
            sessions.insert_one(document).session(&mut self.session).await?;
            return Ok(true);
        };
        let mut set = current.set.clone();
        set.insert("revision", revision + 1);
        let mut update = doc! {
            "$set": set,
            "$push": { "commits": { "$each": [&self.name], "$slice": NAMES } },
        };
        if !current.unset.is_empty() {
            update.insert("$unset", current.unset.clone());
        }
        let same = doc! { "_id": current.id.as_str(), "revision": revision };
        let updated = sessions.update_one(same, update).session(&mut self.session).await?;
        Ok(updated.matched_count == 1)
    }

    /// Whether the document knows this step's name, and a majority knows it, too.
    async fn took_place(&mut self, current: &Current) -> Result<bool> {
        let named = doc! { "_id": current.id.as_str(), "commits": &self.name };
        let sessions = self.tables.sessions.clone();
        loop {
            let near = sessions.find_one(named.clone()).read_concern(ReadConcern::local()).await;
            let far = sessions.find_one(named.clone()).read_concern(ReadConcern::majority()).await;
            match (near, far) {
                (Ok(None), Ok(_)) => return Ok(false),
                (Ok(Some(_)), Ok(Some(_))) => return Ok(true),
                (Ok(Some(_)), Ok(None)) => sleep(PAUSE).await,
                (Err(failure), _) | (_, Err(failure)) if is_passing(&failure) => {
                    sleep(PAUSE).await;
                }
                (Err(failure), _) | (_, Err(failure)) => return self.check(Err(failure)),
            }
        }
    }

    /// Takes away, beside the step's path, what nobody needs any more.
    fn clean_up(&mut self, current: &Current, has_pending: bool, entry: Option<Document>) {
        let tables = self.tables.clone();
        let dequeued = std::mem::take(&mut self.dequeued);
        let revision = current.revision.map_or(current.born, |read| read + 1);
        let same = doc! { "_id": current.id.as_str(), "revision": revision };
        let noted = self.unconfirmed.take();
        if !has_pending && dequeued.is_empty() && noted.is_none() {
            return;
        }
        // Nobody waits for it, and nothing depends on it.
        tokio::spawn(timeout(CLEANING_UP, async move {
            if let Some(noted) = noted {
                let confirm = doc! { "$set": { "isConfirmed": true } };
                let _ = tables.idempotency_keys.update_one(noted, confirm).await;
            }
            // What is not booked stays pending, for whoever reads the session next.
            if let Some(entry) = entry {
                book(&tables, &entry).await?;
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

    pub(super) async fn end_transaction(&mut self) -> Result<()> {
        while let Err(failure) = self.session.commit_transaction().await {
            if !failure.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
                return self.check(Err(failure));
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }
}
