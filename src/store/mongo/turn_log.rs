//! The turn log in MongoDB, and who is alive.
//!
//! A batch is a document; turn and number together are unique, and that is what ends a turn for
//! good: whoever finds a silent instance's turn puts a **seal** behind its last batch. Had the
//! silent one only slept, its next flush meets the seal and it stops; its reply is refused since the
//! claim is sealed, too. No clock but the database's decides who is silent.

use super::documents::{ClaimDoc, to_bson_date, to_u32};
use super::errors::is_duplicate_key;
use super::{MongoStore, OPERATION_TIMEOUT};
use crate::domain::{SessionId, Timestamp, TurnId};
use crate::error::{Error, Result};
use crate::store::{LeaseHolder, LogBatch, OrphanedTurn, TurnLogEntry, TurnLogStore};
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, DateTime, Document, doc};
use mongodb::options::ReturnDocument;
use serde::Deserialize;
use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The life of nobody: a claim of it is to be ended by whoever finds it.
const SEALED_BOOT: &str = "sealed";
/// Logs that are dropped in one go.
const DROP_LIMIT: i64 = 64;
/// Turns of others that are ended in one go.
const ORPHAN_LIMIT: i64 = 32;
/// Instances that have been silent for so long are forgotten.
const INSTANCE_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// A batch.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogBatchDoc {
    pub(super) turn_id: String,
    session_id: String,
    batch: i64,
    frames: Binary,
    pub(super) ended_at: Option<DateTime>,
    /// Whether it was put here by somebody else than who ran the turn, and says nothing.
    #[serde(default)]
    is_seal: bool,
}

/// A life of an instance.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InstanceDoc {
    #[serde(rename = "_id")]
    boot: String,
    instance: String,
    /// Silence after which it counts as gone, in milliseconds: its own, not ours.
    lease: i64,
    seen_at: DateTime,
}

/// A session whose turn somebody runs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimedSessionDoc {
    #[serde(rename = "_id")]
    id: String,
    active_turn: ClaimDoc,
}

impl LogBatchDoc {
    pub(super) fn next_number(&self) -> u32 {
        to_u32(self.batch) + 1
    }

    pub(super) fn into_frames(self) -> Bytes {
        self.frames.bytes.into()
    }
}

/// A batch as a document.
pub(super) fn to_batch_document(session: &SessionId, turn: &TurnId, batch: &LogBatch) -> Document {
    let frames = Binary { subtype: BinarySubtype::Generic, bytes: batch.frames.to_vec() };
    doc! {
        "turnId": turn.as_str(),
        "batch": i64::from(batch.number),
        "sessionId": session.as_str(),
        "frames": frames,
    }
}

