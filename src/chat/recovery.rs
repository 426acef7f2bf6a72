//! Recovers from crashes: turns of stopped instances become interrupted replies, and queued turns
//! start.
//!
//! Order matters in three places. The heartbeat comes first, because a shared store only reports
//! orphans to an instance that is alive. Orphans are ended before queued turns start, because a
//! session runs one turn at a time. The store takes the claim away before it returns an orphan, so
//! that a slow instance that comes back cannot write to the same turn.

use super::ChatService;
use super::transcript::{StreamEnd, Transcript};
use crate::clock;
use crate::domain::{Role, Status, Usage, UserId};
use crate::error::Result;
use crate::memory::tokens;
use crate::store::{FinishOutcome, FinishTurn, LogBatch, NewMessage, OrphanedTurn, ReplyFields};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Checks for orphaned turns per lease.
const CHECKS_PER_LEASE: u32 = 10;
/// Every n-th of these checks also starts queued turns.
const QUEUE_CHECK_EVERY: u64 = 2;
/// Heartbeats per lease: four may be lost before other instances take over.
const HEARTBEATS_PER_LEASE: u32 = 5;

impl ChatService {
    /// Sends a heartbeat, ends orphaned turns, then starts queued turns of idle sessions. Returns
    /// the number of turns that were ended.
    pub async fn recover_turns(self: &Arc<Self>) -> Result<usize> {
        self.store.record_heartbeat(&self.lease_holder, clock::now()).await?;
        let count = self.finish_orphaned_turns().await?;
        self.start_queued_turns().await?;
        Ok(count)
    }

    /// Ends orphaned turns, and returns how many. One that cannot be ended does not keep the others
    /// waiting; it is tried again at the next check. The store returns a limited number per call.
    async fn finish_orphaned_turns(&self) -> Result<usize> {
        let mut count = 0;
        let mut tried = HashSet::new();
        loop {
            // Read before each query: a turn that this instance claimed but does not run has lost
            // its task, or the response to its claim, and is an orphan as well.
            let running = self.hub.local_turn_ids();
            let find = self.store.find_orphaned_turns(&self.lease_holder, &running, &tried);
            let orphans = find.await?;
            if orphans.is_empty() {
                return Ok(count);
            }
            for orphan in orphans {
                let turn_id = orphan.turn.turn_id.clone();
                tried.insert(turn_id.clone());
                match self.finish_orphaned_turn(orphan).await {
                    Ok(()) => count += 1,
                    Err(error) => {
                        tracing::warn!(turn.id = %turn_id, error = %error.chain(), "ending an orphaned turn failed, retrying");
                    }
                }
            }
        }
    }

    async fn start_queued_turns(self: &Arc<Self>) -> Result<()> {
        // The token is taken before the drain check, so that a concurrent drain waits for turns
        // started here.
        let _token = self.turn_tasks.token();
        while !self.is_draining()
            && let FinishOutcome { next, skipped } =
                self.store.begin_queued_turn(&self.lease_holder, clock::now()).await?
        {
            self.end_skipped(&skipped);
            let Some(started) = next else { break };
            let permit = self.concurrency.acquire(&started.payer.user);
            self.spawn_turn(started, permit);
        }
        Ok(())
    }

    /// Sends heartbeats until `stop` is cancelled. A task of its own, so that slow recovery cannot
    /// delay a heartbeat.
    pub async fn run_heartbeat(self: Arc<Self>, lease: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(lease / HEARTBEATS_PER_LEASE) => {}
            }
            if let Err(error) = self.store.record_heartbeat(&self.lease_holder, clock::now()).await
            {
                tracing::warn!(error = %error.chain(), "heartbeat failed, retrying");
            }
        }
    }

    /// Ends orphaned turns and starts queued turns until `stop` is cancelled.
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
                    tracing::warn!(turns, "orphaned turns were stored as interrupted")
                }
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "orphaned-turn recovery failed, retrying")
                }
            }
        }
    }

    /// Stores the logged part of a reply as interrupted, under the id the reply would have had.
    async fn finish_orphaned_turn(&self, orphan: OrphanedTurn) -> Result<()> {
        let OrphanedTurn { session_id, turn, lease_holder, log, next_batch } = orphan;
        let mut transcript = Transcript::from_log(turn.turn_id.clone(), &log);
        // Readers that follow the log get the same end as after a normal cancellation.
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
        let instance = lease_holder.instance.clone();
        let mut finish = FinishTurn {
            session_id: session_id.clone(),
            turn_id: turn.turn_id.clone(),
            lease_holder,
            reply,
            // The answering model is not in the log, so the cost is unknown.
            cost: None,
            counts_toward_quota: !self.usage_policy.quotas.is_empty(),
            // Without a log no reader has seen a frame, so there is no stream to end.
            last_batch: (next_batch > 0).then_some(last_batch),
            // Queued turns are started by `start_queued_turns`, after all orphans.
            next_lease_holder: None,
        };
        // `None`: another instance has ended the turn, or the session was deleted.
        if self.finish_stored_turn(&mut finish).await?.is_some() {
            tracing::warn!(
                turn.id = %turn.turn_id,
                session.id = %session_id,
                instance,
                "orphaned turn stored as interrupted"
            );
            self.publish_turn_end(&session_id, &turn);
        }
        Ok(())
    }
}
