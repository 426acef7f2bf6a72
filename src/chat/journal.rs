//! The journal: writes the frames of running turns to the store's turn log, all turns together,
//! about every 150 ms. What a crash can take of a running reply is what came after the last flush.

use super::Chat;
use super::hub::{LINGER, LiveTurn};
use crate::clock;
use crate::domain::Timestamp;
use crate::store::TurnLogEntry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// How often the journal looks.
const LOOK: Duration = Duration::from_millis(25);
/// How far the log of a turn may be behind, with few turns running …
const BEHIND: Duration = Duration::from_millis(150);
/// … and with a thousand and more.
const FAR_BEHIND: Duration = Duration::from_secs(1);
/// Batches that are written in one step, so that no step is long.
const STEP: usize = 64;
/// A store that stumbles is tried again after this long.
const PAUSE: Duration = Duration::from_millis(200);
/// How often old logs are dropped.
const SWEEP: Duration = Duration::from_secs(10);

/// Wakes the journal when there is something to write.
#[derive(Default)]
pub(super) struct Journal {
    turns: Notify,
}

impl Journal {
    /// Says that a turn runs.
    pub(super) fn wake(&self) {
        self.turns.notify_one();
    }
}

impl Chat {
    /// Keeps the turn log until told to stop.
    pub async fn keep_journal(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.write_journal() => {}
            () = self.sweep_logs() => {}
        }
    }

    async fn write_journal(&self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let turns = self.hub.running();
            if turns.is_empty() {
                self.journal.turns.notified().await;
            }
            look.tick().await;
            let behind = patience(turns.len());
            let mut step = Vec::with_capacity(STEP);
            // A turn is taken just before it is written: its end waits for what is on its way.
            for live in turns {
                step.extend(entry(&live, behind).map(|entry| (entry, live)));
                if step.len() == STEP {
                    self.write_step(&step).await;
                    step.clear();
                }
            }
            if !step.is_empty() {
                self.write_step(&step).await;
            }
        }
    }

    async fn write_step(&self, step: &[(TurnLogEntry, Arc<LiveTurn>)]) {
        let entries: Vec<_> = step.iter().map(|(entry, _)| entry.clone()).collect();
        // The ends of these turns wait for this, and could not be stored either.
        let lost = loop {
            match self.store.append_log(entries.clone()).await {
                Ok(lost) => break lost,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "writing the turn log again");
                    sleep(PAUSE).await;
                }
            }
        };
        for (_, live) in step {
            if lost.contains(&live.turn) {
                // Its session was deleted, or this instance was silent too long and another one
                // has ended the turn.
                live.stop.cancel();
            }
            live.logged();
        }
    }

    async fn sweep_logs(&self) {
        loop {
            sleep(SWEEP).await;
            let before = lingering_since();
            self.hub.forget_the_oldest();
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
pub(super) fn lingering_since() -> Timestamp {
    let linger = i64::try_from(LINGER.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(clock::now().as_millis() - linger)
}

fn entry(live: &LiveTurn, behind: Duration) -> Option<TurnLogEntry> {
    let batch = live.unlogged(behind)?;
    Some(TurnLogEntry { session_id: live.session.clone(), turn_id: live.turn.clone(), batch })
}

/// How far behind the log may be: the more turns run, the further.
fn patience(turns: usize) -> Duration {
    let stretched = Duration::from_millis(turns as u64);
    stretched.clamp(BEHIND, FAR_BEHIND)
}
