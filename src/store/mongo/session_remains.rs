//! Content keys without a session: drafts, which become sessions once they are complete, and the
//! content of deleted sessions, which a sweep deletes step by step.
//!
//! The collection `drafts` lists them. `touchedAt`, by the clock of the database, says when a draft
//! was last written; without it the content is deleted. Any instance may sweep, and several at the
//! same time.

use super::MongoStore;
use super::content_keys::{CONTENT_KEY, ContentKey, generate_key};
use super::transaction::MongoTransaction;
use super::turn_log::with_timeout;
use crate::domain::SessionId;
use crate::error::{Error, Result};
use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde::Deserialize;
use std::time::Duration;

/// A draft that was not written for this long is abandoned: its instance has crashed, or its
/// import was dropped.
const DRAFT_TTL: Duration = Duration::from_secs(10 * 60);
/// An instance that hangs may write content of a session after its deletion, so remains are looked
/// at again after this time.
const LATE_WRITE_GRACE: Duration = Duration::from_secs(60);
/// Documents that one step of a sweep deletes.
pub(super) const STEP_DOCUMENTS: usize = 256;

/// An entry of the registry.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RemainsDoc {
    /// The content key.
    #[serde(rename = "_id")]
    key: String,
    /// The deleted session and its first revision; absent if only content by key is left.
    session_id: Option<String>,
    #[serde(rename = "born")]
    created_revision: Option<i64>,
    touched_at: Option<DateTime>,
    /// When nothing was found under the key.
    swept_at: Option<DateTime>,
}

impl MongoStore {
    /// Registers a new draft. Returns the number that is part of its key.
    pub(super) async fn create_draft(&self, session: &SessionId) -> Result<i64> {
        let (number, key) = generate_key(session);
        let drafts = &self.collections.drafts;
        with_timeout(async {
            drafts.update_one(doc! { "_id": key.as_str() }, touched_now()).upsert(true).await?;
            Ok(number)
        })
        .await
    }

    /// Leaves a draft to the sweep. If this fails, the draft expires.
    pub(super) async fn abandon_draft(&self, key: &SessionId) {
        let abandoned = doc! { "$unset": { "touchedAt": "" } };
        let update = self.collections.drafts.update_one(doc! { "_id": key.as_str() }, abandoned);
        let _ = with_timeout(async { Ok(update.await?) }).await;
    }

    /// Deletes a part of the content that belongs to no session. Returns whether more may be left.
    pub(super) async fn sweep_step(&self) -> Result<bool> {
        let Some(remains) = with_timeout(self.find_abandoned()).await? else { return Ok(false) };
        with_timeout(async {
            let entry = doc! { "_id": &remains.key };
            if let Some(touched_at) = remains.touched_at {
                // Not if the draft was written in the meantime.
                let mut expired = entry.clone();
                expired.insert("touchedAt", touched_at);
                let abandoned = doc! { "$unset": { "touchedAt": "" } };
                self.collections.drafts.update_one(expired, abandoned).await?;
            } else if self.delete_some_content(&remains).await? {
                let drafts = &self.collections.drafts;
                if remains.swept_at.is_some() {
                    drafts.delete_one(entry).await?;
                } else {
                    let swept = vec![doc! { "$set": { "sweptAt": "$$NOW" } }];
                    drafts.update_one(entry, swept).await?;
                }
            }
            Ok(true)
        })
        .await
    }

    async fn find_abandoned(&self) -> Result<Option<RemainsDoc>> {
        let drafts = self.collections.drafts.clone_with_type::<RemainsDoc>();
        let unswept = doc! { "sweptAt": null, "touchedAt": null };
        if let Some(found) = drafts.find_one(unswept).await? {
            return Ok(Some(found));
        }
        // Usually the collection is empty, and the time is not needed.
        if drafts.find_one(doc! {}).await?.is_none() {
            return Ok(None);
        }
        let hello = self.collections.database.run_command(doc! { "hello": 1 }).await?;
        let Ok(now) = hello.get_datetime("localTime") else { return Ok(None) };
        let before = |age: Duration| {
            DateTime::from_millis(now.timestamp_millis().saturating_sub(age.as_millis() as i64))
        };
        let due = vec![
            doc! { "sweptAt": null, "touchedAt": { "$lt": before(DRAFT_TTL) } },
            doc! { "sweptAt": { "$lt": before(LATE_WRITE_GRACE) } },
        ];
        Ok(drafts.find_one(doc! { "$or": due }).await?)
    }

