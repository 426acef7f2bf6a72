//! What a crash leaves behind, put in order: turns whose server is gone become interrupted replies,
//! and turns that waited for them begin.

use super::ChatService;
use super::transcript::{StreamEnd, Transcript};
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
const CHECKS_PER_LEASE: u32 = 10;
/// Every which of these looks it looks for turns that wait, too.
const QUEUE_CHECK_EVERY: u64 = 2;
/// How often, within a lease, an instance says that it lives.
const HEARTBEATS_PER_LEASE: u32 = 5;

impl ChatService {
    /// Says that this instance lives, ends the turns of those that do not, then begins those that
    /// wait in idle sessions. How many turns were cut off.
    pub async fn recover_turns(self: &Arc<Self>) -> Result<usize> {
        self.store.record_heartbeat(&self.lease_holder, clock::now()).await?;
        let count = self.finish_orphaned_turns().await?;
        self.start_queued_turns().await?;
        Ok(count)
    }

    /// However many there are, a store gives some of them at a time.
    async fn finish_orphaned_turns(&self) -> Result<usize> {
        let mut count = 0;
        loop {
            let running = self.hub.local_turn_ids();
            let orphans = self.store.find_orphaned_turns(&self.lease_holder, &running).await?;
            if orphans.is_empty() {
                return Ok(count);
            }
            for orphan in orphans {
                self.finish_orphaned_turn(orphan).await?;
                count += 1;
            }
        }
    }

    async fn start_queued_turns(self: &Arc<Self>) -> Result<()> {
        // Taken before looking: a drain that begins now waits for the turns that begin here.
        let _token = self.turn_tasks.token();
        while !self.is_draining()
            && let FinishOutcome { next, skipped } =
                self.store.begin_queued_turn(&self.lease_holder, clock::now()).await?
        {
            self.abort_queued(&skipped);
            let Some(started) = next else { break };
            let slot = self.concurrency.acquire(&started.payer.user);
            self.spawn_turn(started, slot);
        }
        Ok(())
    }

    /// Says that this instance lives, until told to stop, whatever else it is busy with.
    pub async fn run_heartbeat(self: Arc<Self>, lease: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(lease / HEARTBEATS_PER_LEASE) => {}
            }
            if let Err(error) = self.store.record_heartbeat(&self.lease_holder, clock::now()).await
            {
                tracing::warn!(error = %error.chain(), "the store does not hear that this instance lives");
            }
        }
    }

    /// Looks after instances that do not live, and after turns that wait, until told to stop.
    pub async fn run_recovery(self: Arc<Self>, lease: Duration, stop: CancellationToken) {
        for check in 1_u64.. {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(lease / CHECKS_PER_LEASE) => {}
            }
            let result = match self.finish_orphaned_turns().await {
                Ok(_) if check % QUEUE_CHECK_EVERY == 0 => {
                    self.start_queued_turns().await.map(|()| 0)
                }
                result => result,
            };
            match result {
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
    async fn finish_orphaned_turn(&self, orphan: OrphanedTurn) -> Result<()> {
        let OrphanedTurn { session_id, turn, lease_holder, log, next_batch } = orphan;
        let mut transcript = Transcript::from_log(turn.turn_id.clone(), &log);
        transcript.end_stream(StreamEnd::Abort);
        let body = transcript.message_body();
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
            instance = lease_holder.instance,
            "a reply was cut off: its server is gone"
        );
        let finish = FinishTurn {
            session_id: session_id.clone(),
            turn_id: turn.turn_id.clone(),
            lease_holder,
            reply,
            // Nobody knows which model it was.
            cost: None,
            counts_toward_quota: !self.usage_policy.quotas.is_empty(),
            last_batch: (next_batch > 0).then_some(last_batch),
            next_lease_holder: None,
        };
        if self.store.finish_turn(finish).await?.is_some() {
            self.publish_turn_end(&session_id, &turn);
        }
        Ok(())
    }
}
