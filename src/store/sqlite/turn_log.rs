//! The turn log and heartbeats in SQLite.

use super::SqliteStore;
use crate::domain::turn::ActiveTurn;
use crate::domain::{MessageId, SessionId, Timestamp, TurnId};
use crate::error::Result;
use crate::store::{
    FeedStore, LeaseHolder, LogBatch, OrphanedTurn, RelayStore, TurnLogEntry, TurnLogStore,
};
use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, Transaction, params};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long a turn claimed by this process may be without a task before it counts as orphaned.
const ABANDONED_AFTER: Duration = Duration::from_secs(5);

#[async_trait]
impl TurnLogStore for SqliteStore {
    async fn append_log(&self, entries: Vec<TurnLogEntry>) -> Result<Vec<TurnId>> {
        self.run_background_write(move |db| {
            // The join leaves out turns that have lost their claim, for example because their
            // session was deleted.
            let sql = "INSERT INTO turn_log SELECT ?1, ?2, s.key, ?3, NULL FROM sessions s \
                       JOIN turns t ON t.session = s.key WHERE s.id = ?4 AND t.turn_id = ?1";
            let mut insert = db.prepare_cached(sql)?;
            let mut lost = Vec::new();
            for TurnLogEntry { session_id, turn_id, batch } in entries {
                let inserted = insert.execute(params![
                    turn_id.as_str(),
                    batch.number,
                    &*batch.frames,
                    session_id.as_str()
                ])?;
                if inserted == 0 {
                    lost.push(turn_id);
                }
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
        let session = session.clone();
        let turn = turn.clone();
        self.run_read(move |db| {
            // Only the last batch has `ended_at`, and it decides for the whole log.
            let sql = "SELECT l.frames FROM turn_log l JOIN sessions s ON s.key = l.session \
                       WHERE l.turn_id = ?1 AND s.id = ?2 AND NOT EXISTS \
                       (SELECT 1 FROM turn_log WHERE turn_id = ?1 AND ended_at < ?3) ORDER BY l.batch";
            let mut statement = db.prepare_cached(sql)?;
            let rows = statement
                .query_map(params![turn.as_str(), session.as_str(), since.as_millis()], |row| {
                    row.get::<_, Vec<u8>>(0)
                })?;
            rows.map(|frames| Ok(frames?.into())).collect()
        })
        .await
    }

    async fn delete_ended_logs(&self, ended_before: Timestamp) -> Result<u64> {
        self.run_background_write(move |db| {
            // A limited number, so that one call does not hold up the writer.
            let sql = "DELETE FROM turn_log WHERE turn_id IN \
                       (SELECT turn_id FROM turn_log WHERE ended_at IS NOT NULL AND ended_at < ?1 LIMIT 64)";
            Ok(db.prepare_cached(sql)?.execute([ended_before.as_millis()])? as u64)
        })
        .await
    }

    async fn record_heartbeat(&self, lease_holder: &LeaseHolder, now: Timestamp) -> Result<()> {
        let lease_holder = lease_holder.clone();
        self.run_background_write(move |db| {
            let sql = "INSERT OR REPLACE INTO instances VALUES (?1, ?2, ?3)";
            db.prepare_cached(sql)?.execute(params![
                lease_holder.instance,
                lease_holder.boot,
                now.as_millis()
            ])?;
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
        let boot = lease_holder.boot.clone();
        let running = running.clone();
        let find_claims = move |db: &Transaction<'_>| {
            let sql = "SELECT s.id, t.turn_id, t.reply_id, t.question_id, t.started_at, t.instance, t.boot FROM turns t \
                       JOIN sessions s ON s.key = t.session";
            let mut statement = db.prepare_cached(sql)?;
            let claims = statement.query_map([], |row| {
                let turn = ActiveTurn {
                    turn_id: TurnId::new_unchecked(row.get::<_, String>(1)?),
                    message_id: MessageId::new_unchecked(row.get::<_, String>(2)?),
                    user_message_id: Some(MessageId::new_unchecked(row.get::<_, String>(3)?)),
                    started_at: Timestamp::from_millis(row.get(4)?),
                };
                let lease_holder = LeaseHolder { instance: row.get(5)?, boot: row.get(6)? };
                Ok((SessionId::new_unchecked(row.get::<_, String>(0)?), turn, lease_holder))
            })?;
            let mut orphans = Vec::new();
            for claim in claims {
                let (session_id, turn, lease_holder) = claim?;
                // This process has locked the file, so all other holders of a claim are gone.
                if lease_holder.boot != boot || !running.contains(&turn.turn_id) {
                    let log = read_whole_log(db, &turn.turn_id)?;
                    let next_batch = u32::try_from(log.len()).unwrap_or(u32::MAX);
                    orphans.push(OrphanedTurn { session_id, turn, lease_holder, log, next_batch });
                }
            }
            Ok(orphans)
        };
        let mut orphans = self.run_read(find_claims).await?;
        self.retain_abandoned(&mut orphans, &lease_holder.boot);
        orphans.retain(|orphan| !skipped.contains(&orphan.turn.turn_id));
        Ok(orphans)
    }
}

impl SqliteStore {
    /// Keeps the turns of earlier boots, and those of this one that have had no task for
    /// [`ABANDONED_AFTER`]. The task of a turn that was claimed just now may be about to start.
    fn retain_abandoned(&self, orphans: &mut Vec<OrphanedTurn>, boot: &str) {
        let mut suspects = self.suspected_orphans.lock();
        // Turns that run after all, or have ended, are no longer suspected.
        suspects.retain(|turn, _| orphans.iter().any(|orphan| orphan.turn.turn_id == *turn));
        orphans.retain(|OrphanedTurn { turn, lease_holder, .. }| {
            let mut since = || *suspects.entry(turn.turn_id.clone()).or_insert_with(Instant::now);
            lease_holder.boot != boot || since().elapsed() >= ABANDONED_AFTER
        });
    }
}

/// A single process opens the file, so there is nothing remote to follow.
impl RelayStore for SqliteStore {}

impl FeedStore for SqliteStore {}

pub(super) fn read_whole_log(db: &Connection, turn: &TurnId) -> Result<Vec<Bytes>> {
    let sql = "SELECT frames FROM turn_log WHERE turn_id = ?1 ORDER BY batch";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([turn.as_str()], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|frames| Ok(frames?.into())).collect()
}

/// Writes the last batch of a turn's log, in the transaction that stores its reply.
pub(super) fn finish_log(
    db: &Connection,
    session: i64,
    turn: &TurnId,
    last: &LogBatch,
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO turn_log VALUES (?1, ?2, ?3, ?4, ?5)";
    db.prepare_cached(sql)?.execute(params![
        turn.as_str(),
        last.number,
        session,
        &*last.frames,
        now.as_millis()
    ])?;
    Ok(())
}
