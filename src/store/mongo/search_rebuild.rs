//! Sessions whose words an older version made: `wordsVersion` is absent or too small.
//!
//! One instance at a time works on them. It holds a lease in the collection `schema`, by the clock
//! of the database, and renews it before each write. If it crashes, another instance continues with
//! the sessions that are still outdated.
//!
//! Instances of version 0.1.0 may run at the same time during an upgrade. They record their
//! progress in `kept` and `unkept`, so a session with one of these fields has words of theirs and
//! is indexed again.

use super::MongoStore;
use super::documents::to_u32;
use super::errors::is_duplicate_key;
use super::search::same_session;
use crate::domain::search::extract_index_words;
use crate::domain::tokenizer::WORDS_VERSION;
use crate::domain::{Session, SessionId};
use crate::error::Result;
use crate::store::rules::fold_title;
use crate::store::{IndexBacklog, SessionWords};
use futures::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use serde::Deserialize;

/// The lease's document in the collection `schema`.
const LEASE_ID: &str = "wordsRebuild";
/// Sessions of one batch.
const BATCH_SESSIONS: i64 = 64;
/// Age in milliseconds at which the lease of an instance ends.
const LEASE_MS: i64 = 60_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexBacklogDoc {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    indexed_seq: i64,
    kept: Option<i64>,
}

impl IndexBacklogDoc {
    fn into_backlog(self) -> IndexBacklog {
        // Version 0.1.0 recorded its progress in `kept`.
        let indexed = self.indexed_seq.max(self.kept.unwrap_or(0));
        IndexBacklog { indexed_seq: to_u32(indexed), session_id: SessionId::new_unchecked(self.id) }
    }
}

/// Conditions of which an outdated session meets one. Each has an index.
fn outdated_filter() -> Vec<Document> {
    vec![
        doc! { "wordsVersion": null },
        doc! { "wordsVersion": { "$lt": i64::from(WORDS_VERSION) } },
        doc! { "kept": { "$exists": true } },
        doc! { "unkept": { "$exists": true } },
    ]
}

impl MongoStore {
    pub(super) async fn find_backlog(&self, filter: Document) -> Result<Vec<IndexBacklog>> {
        let fields = doc! { "indexedSeq": 1, "kept": 1 };
        let sessions = self.collections.sessions.clone_with_type::<IndexBacklogDoc>();
        let found = sessions.find(filter).projection(fields).limit(BATCH_SESSIONS);
        let found: Vec<IndexBacklogDoc> = found.await?.try_collect().await?;
        Ok(found.into_iter().map(IndexBacklogDoc::into_backlog).collect())
    }

    /// The next sessions to index again, if no other instance is working on them.
    pub(super) async fn list_outdated_sessions(&self) -> Result<Vec<SessionId>> {
        if self.find_outdated().await?.is_empty() {
            let mine = doc! { "_id": LEASE_ID, "holder": &self.rebuild_holder };
            self.collections.schema.delete_one(mine).await?;
            return Ok(Vec::new());
        }
        if !self.try_lease_rebuild().await? {
            return Ok(Vec::new());
        }
        // Read again: until it had the lease, another instance may have worked on them.
        self.find_outdated().await
    }

    async fn find_outdated(&self) -> Result<Vec<SessionId>> {
        let outdated = self.find_backlog(doc! { "$or": outdated_filter() }).await?;
        Ok(outdated.into_iter().map(|session| session.session_id).collect())
    }

    /// Replaces words of an outdated session, while this instance has the lease.
    pub(super) async fn rebuild_session_words(
        &self,
        words: &SessionWords,
        is_last: bool,
    ) -> Result<bool> {
        let mut outdated = same_session(&words.session);
        outdated.insert("$or", outdated_filter());
        let sessions = &self.collections.sessions;
        if !self.try_lease_rebuild().await? || sessions.find_one(outdated).await?.is_none() {
            return Ok(false);
        }
        self.replace_words(words).await?;
        if is_last {
            self.mark_words_current(&words.session, words.last_seq()).await?;
        }
        // A session that was deleted meanwhile leaves no words.
        self.record_index_progress(&words.session, words.last_seq()).await?;
        Ok(true)
    }

    /// Takes or renews the lease. Its age is measured by the clock of the database.
    async fn try_lease_rebuild(&self) -> Result<bool> {
        let schema = &self.collections.schema;
        let lease = doc! { "_id": LEASE_ID };
        let free = doc! { "$setOnInsert": { "holder": null, "at": DateTime::from_millis(0) } };
        match schema.update_one(lease.clone(), free).upsert(true).await {
            // Two instances insert the document at the same moment, and one of them fails.
            Err(error) if !is_duplicate_key(&error) => return Err(error.into()),
            _ => {}
        }
        // Reads the database's clock, which a plain find cannot return.
        let read_clock = vec![doc! { "$set": { "lookedAt": "$$NOW" } }];
        let found = schema
            .find_one_and_update(lease.clone(), read_clock)
            .return_document(ReturnDocument::After)
            .await?
            .unwrap_or_default();
        let now = found.get_datetime("lookedAt").map_or(0, |now| now.timestamp_millis());
        let old = DateTime::from_millis(now - LEASE_MS);
        let me = &self.rebuild_holder;
        // One conditional update, so that of several instances one gets the lease.
        let mut available = lease;
        available.insert("$or", vec![doc! { "holder": me }, doc! { "at": { "$lt": old } }]);
        let take = vec![doc! { "$set": { "holder": me, "at": "$$NOW" } }];
        Ok(schema.update_one(available, take).await?.matched_count == 1)
    }

    /// Ends the rebuild of a session whose words are current up to the message `last`, with current
    /// words of its title. Later messages are indexed again: an instance of an older version may
    /// have made their words. Does nothing if the title has changed in the meantime; then the
    /// session stays outdated.
    async fn mark_words_current(&self, session: &Session, last: u32) -> Result<()> {
        let mut outdated = same_session(session);
        outdated.insert("title", &session.title);
        outdated.insert("$or", outdated_filter());
        let current = doc! {
            "$set": {
                "titleKey": fold_title(&session.title),
                "titleWords": extract_index_words(&session.title),
                "wordsVersion": i64::from(WORDS_VERSION),
                "indexedSeq": i64::from(last),
                "unindexed": true,
            },
            "$unset": { "kept": "", "unkept": "" },
        };
        self.collections.sessions.update_one(outdated, current).await?;
        Ok(())
    }
}
