//! The turn log in MongoDB, and who is alive.
//!
//! A batch is a document; turn and number together are unique, and that is what ends a turn for
//! good: whoever finds a silent instance's turn puts a **seal** behind its last batch. Had the
//! silent one only slept, its next flush meets the seal and it stops; its reply is refused since the
//! claim is sealed, too. No clock but the database's decides who is silent.

use super::documents::{ClaimDoc, date, number};
use super::failures::is_duplicate;
use super::{MongoStore, PATIENCE};
use crate::domain::{SessionId, Timestamp, TurnId};
use crate::error::{Error, Result};
use crate::store::{Batch, Claimant, LogEntry, LogStore, Orphan};
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
const SEALED: &str = "sealed";
/// Logs that are dropped in one go.
const DROP: i64 = 64;
/// Turns of others that are ended in one go.
const ORPHANS: i64 = 32;
/// Instances that have been silent for so long are forgotten.
const FORGET: Duration = Duration::from_secs(24 * 60 * 60);

/// A batch.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BatchDoc {
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
struct ClaimedDoc {
    #[serde(rename = "_id")]
    id: String,
    active_turn: ClaimDoc,
}

impl BatchDoc {
    pub(super) fn next(&self) -> u32 {
        number(self.batch) + 1
    }

    pub(super) fn frames(self) -> Bytes {
        self.frames.bytes.into()
    }
}

/// A batch as a document.
pub(super) fn document(session: &SessionId, turn: &TurnId, batch: &Batch) -> Document {
    let frames = Binary { subtype: BinarySubtype::Generic, bytes: batch.frames.to_vec() };
    doc! {
        "turnId": turn.as_str(),
        "batch": i64::from(batch.number),
        "sessionId": session.as_str(),
        "frames": frames,
    }
}

