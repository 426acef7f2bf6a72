//! What a crash leaves behind, put in order: turns whose server is gone become interrupted replies,
//! and turns that waited for them begin.

use super::Chat;
use super::transcript::{Ending, Transcript};
use crate::clock;
use crate::domain::{Role, Status, Usage, UserId};
use crate::error::Result;
use crate::memory::tokens;
use crate::store::{FinishOutcome, FinishTurn, LogBatch, NewMessage, OrphanedTurn, ReplyFields};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often, within a lease, an instance looks for those that are gone.
const LOOKS: u32 = 10;
/// Every which of these looks it looks for turns that wait, too.
const WAITING: u64 = 2;
/// How often, within a lease, an instance says that it lives.
const BEATS: u32 = 5;

impl Chat {
    /// Says that this instance lives, ends the turns of those that do not, then begins those that
    /// wait in idle sessions. How many turns were cut off.
    pub async fn recover(self: &Arc<Self>) -> Result<usize> {
        self.store.record_heartbeat(&self.claimant, clock::now()).await?;
        let count = self.end_orphans().await?;
        self.begin_waiting().await?;
        Ok(count)
    }

    /// However many there are, a store gives some of them at a time.
    async fn end_orphans(&self) -> Result<usize> {
        let mut count = 0;
        loop {
            let running = self.hub.running_ids();
            let orphans = self.store.find_orphaned_turns(&self.claimant, &running).await?;
            if orphans.is_empty() {
                return Ok(count);
            }
            for orphan in orphans {
                self.end_orphan(orphan).await?;
                count += 1;
            }
        }
    }

    async fn begin_waiting(self: &Arc<Self>) -> Result<()> {
        // Taken before looking: a drain that begins now waits for the turns that begin here.
        let _token = self.turns.token();
        while !self.is_draining()
            && let FinishOutcome { next, skipped: passed_over } =
                self.store.begin_queued_turn(&self.claimant, clock::now()).await?
        {
            self.abort_waiting(&passed_over);
            let Some(begun) = next else { break };
            let slot = self.slots.take(&begun.payer.user);
            self.run(begun, slot);
        }
        Ok(())
    }

    /// Says that this instance lives, until told to stop, whatever else it is busy with.
    pub async fn keep_alive(self: Arc<Self>, lease: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(lease / BEATS) => {}
            }
            if let Err(error) = self.store.record_heartbeat(&self.claimant, clock::now()).await {
                tracing::warn!(error = %error.chain(), "the store does not hear that this instance lives");
            }
        }
    }

    /// Looks after instances that do not live, and after turns that wait, until told to stop.
    pub async fn keep_watch(self: Arc<Self>, lease: Duration, stop: CancellationToken) {
        for look in 1_u64.. {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(lease / LOOKS) => {}
            }
            let looked = match self.end_orphans().await {
                Ok(_) if look % WAITING == 0 => self.begin_waiting().await.map(|()| 0),
                looked => looked,
            };
            match looked {
                Ok(0) => {}
                Ok(turns) => {
                    tracing::warn!(turns, "turns of a lost instance were cut off; they are kept")
                }
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "looking after lost turns failed")
                }
            }
        }
    }

    /// The reply becomes what the log holds of it.
    async fn end_orphan(&self, orphan: OrphanedTurn) -> Result<()> {
        let OrphanedTurn { session_id, turn, lease_holder: claimant, log, next_batch } = orphan;
        let mut transcript = Transcript::from_log(turn.turn_id.clone(), &log);
        transcript.end(Ending::Abort);
        let body = transcript.body();
        let tokens = tokens::count_tokens_async(&body.countable_text()).await;
        let usage = Usage { completion_tokens: tokens.into(), estimated: true, ..Usage::default() };
        let reply = NewMessage {
            id: turn.message_id.clone(),
            client_message_id: None,
            role: Role::Assistant,
            sender_id: UserId::assistant(),
            body,
            tokens,
            created_at: clock::now(),
            reply: ReplyFields {
                status: Status::Interrupted,
                usage: Some(usage),
                ..ReplyFields::default()
            },
        };
        let last_batch = LogBatch { number: next_batch, frames: transcript.take_frames().bytes };
        tracing::warn!(
            turn.id = %turn.turn_id,
            session.id = %session_id,
            instance = claimant.instance,
            "a reply was cut off: its server is gone"
        );
        let finish = FinishTurn {
            session_id: session_id.clone(),
            turn_id: turn.turn_id.clone(),
            lease_holder: claimant,
            reply,
            // Nobody knows which model it was.
            cost: None,
            counts_toward_quota: !self.terms.quotas.is_empty(),
            last_batch: (next_batch > 0).then_some(last_batch),
            next_lease_holder: None,
        };
        if self.store.finish_turn(finish).await?.is_some() {
            self.publish_reply(&session_id, &turn);
        }
        Ok(())
    }
}
