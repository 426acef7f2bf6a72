//! The journal: writes the frames of all running turns to the turn log, about every 150 ms. A crash
//! loses only what was published after the last flush.

use super::ChatService;
use super::hub::{ENDED_TTL, TurnBuffer};
use crate::clock;
use crate::domain::Timestamp;
use crate::error::ErrorKind;
use crate::store::TurnLogEntry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// Flush delay with up to 150 turns.
const MIN_FLUSH_DELAY: Duration = Duration::from_millis(150);
/// Flush delay with 1,000 turns or more.
const MAX_FLUSH_DELAY: Duration = Duration::from_secs(1);
/// Limits the size of one transaction, so that other writes are not delayed.
const MAX_BATCHES_PER_WRITE: usize = 64;
const RETRY_DELAY: Duration = Duration::from_millis(200);
const CLEANUP_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Journal {
    wakeup: Notify,
}

impl Journal {
    /// Wakes the writer when a turn starts.
    pub(super) fn wake(&self) {
        self.wakeup.notify_one();
    }
}

impl ChatService {
    /// Writes and cleans up the turn log until `stop` is cancelled.
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
            // An idle server does not poll: the next turn wakes this loop.
            if buffers.is_empty() {
                self.journal.wakeup.notified().await;
            }
            ticks.tick().await;
            let delay = flush_delay(buffers.len());
            let mut batches = Vec::with_capacity(MAX_BATCHES_PER_WRITE);
            // A batch is taken only right before it is written: from then on the end of its turn
            // has to wait for the write.
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
        // Retried without limit while the store is down: finishing these turns waits for this
        // write, and could not be stored either.
        let lost = loop {
            match self.store.append_log(entries.clone()).await {
                Ok(lost) => break lost,
                // Retrying would not help. These turns end with what they have so far.
                Err(error) if error.kind != ErrorKind::StoreUnavailable => {
                    tracing::error!(error = %error.chain(), "writing the turn log failed, ending turns");
                    break entries.iter().map(|entry| entry.turn_id.clone()).collect();
                }
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "writing the turn log failed, retrying");
                    sleep(RETRY_DELAY).await;
                }
            }
        };
        for (_, buffer) in batches {
            if lost.contains(&buffer.turn_id) {
                // The claim is gone: the session was deleted, or this instance missed its
                // heartbeats and another one has ended the turn. `finish_turn` finds out and logs
                // which of the two.
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
                // Each call deletes a limited number of batches, so that no transaction is long.
                match self.store.delete_ended_logs(before).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(error = %error.chain(), "deleting old turn logs failed");
                        break;
                    }
                }
            }
        }
    }
}

/// Logs of turns that ended before this time are no longer read. Equal to the lifetime of buffers
/// in the hub, so that every reader sees the same window.
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

/// One millisecond per turn, within the bounds: the write rate stays limited when many turns run.
fn flush_delay(turns: usize) -> Duration {
    let scaled = Duration::from_millis(turns as u64);
    scaled.clamp(MIN_FLUSH_DELAY, MAX_FLUSH_DELAY)
}