#[async_trait]
impl TurnLogStore for MongoStore {
    async fn append_log(&self, entries: Vec<TurnLogEntry>) -> Result<Vec<TurnId>> {
        with_timeout(async {
            let held = self.find_claimed_turns(&entries).await?;
            let (held, lost): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|entry| held.contains(entry.turn_id.as_str()));
            let mut lost: Vec<TurnId> = lost.into_iter().map(|entry| entry.turn_id).collect();
            if held.is_empty() {
                return Ok(lost);
            }
            let documents = held
                .iter()
                .map(|entry| to_batch_document(&entry.session_id, &entry.turn_id, &entry.batch));
            let inserted = self.collections.turn_log.insert_many(documents).ordered(false).await;
            match inserted {
                Ok(_) => {}
                // Some are there: written by an earlier try, or sealed.
                Err(error) if is_duplicate_key(&error) => {
                    for entry in held {
                        if !self.is_batch_written(&entry).await? {
                            lost.push(entry.turn_id);
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
            Ok(lost)
        })
        .await
    }

    async fn read_log(
        &self,
        session: &SessionId,
        turn: &TurnId,
        since: Timestamp,
    ) -> Result<Vec<Bytes>> {
        let log = with_timeout(self.read_batches(turn)).await?;
        let ended = log.iter().find_map(|batch| batch.ended_at);
        let is_past = ended.is_some_and(|ended| ended < to_bson_date(since));
        if is_past || log.iter().any(|batch| batch.session_id != session.as_str()) {
            return Ok(Vec::new());
        }
        Ok(log.into_iter().map(LogBatchDoc::into_frames).collect())
    }

    async fn delete_ended_logs(&self, ended_before: Timestamp) -> Result<u64> {
        with_timeout(self.delete_next_ended_logs(ended_before)).await
    }

    async fn record_heartbeat(&self, claimant: &LeaseHolder, _now: Timestamp) -> Result<()> {
        let instance = doc! { "_id": &claimant.boot };
        let lease = i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX);
        let alive = vec![doc! { "$set": {
            "instance": { "$literal": &claimant.instance },
            "lease": lease,
            "seenAt": "$$NOW",
        } }];
        with_timeout(async {
            self.collections.instances.update_one(instance, alive).upsert(true).await?;
            Ok(())
        })
        .await
    }

    async fn find_orphaned_turns(
        &self,
        claimant: &LeaseHolder,
        running: &HashSet<TurnId>,
    ) -> Result<Vec<OrphanedTurn>> {
        with_timeout(async {
            let alive = self.find_live_instances(claimant).await?;
            let mut orphans = Vec::new();
            for ClaimedSessionDoc { id, active_turn: claim } in self.find_dead_claims(alive).await?
            {
                orphans.extend(self.seal_orphan(&id, &claim).await?);
            }
            for ClaimedSessionDoc { id, active_turn: claim } in
                self.find_own_claims(&claimant.boot).await?
            {
                if self.is_abandoned(&claim.active_turn().turn_id, running) {
                    orphans.extend(self.seal_orphan(&id, &claim).await?);
                }
            }
            Ok(orphans)
        })
        .await
    }
}

impl MongoStore {
    async fn delete_next_ended_logs(&self, ended_before: Timestamp) -> Result<u64> {
        let old = doc! { "askedAt": { "$lt": to_bson_date(ended_before) } };
        self.collections.stops.delete_many(old).await?;
        let ended: Vec<LogBatchDoc> = self
            .collections
            .turn_log
            .clone_with_type()
            .find(doc! { "endedAt": { "$lt": to_bson_date(ended_before) } })
            .limit(DROP_LIMIT)
            .await?
            .try_collect()
            .await?;
        if ended.is_empty() {
            return Ok(0);
        }
        let turns: Vec<_> = ended.into_iter().map(|batch| batch.turn_id).collect();
        let past = doc! { "turnId": { "$in": turns } };
        Ok(self.collections.turn_log.delete_many(past).await?.deleted_count)
    }

    /// Which of these turns still hold their claims.
    async fn find_claimed_turns(&self, entries: &[TurnLogEntry]) -> Result<HashSet<String>> {
        let sessions: Vec<_> = entries.iter().map(|entry| entry.session_id.as_str()).collect();
        let only = doc! { "activeTurn.turnId": 1, "activeTurn.boot": 1 };
        let found: Vec<Document> = self
            .collections
            .sessions
            .find(doc! { "_id": { "$in": sessions } })
            .projection(only)
            .await?
            .try_collect()
            .await?;
        let held = found.iter().filter_map(|session| {
            let claim = session.get_document("activeTurn").ok()?;
            (claim.get_str("boot").ok()? != SEALED_BOOT)
                .then_some(claim.get_str("turnId").ok()?.to_owned())
        });
        Ok(held.collect())
    }

    /// Some claims of lives that are over.
    async fn find_dead_claims(&self, alive: Vec<String>) -> Result<Vec<ClaimedSessionDoc>> {
        let over = doc! { "activeTurn.boot": { "$exists": true, "$nin": alive } };
        let sessions = self.collections.sessions.clone_with_type();
        let claims = sessions.find(over).limit(ORPHAN_LIMIT);
        Ok(claims.projection(doc! { "activeTurn": 1 }).await?.try_collect().await?)
    }

    async fn find_own_claims(&self, boot: &str) -> Result<Vec<ClaimedSessionDoc>> {
        let own = doc! { "activeTurn.boot": boot };
        let sessions = self.collections.sessions.clone_with_type();
        Ok(sessions.find(own).projection(doc! { "activeTurn": 1 }).await?.try_collect().await?)
    }

    /// Ends a turn for whoever runs it; `None` if it has ended meanwhile.
    async fn seal_orphan(&self, session: &str, claim: &ClaimDoc) -> Result<Option<OrphanedTurn>> {
        let (session_id, turn) = (SessionId::new_unchecked(session), claim.active_turn());
        let held_by = claim.lease_holder();
        let sealed = self.seal_turn(&session_id, &turn.turn_id, &held_by).await?;
        Ok(sealed.map(|(log, next_batch)| {
            let claimant = LeaseHolder { boot: SEALED_BOOT.to_owned(), ..held_by };
            OrphanedTurn { session_id, turn, lease_holder: claimant, log, next_batch }
        }))
    }

    /// Whether this very batch is in the log.
    async fn is_batch_written(&self, entry: &TurnLogEntry) -> Result<bool> {
        let batch =
            doc! { "turnId": entry.turn_id.as_str(), "batch": i64::from(entry.batch.number) };
        let found: Option<LogBatchDoc> =
            self.collections.turn_log.clone_with_type().find_one(batch).await?;
        Ok(found.is_some_and(|found| !found.is_seal && found.frames.bytes == *entry.batch.frames))
    }

    /// A turn's batches, in order.
    pub(super) async fn read_batches(&self, turn: &TurnId) -> Result<Vec<LogBatchDoc>> {
        let log = self.collections.turn_log.clone_with_type();
        let find =
            log.find(doc! { "turnId": turn.as_str() }).sort(doc! { "turnId": 1, "batch": 1 });
        Ok(find.await?.try_collect().await?)
    }

    /// The lives that are not over: others that were seen within their lease, this one, and no other
    /// of this instance.
    async fn find_live_instances(&self, claimant: &LeaseHolder) -> Result<Vec<String>> {
        let look = vec![doc! { "$set": { "lookedAt": "$$NOW" } }];
        let me = self
            .collections
            .instances
            .find_one_and_update(doc! { "_id": &claimant.boot }, look)
            .return_document(ReturnDocument::After)
            .await?
            .unwrap_or_default();
        // Whoever has not said that it lives knows nothing of the time either.
        let Ok(now) = me.get_datetime("lookedAt") else {
            return Err(Error::store_unavailable("this instance is not known to the database"));
        };
        let all: Vec<InstanceDoc> =
            self.collections.instances.clone_with_type().find(doc! {}).await?.try_collect().await?;
        let silent = |seen: DateTime| {
            let millis = now.timestamp_millis() - seen.timestamp_millis();
            Duration::from_millis(millis.unsigned_abs()) * u32::from(millis > 0)
        };
        if all.iter().any(|other| silent(other.seen_at) > INSTANCE_RETENTION) {
            let old = DateTime::from_millis(
                now.timestamp_millis() - INSTANCE_RETENTION.as_millis() as i64,
            );
            self.collections.instances.delete_many(doc! { "seenAt": { "$lt": old } }).await?;
        }
        // The looks are a tenth of the lease apart: within the lease the turn is ended.
        let patience =
            |other: &InstanceDoc| Duration::from_millis(other.lease.unsigned_abs()) * 9 / 10;
        let alive = all.into_iter().filter(|other| {
            other.boot == claimant.boot
                || other.instance != claimant.instance && silent(other.seen_at) < patience(other)
        });
        Ok(alive.map(|other| other.boot).collect())
    }

    /// Whether a turn of this life has been run by nobody for as long as a lease: the answer to its
    /// claim was lost.
    fn is_abandoned(&self, turn: &TurnId, running: &HashSet<TurnId>) -> bool {
        let mut suspects = self.suspected_orphans.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains(turn) {
            suspects.remove(turn);
            return false;
        }
        suspects.retain(|_, since| since.elapsed() < self.lease * 2);
        suspects.entry(turn.clone()).or_insert_with(Instant::now).elapsed() >= self.lease
    }

    /// Ends a turn for whoever runs it: its log, and the number of the batch behind the seal. `None`
    /// if it has ended meanwhile.
    async fn seal_turn(
        &self,
        session: &SessionId,
        turn: &TurnId,
        held_by: &LeaseHolder,
    ) -> Result<Option<(Vec<Bytes>, u32)>> {
        let claim = doc! {
            "_id": session.as_str(),
            "activeTurn.turnId": turn.as_str(),
            "activeTurn.boot": &held_by.boot,
        };
        let seal =
            doc! { "$set": { "activeTurn.boot": SEALED_BOOT }, "$inc": { "revision": 1_i64 } };
        if self.collections.sessions.update_one(claim, seal).await?.matched_count == 0 {
            return Ok(None);
        }
        loop {
            let log = self.read_batches(turn).await?;
            let next = log.last().map_or(0, LogBatchDoc::next_number);
            if !log.last().is_some_and(|last| last.is_seal) {
                let batch = LogBatch { number: next, frames: Bytes::new() };
                let mut seal = to_batch_document(session, turn, &batch);
                seal.insert("isSeal", true);
                match self.collections.turn_log.insert_one(seal).await {
                    Ok(_) => {}
                    // A last flush came before it, or another seal.
                    Err(error) if is_duplicate_key(&error) => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            return Ok(Some((log.into_iter().map(LogBatchDoc::into_frames).collect(), next)));
        }
    }
}

/// Gives up after a while. What is given up may have happened: all that is done here may be done
/// again.
pub(super) async fn with_timeout<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(OPERATION_TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::store_unavailable("MongoDB did not answer in time")),
    }
}