    /// Deletes up to [`STEP_DOCUMENTS`] documents. Returns whether nothing is left.
    async fn delete_some_content(&self, remains: &RemainsDoc) -> Result<bool> {
        let mut budget = STEP_DOCUMENTS;
        for (collection, filter) in self.content_filters(remains) {
            let found = collection.find(filter.clone()).projection(doc! { "_id": 1 });
            let found: Vec<Document> = found.limit(budget as i64).await?.try_collect().await?;
            if found.is_empty() {
                continue;
            }
            budget -= found.len();
            let ids: Vec<Bson> =
                found.into_iter().filter_map(|mut one| one.remove("_id")).collect();
            // A later session with the same id may have replaced some of them since.
            let mut some = doc! { "_id": { "$in": ids } };
            some.extend(
                filter
                    .get("born")
                    .map(|created_revision| ("born".to_owned(), created_revision.clone())),
            );
            collection.delete_many(some).await?;
            if budget == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The collections with content, and which of it belongs to these remains. A session that was
    /// created since with the same id has a later revision in `born`.
    fn content_filters(&self, remains: &RemainsDoc) -> Vec<(&Collection<Document>, Document)> {
        let RemainsDoc { key, session_id, created_revision, .. } = remains;
        let collections = &self.collections;
        let up_to_created = |filter: Document| match created_revision {
            Some(created_revision) => {
                let mut filter = filter;
                filter.insert("born", doc! { "$not": { "$gt": created_revision } });
                filter
            }
            None => filter,
        };
        // Only content under the session's own id can be mixed up with that of a later session.
        // Nodes of a draft were created after the session that got them.
        let nodes = doc! { "sessionId": key };
        let nodes = match session_id {
            Some(session) if session == key => up_to_created(nodes),
            _ => nodes,
        };
        let mut filters = vec![
            (&collections.nodes, nodes),
            (&collections.summaries, doc! { "sessionId": key }),
            (&collections.embeddings, doc! { "sessionId": key }),
        ];
        if let Some(session) = session_id {
            let by_session = [
                &collections.words,
                &collections.turn_log,
                &collections.queue,
                &collections.responses,
                &collections.idempotency_keys,
            ];
            let filter = up_to_created(doc! { "sessionId": session });
            filters.extend(by_session.map(|collection| (collection, filter.clone())));
        }
        filters
    }
}

/// A pipeline update, because the clock of the database exists only there.
fn touched_now() -> Vec<Document> {
    vec![doc! { "$set": { "touchedAt": "$$NOW" } }]
}

impl MongoTransaction {
    /// Says that a draft is being written. Errors if it was abandoned meanwhile.
    pub(super) async fn touch_draft(&mut self, key: &SessionId) -> Result<()> {
        let drafts = self.collections.drafts.clone();
        let draft = doc! { "_id": key.as_str(), "touchedAt": { "$ne": null } };
        let touched =
            drafts.update_one(draft, touched_now()).session(&mut self.client_session).await;
        ensure_draft_exists(self.check_result(touched)?.matched_count)
    }

    /// Ends a draft: its content becomes that of a session.
    pub(super) async fn release_draft(&mut self, key: &SessionId) -> Result<()> {
        let drafts = self.collections.drafts.clone();
        let draft = doc! { "_id": key.as_str(), "touchedAt": { "$ne": null } };
        ensure_draft_exists(self.delete_many(&drafts, draft).await?)
    }

    /// Gives the loaded session the content of a draft. The former content is deleted later,
    /// when no client reads it any more.
    pub(super) async fn replace_content(&mut self, draft: &SessionId) -> Result<()> {
        let Some(loaded) = &self.loaded else { return Err(Error::session_not_found()) };
        let former = ContentKey::from_document(&loaded.id, &loaded.document).key;
        let drafts = self.collections.drafts.clone();
        let listed = drafts
            .update_one(doc! { "_id": former.as_str() }, touched_now())
            .upsert(true)
            .session(&mut self.client_session)
            .await;
        self.check_result(listed)?;
        self.set_fields(doc! { CONTENT_KEY: draft.as_str() });
        Ok(())
    }

    /// Deletes the document of the loaded session and leaves its content to the sweep.
    pub(super) async fn delete_loaded_session(&mut self) -> Result<()> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let id = loaded.id.clone();
        let ContentKey { key, created_revision } = ContentKey::from_document(&id, &loaded.document);
        // Otherwise the commit would write the session's document again.
        self.discard_session();
        let collections = self.collections.clone();
        self.content_keys.remove(&id);
        self.delete_many(&collections.sessions, doc! { "_id": id.as_str() }).await?;
        let remains = doc! { "sessionId": id.as_str(), "born": created_revision };
        let listed = collections
            .drafts
            .replace_one(doc! { "_id": key.as_str() }, remains)
            .upsert(true)
            .session(&mut self.client_session)
            .await;
        self.check_result(listed).map(|_| ())
    }

    /// The highest first revision of earlier sessions with this id whose content is still to be
    /// deleted; `None` if there is none.
    pub(super) async fn find_remains(&mut self, id: &SessionId) -> Result<Option<i64>> {
        let drafts = self.collections.drafts.clone();
        let own = vec![doc! { "_id": id.as_str() }, doc! { "sessionId": id.as_str() }];
        let found: Vec<RemainsDoc> =
            self.run_pipeline(&drafts, vec![doc! { "$match": { "$or": own } }]).await?;
        Ok(found.into_iter().map(|remains| remains.created_revision.unwrap_or_default()).max())
    }
}

fn ensure_draft_exists(documents: u64) -> Result<()> {
    match documents {
        0 => {
            Err(Error::store_unavailable("an unfinished session was abandoned; repeat the request"))
        }
        _ => Ok(()),
    }
}