#[async_trait]
impl LogStore for MongoStore {
    async fn append_log(&self, entries: Vec<LogEntry>) -> Result<Vec<TurnId>> {
        in_time(async {
            let held = self.held(&entries).await?;
            let (held, lost): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|entry| held.contains(entry.turn_id.as_str()));
            let mut lost: Vec<TurnId> = lost.into_iter().map(|entry| entry.turn_id).collect();
            if held.is_empty() {
                return Ok(lost);
            }
            let documents =
                held.iter().map(|entry| document(&entry.session_id, &entry.turn_id, &entry.batch));
            let inserted = self.tables.turn_log.insert_many(documents).ordered(false).await;
            match inserted {
                Ok(_) => {}
                // Some are there: written by an earlier try, or sealed.
                Err(error) if is_duplicate(&error) => {
                    for entry in held {
                        if !self.is_written(&entry).await? {
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
        let log = in_time(self.log_of(turn)).await?;
        let ended = log.iter().find_map(|batch| batch.ended_at);
        let is_past = ended.is_some_and(|ended| ended < date(since));
        if is_past || log.iter().any(|batch| batch.session_id != session.as_str()) {
            return Ok(Vec::new());
        }
        Ok(log.into_iter().map(BatchDoc::frames).collect())
    }

    async fn drop_logs(&self, ended_before: Timestamp) -> Result<u64> {
        in_time(self.drop_some_logs(ended_before)).await
    }

    async fn beat(&self, claimant: &Claimant, _now: Timestamp) -> Result<()> {
        let instance = doc! { "_id": &claimant.boot };
        let lease = i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX);
        let alive = vec![doc! { "$set": {
            "instance": { "$literal": &claimant.instance },
            "lease": lease,
            "seenAt": "$$NOW",
        } }];
        in_time(async {
            self.tables.instances.update_one(instance, alive).upsert(true).await?;
            Ok(())
        })
        .await
    }

    async fn orphaned_turns(
        &self,
        claimant: &Claimant,
        running: &HashSet<TurnId>,
    ) -> Result<Vec<Orphan>> {
        in_time(async {
            let alive = self.alive(claimant).await?;
            let mut orphans = Vec::new();
            for ClaimedDoc { id, active_turn: claim } in self.claims_of_others(alive).await? {
                orphans.extend(self.orphan(&id, &claim).await?);
            }
            for ClaimedDoc { id, active_turn: claim } in self.own_claims(&claimant.boot).await? {
                if self.is_stranded(&claim.turn().turn_id, running) {
                    orphans.extend(self.orphan(&id, &claim).await?);
                }
            }
            Ok(orphans)
        })
        .await
    }
}

impl MongoStore {
    async fn drop_some_logs(&self, ended_before: Timestamp) -> Result<u64> {
        let old = doc! { "askedAt": { "$lt": date(ended_before) } };
        self.tables.stops.delete_many(old).await?;
        let ended: Vec<BatchDoc> = self
            .tables
            .turn_log
            .clone_with_type()
            .find(doc! { "endedAt": { "$lt": date(ended_before) } })
            .limit(DROP)
            .await?
            .try_collect()
            .await?;
        if ended.is_empty() {
            return Ok(0);
        }
        let turns: Vec<_> = ended.into_iter().map(|batch| batch.turn_id).collect();
        let past = doc! { "turnId": { "$in": turns } };
        Ok(self.tables.turn_log.delete_many(past).await?.deleted_count)
    }

    /// Which of these turns still hold their claims.
    async fn held(&self, entries: &[LogEntry]) -> Result<HashSet<String>> {
        let sessions: Vec<_> = entries.iter().map(|entry| entry.session_id.as_str()).collect();
        let only = doc! { "activeTurn.turnId": 1, "activeTurn.boot": 1 };
        let found: Vec<Document> = self
            .tables
            .sessions
            .find(doc! { "_id": { "$in": sessions } })
            .projection(only)
            .await?
            .try_collect()
            .await?;
        let held = found.iter().filter_map(|session| {
            let claim = session.get_document("activeTurn").ok()?;
            (claim.get_str("boot").ok()? != SEALED)
                .then_some(claim.get_str("turnId").ok()?.to_owned())
        });
        Ok(held.collect())
    }

    /// Some claims of lives that are over.
    async fn claims_of_others(&self, alive: Vec<String>) -> Result<Vec<ClaimedDoc>> {
        let over = doc! { "activeTurn.boot": { "$exists": true, "$nin": alive } };
        let sessions = self.tables.sessions.clone_with_type();
        let claims = sessions.find(over).limit(ORPHANS);
        Ok(claims.projection(doc! { "activeTurn": 1 }).await?.try_collect().await?)
    }

    async fn own_claims(&self, boot: &str) -> Result<Vec<ClaimedDoc>> {
        let own = doc! { "activeTurn.boot": boot };
        let sessions = self.tables.sessions.clone_with_type();
        Ok(sessions.find(own).projection(doc! { "activeTurn": 1 }).await?.try_collect().await?)
    }

    /// Ends a turn for whoever runs it; `None` if it has ended meanwhile.
    async fn orphan(&self, session: &str, claim: &ClaimDoc) -> Result<Option<Orphan>> {
        let (session_id, turn) = (SessionId::trusted(session), claim.turn());
        let held_by = claim.claimant();
        let sealed = self.seal(&session_id, &turn.turn_id, &held_by).await?;
        Ok(sealed.map(|(log, next_batch)| {
            let claimant = Claimant { boot: SEALED.to_owned(), ..held_by };
            Orphan { session_id, turn, claimant, log, next_batch }
        }))
    }

    /// Whether this very batch is in the log.
    async fn is_written(&self, entry: &LogEntry) -> Result<bool> {
        let batch =
            doc! { "turnId": entry.turn_id.as_str(), "batch": i64::from(entry.batch.number) };
        let found: Option<BatchDoc> =
            self.tables.turn_log.clone_with_type().find_one(batch).await?;
        Ok(found.is_some_and(|found| !found.is_seal && found.frames.bytes == *entry.batch.frames))
    }

    /// A turn's batches, in order.
    pub(super) async fn log_of(&self, turn: &TurnId) -> Result<Vec<BatchDoc>> {
        let log = self.tables.turn_log.clone_with_type();
        let find =
            log.find(doc! { "turnId": turn.as_str() }).sort(doc! { "turnId": 1, "batch": 1 });
        Ok(find.await?.try_collect().await?)
    }

    /// The lives that are not over: others that were seen within their lease, this one, and no other
    /// of this instance.
    async fn alive(&self, claimant: &Claimant) -> Result<Vec<String>> {
        let look = vec![doc! { "$set": { "lookedAt": "$$NOW" } }];
        let me = self
            .tables
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
            self.tables.instances.clone_with_type().find(doc! {}).await?.try_collect().await?;
        let silent = |seen: DateTime| {
            let millis = now.timestamp_millis() - seen.timestamp_millis();
            Duration::from_millis(millis.unsigned_abs()) * u32::from(millis > 0)
        };
        if all.iter().any(|other| silent(other.seen_at) > FORGET) {
            let old = DateTime::from_millis(now.timestamp_millis() - FORGET.as_millis() as i64);
            self.tables.instances.delete_many(doc! { "seenAt": { "$lt": old } }).await?;
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
    fn is_stranded(&self, turn: &TurnId, running: &HashSet<TurnId>) -> bool {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains(turn) {
            suspects.remove(turn);
            return false;
        }
        suspects.retain(|_, since| since.elapsed() < self.lease * 2);
        suspects.entry(turn.clone()).or_insert_with(Instant::now).elapsed() >= self.lease
    }

    /// Ends a turn for whoever runs it: its log, and the number of the batch behind the seal. `None`
    /// if it has ended meanwhile.
    async fn seal(
        &self,
        session: &SessionId,
        turn: &TurnId,
        held_by: &Claimant,
    ) -> Result<Option<(Vec<Bytes>, u32)>> {
        let claim = doc! {
            "_id": session.as_str(),
            "activeTurn.turnId": turn.as_str(),
            "activeTurn.boot": &held_by.boot,
        };
        let seal = doc! { "$set": { "activeTurn.boot": SEALED }, "$inc": { "revision": 1_i64 } };
        if self.tables.sessions.update_one(claim, seal).await?.matched_count == 0 {
            return Ok(None);
        }
        loop {
            let log = self.log_of(turn).await?;
            let next = log.last().map_or(0, BatchDoc::next);
            if !log.last().is_some_and(|last| last.is_seal) {
                let batch = Batch { number: next, frames: Bytes::new() };
                let mut seal = document(session, turn, &batch);
                seal.insert("isSeal", true);
                match self.tables.turn_log.insert_one(seal).await {
                    Ok(_) => {}
                    // A last flush came before it, or another seal.
                    Err(error) if is_duplicate(&error) => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            return Ok(Some((log.into_iter().map(BatchDoc::frames).collect(), next)));
        }
    }
}

/// Gives up after a while. What is given up may have happened: all that is done here may be done
/// again.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(PATIENCE, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::store_unavailable("MongoDB did not answer in time")),
    }
}
