//! The turn log in MongoDB, heartbeats of instances, and recovery of orphaned turns.
//!
//! A batch of the log is one document, unique by turn and batch number. That uniqueness is what
//! ends an orphaned turn permanently: the instance that recovers it inserts an empty batch, the
//! **seal**, after the last one. If the former owner was only paused, its next batch collides with
//! the seal and it stops. Its reply is rejected as well, because the claim in the session's
//! document was taken away first.
//!
//! All times are compared by the clock of the database, never by those of instances.

use super::content_keys::ContentKey;
use super::documents::{ClaimDoc, to_bson_date, to_u32};
use super::errors::{MAX_DOCUMENT_BYTES, is_duplicate_key, timed_out};
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
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The `boot` of a claim whose turn is being recovered. No instance has it, so if the recovering
/// instance crashes, any other finds the claim and finishes the recovery.
const SEALED_BOOT: &str = "sealed";
/// Logs deleted per call.
const DROP_LIMIT: i64 = 64;
/// Turns of dead instances recovered per call.
const ORPHAN_LIMIT: i64 = 32;
/// Time without a heartbeat after which an instance's document is deleted.
const INSTANCE_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogBatchDoc {
    pub(super) turn_id: String,
    session_id: String,
    batch: i64,
    frames: Binary,
    /// First revision of the session; absent in logs of version 0.1.0.
    #[serde(rename = "born")]
    created_revision: Option<i64>,
    pub(super) ended_at: Option<DateTime>,
    /// An empty batch inserted by a recovering instance to end the log.
    #[serde(default)]
    is_seal: bool,
}

/// One run of an instance: each start has its own `boot`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InstanceDoc {
    #[serde(rename = "_id")]
    boot: String,
    instance: String,
    /// The lease of that instance, in milliseconds. Instances may be configured differently.
    lease: i64,
    seen_at: DateTime,
}

/// A session with a running turn.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClaimedSessionDoc {
    #[serde(rename = "_id")]
    id: String,
    active_turn: ClaimDoc,
    #[serde(rename = "born", default)]
    created_revision: i64,
}

impl LogBatchDoc {
    pub(super) fn next_number(&self) -> u32 {
        to_u32(self.batch) + 1
    }

    pub(super) fn into_frames(self) -> Bytes {
        self.frames.bytes.into()
    }
}

/// `created_revision` is the first revision of the session.
pub(super) fn to_batch_document(
    session: &SessionId,
    created_revision: Option<i64>,
    turn: &TurnId,
    batch: &LogBatch,
) -> Document {
    let frames = Binary { subtype: BinarySubtype::Generic, bytes: batch.frames.to_vec() };
    doc! {
        "turnId": turn.as_str(),
        "batch": i64::from(batch.number),
        "sessionId": session.as_str(),
        "born": created_revision,
        "frames": frames,
    }
}

