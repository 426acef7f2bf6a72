//! The journal: writes the frames of running turns to the store's turn log, all turns together,
//! about every 150 ms. What a crash can take of a running reply is what came after the last flush.

use super::ChatService;
use super::hub::{ENDED_TTL, TurnBuffer};
use crate::clock;
use crate::domain::Timestamp;
use crate::store::TurnLogEntry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// How often the journal looks.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// How far the log of a turn may be behind, with few turns running …
const MIN_FLUSH_DELAY: Duration = Duration::from_millis(150);
/// … and with a thousand and more.
const MAX_FLUSH_DELAY: Duration = Duration::from_secs(1);
/// Batches that are written in one step, so that no step is long.
const MAX_BATCHES_PER_WRITE: usize = 64;
/// A store that stumbles is tried again after this long.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// How often old logs are dropped.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(10);

/// Wakes the journal when there is something to write.
#[derive(Default)]
pub(super) struct Journal {
    wakeup: Notify,
}

impl Journal {
    /// Says that a turn runs.
    pub(super) fn wake(&self) {
        self.wakeup.notify_one();
    }
}

impl ChatService {
    /// Keeps the turn log until told to stop.
    pub async fn run_journal(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.run_log_writer() => {}
            () = self.run_log_cleanup() => {}
        }
    }

    async fn run_log_writer(&self) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let buffers = self.hub.active_buffers();
            if buffers.is_empty() {
                self.journal.wakeup.notified().await;
            }
            ticks.tick().await;
            let delay = flush_delay(buffers.len());
            let mut batches = Vec::with_capacity(MAX_BATCHES_PER_WRITE);
            // A turn is taken just before it is written: its end waits for what is on its way.
            for buffer in buffers {
                batches.extend(take_log_entry(&buffer, delay).map(|entry| (entry, buffer)));
                if batches.len() == MAX_BATCHES_PER_WRITE {
                    self.write_batches(&batches).await;
                    batches.clear();
                }
            }
            if !batches.is_empty() {
                self.write_batches(&batches).await;
            }
        }
    }

    async fn write_batches(&self, batches: &[(TurnLogEntry, Arc<TurnBuffer>)]) {
        let entries: Vec<_> = batches.iter().map(|(entry, _)| entry.clone()).collect();
        // The ends of these turns wait for this, and could not be stored either.
        let lost = loop {
            match self.store.append_log(entries.clone()).await {
                Ok(lost) => break lost,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "writing the turn log again");
                    sleep(RETRY_DELAY).await;
                }
            }
        };
        for (_, buffer) in batches {
            if lost.contains(&buffer.turn_id) {
                // Its session was deleted, or this instance was silent too long and another one
                // has ended the turn.
                buffer.cancel.cancel();
            }
            buffer.finish_log_write();
        }
    }

    async fn run_log_cleanup(&self) {
        loop {
            sleep(CLEANUP_INTERVAL).await;
            let before = ended_cutoff();
            self.hub.evict_expired();
            loop {
                match self.store.delete_ended_logs(before).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(error = %error.chain(), "old turn logs could not be dropped");
                        break;
                    }
                }
            }
        }
    }
}

/// Turns that ended before this are past.
pub(super) fn ended_cutoff() -> Timestamp {
    let ttl = i64::try_from(ENDED_TTL.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(clock::now().as_millis() - ttl)
}

fn take_log_entry(buffer: &TurnBuffer, delay: Duration) -> Option<TurnLogEntry> {
    let batch = buffer.take_due_batch(delay)?;
    Some(TurnLogEntry {
        session_id: buffer.session_id.clone(),
        turn_id: buffer.turn_id.clone(),
        batch,
    })
}

/// How far behind the log may be: the more turns run, the further.
fn flush_delay(turns: usize) -> Duration {
    let scaled = Duration::from_millis(turns as u64);
    scaled.clamp(MIN_FLUSH_DELAY, MAX_FLUSH_DELAY)
}