#[async_trait]
impl TurnLogStore for MongoStore {
    async fn append_log(&self, entries: Vec<TurnLogEntry>) -> Result<Vec<TurnId>> {
        with_timeout(async {
            // A turn whose claim was taken away must not write. This check alone is a race with a
            // recovery that starts now; the unique index on the seal decides it.
            let claimed = self.find_claimed_turns(&entries).await?;
            // Frames that fit into no document end their turn as well.
            let (held, lost): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| {
                claimed.contains_key(entry.turn_id.as_str())
                    && entry.batch.frames.len() <= MAX_DOCUMENT_BYTES
            });
            let mut lost: Vec<TurnId> = lost.into_iter().map(|entry| entry.turn_id).collect();
            if held.is_empty() {
                return Ok(lost);
            }
            let documents = held.iter().map(|TurnLogEntry { session_id, turn_id, batch }| {
                let created_revision = claimed.get(turn_id.as_str()).copied();
                to_batch_document(session_id, created_revision, turn_id, batch)
            });
            let inserted = self.collections.turn_log.insert_many(documents).ordered(false).await;
            match inserted {
                Ok(_) => {}
                // Unordered, so all other batches were inserted. A batch that exists is either
                // ours, from a try whose response was lost, or a seal.
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
        // Logs are deleted some time after they expire; until then they count as gone, as in every
        // store. The session is checked because a turn id alone must not give access to a reply.
        let is_past = ended.is_some_and(|ended| ended < to_bson_date(since));
        if log.is_empty() || is_past {
            return Ok(Vec::new());
        }
        let Some(ContentKey { created_revision, .. }) = self.find_content_key(session).await?
        else {
            return Ok(Vec::new());
        };
        let is_own = |batch: &LogBatchDoc| {
            batch.session_id == session.as_str()
                && batch.created_revision.is_none_or(|of_log| of_log == created_revision)
        };
        if !log.iter().all(is_own) {
            return Ok(Vec::new());
        }
        Ok(log.into_iter().map(LogBatchDoc::into_frames).collect())
    }

    async fn delete_ended_logs(&self, ended_before: Timestamp) -> Result<u64> {
        with_timeout(self.delete_next_ended_logs(ended_before)).await
    }

    async fn record_heartbeat(&self, lease_holder: &LeaseHolder, _now: Timestamp) -> Result<()> {
        let instance = doc! { "_id": &lease_holder.boot };
        // A pipeline update, because `$$NOW` (the clock of the database) exists only there. Hence
        // `$literal`: a name that starts with `$` would be taken for a field path.
        let lease = i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX);
        let alive = vec![doc! { "$set": {
            "instance": { "$literal": &lease_holder.instance },
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
        lease_holder: &LeaseHolder,
        running: &HashSet<TurnId>,
        skipped: &HashSet<TurnId>,
    ) -> Result<Vec<OrphanedTurn>> {
        with_timeout(async {
            let alive = self.find_live_instances(lease_holder).await?;
            let mut orphans = Vec::new();
            // Claims of instances that are dead, and sealed claims of an interrupted recovery.
            let dead = self.find_dead_claims(alive, skipped).await?;
            for claimed in dead {
                orphans.extend(self.seal_orphan(&claimed).await?);
            }
            // Claims of this instance without a running turn.
            for claimed in self.find_own_claims(&lease_holder.boot).await? {
                let turn = claimed.active_turn.active_turn().turn_id;
                if self.is_abandoned(&turn, running) && !skipped.contains(&turn) {
                    orphans.extend(self.seal_orphan(&claimed).await?);
                }
            }
            Ok(orphans)
        })
        .await
    }
}

impl MongoStore {
    async fn delete_next_ended_logs(&self, ended_before: Timestamp) -> Result<u64> {
        // Cancellations this old were never picked up; their turns have ended.
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
        // Only the last batch of a log has `endedAt`; the others go with it by their turn.
        let turns: Vec<_> = ended.into_iter().map(|batch| batch.turn_id).collect();
        let past = doc! { "turnId": { "$in": turns } };
        Ok(self.collections.turn_log.delete_many(past).await?.deleted_count)
    }

    /// Ids of the turns that still own the claim of their session, with its first revision.
    async fn find_claimed_turns(&self, entries: &[TurnLogEntry]) -> Result<HashMap<String, i64>> {
        let sessions: Vec<_> = entries.iter().map(|entry| entry.session_id.as_str()).collect();
        let projection = doc! { "activeTurn.turnId": 1, "activeTurn.boot": 1, "born": 1 };
        let found: Vec<Document> = self
            .collections
            .sessions
            .find(doc! { "_id": { "$in": sessions } })
            .projection(projection)
            .await?
            .try_collect()
            .await?;
        let claimed = found.iter().filter_map(|session| {
            let claim = session.get_document("activeTurn").ok()?;
            let created_revision = session.get_i64("born").unwrap_or_default();
            (claim.get_str("boot").ok()? != SEALED_BOOT)
                .then_some((claim.get_str("turnId").ok()?.to_owned(), created_revision))
        });
        Ok(claimed.collect())
    }

    /// Some of the claims that belong to none of these runs, without the turns in `skipped`.
    async fn find_dead_claims(
        &self,
        alive: Vec<String>,
        skipped: &HashSet<TurnId>,
    ) -> Result<Vec<ClaimedSessionDoc>> {
        let mut dead = doc! { "activeTurn.boot": { "$exists": true, "$nin": alive } };
        if !skipped.is_empty() {
            let skipped: Vec<&str> = skipped.iter().map(TurnId::as_str).collect();
            dead.insert("activeTurn.turnId", doc! { "$nin": skipped });
        }
        let sessions = self.collections.sessions.clone_with_type();
        let claims = sessions.find(dead).limit(ORPHAN_LIMIT);
        Ok(claims.projection(doc! { "activeTurn": 1, "born": 1 }).await?.try_collect().await?)
    }

    async fn find_own_claims(&self, boot: &str) -> Result<Vec<ClaimedSessionDoc>> {
        let own = doc! { "activeTurn.boot": boot };
        let sessions = self.collections.sessions.clone_with_type();
        Ok(sessions
            .find(own)
            .projection(doc! { "activeTurn": 1, "born": 1 })
            .await?
            .try_collect()
            .await?)
    }

    /// Takes a turn over for recovery; `None` if it has ended in the meantime.
    async fn seal_orphan(&self, claimed: &ClaimedSessionDoc) -> Result<Option<OrphanedTurn>> {
        let ClaimedSessionDoc { id, active_turn: claim, created_revision } = claimed;
        let session_id = SessionId::new_unchecked(id.as_str());
        let turn = claim.active_turn();
        let former_holder = claim.lease_holder();
        let sealed =
            self.seal_turn(&session_id, *created_revision, &turn.turn_id, &former_holder).await?;
        Ok(sealed.map(|(log, next_batch)| {
            let lease_holder = LeaseHolder { boot: SEALED_BOOT.to_owned(), ..former_holder };
            OrphanedTurn { session_id, turn, lease_holder, log, next_batch }
        }))
    }

    /// Whether the log contains this batch with the same content.
    async fn is_batch_written(&self, entry: &TurnLogEntry) -> Result<bool> {
        let batch =
            doc! { "turnId": entry.turn_id.as_str(), "batch": i64::from(entry.batch.number) };
        let found: Option<LogBatchDoc> =
            self.collections.turn_log.clone_with_type().find_one(batch).await?;
        Ok(found.is_some_and(|found| !found.is_seal && found.frames.bytes == *entry.batch.frames))
    }

    /// Reads all batches of a turn, in order.
    pub(super) async fn read_batches(&self, turn: &TurnId) -> Result<Vec<LogBatchDoc>> {
        let log = self.collections.turn_log.clone_with_type();
        let find =
            log.find(doc! { "turnId": turn.as_str() }).sort(doc! { "turnId": 1, "batch": 1 });
        Ok(find.await?.try_collect().await?)
    }

    /// The `boot` of every run that counts as alive: this one, and those of other instances with a
    /// heartbeat within their lease. Earlier runs of this instance are dead.
    async fn find_live_instances(&self, lease_holder: &LeaseHolder) -> Result<Vec<String>> {
        // Reads the database's clock, which a plain find cannot return.
        let read_clock = vec![doc! { "$set": { "lookedAt": "$$NOW" } }];
        let me = self
            .collections
            .instances
            .find_one_and_update(doc! { "_id": &lease_holder.boot }, read_clock)
            .return_document(ReturnDocument::After)
            .await?
            .unwrap_or_default();
        // No heartbeat of this run has been stored yet. Without the time no instance may be
        // declared dead.
        let Ok(now) = me.get_datetime("lookedAt") else {
            return Err(Error::store_unavailable("this instance has not sent a heartbeat yet"));
        };
        let instances: Vec<InstanceDoc> =
            self.collections.instances.clone_with_type().find(doc! {}).await?.try_collect().await?;
        let silent = |seen: DateTime| {
            let millis = now.timestamp_millis() - seen.timestamp_millis();
            Duration::from_millis(millis.unsigned_abs()) * u32::from(millis > 0)
        };
        if instances.iter().any(|other| silent(other.seen_at) > INSTANCE_RETENTION) {
            let old = DateTime::from_millis(
                now.timestamp_millis() - INSTANCE_RETENTION.as_millis() as i64,
            );
            self.collections.instances.delete_many(doc! { "seenAt": { "$lt": old } }).await?;
        }
        // Instances look for dead ones ten times per lease. Counting nine tenths of it as the limit
        // makes sure that an orphaned turn is recovered within one lease.
        let allowed =
            |other: &InstanceDoc| Duration::from_millis(other.lease.unsigned_abs()) * 9 / 10;
        let alive = instances.into_iter().filter(|other| {
            other.boot == lease_holder.boot
                || other.instance != lease_holder.instance && silent(other.seen_at) < allowed(other)
        });
        Ok(alive.map(|other| other.boot).collect())
    }

    /// Whether a turn that this run has claimed has not been running for a whole lease. That
    /// happens if the response to its claim was lost: the claim is stored, but no task was started.
    fn is_abandoned(&self, turn: &TurnId, running: &HashSet<TurnId>) -> bool {
        // A turn that was claimed a moment ago may not be registered as running yet, so the first
        // sighting only starts the clock.
        let mut suspects = self.suspected_orphans.lock();
        if running.contains(turn) {
            suspects.remove(turn);
            return false;
        }
        // Entries of turns that have ended by other means would stay otherwise.
        suspects.retain(|_, since| since.elapsed() < self.lease * 2);
        suspects.entry(turn.clone()).or_insert_with(Instant::now).elapsed() >= self.lease
    }

    /// Takes the claim of a turn away and seals its log. Returns the frames of the log and the
    /// number of the next batch, or `None` if the turn has ended in the meantime.
    async fn seal_turn(
        &self,
        session: &SessionId,
        created_revision: i64,
        turn: &TurnId,
        former_holder: &LeaseHolder,
    ) -> Result<Option<(Vec<Bytes>, u32)>> {
        let claim = doc! {
            "_id": session.as_str(),
            "activeTurn.turnId": turn.as_str(),
            "activeTurn.boot": &former_holder.boot,
        };
        // First the claim, then the log: from here on a commit of the former holder fails, because
        // the revision has changed and the claim is not its own.
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
                let mut seal = to_batch_document(session, Some(created_revision), turn, &batch);
                seal.insert("isSeal", true);
                match self.collections.turn_log.insert_one(seal).await {
                    Ok(_) => {}
                    // The former holder was faster and wrote one more batch, or another instance
                    // inserted the seal. Read the log again.
                    Err(error) if is_duplicate_key(&error) => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            return Ok(Some((log.into_iter().map(LogBatchDoc::into_frames).collect(), next)));
        }
    }
}

/// Limits a single operation to [`OPERATION_TIMEOUT`].
///
/// An operation that timed out may still have taken effect, so it must be safe to repeat.
pub(super) async fn with_timeout<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(OPERATION_TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => Err(timed_out()),
    }
}
