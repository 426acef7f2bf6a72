//! What a crash leaves behind, put in order: turns whose server is gone become interrupted replies,
//! and turns that waited for them begin.

use super::Chat;
use super::transcript::{Ending, Transcript};
use crate::clock;
use crate::domain::message::Body;
use crate::domain::{MessageType, Role, Status, Usage, UserId};
use crate::error::Result;
use crate::memory::tokens;
use crate::store::{Batch, FinishTurn, Finished, NewMessage, Orphan, ReplyFields};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often, within a lease, an instance looks for those that are gone.
const LOOKS: u32 = 10;
/// Every which of these looks it says that it lives.
const BEAT: u64 = 2;

impl Chat {
    /// Says that this instance lives, ends the turns of those that do not, then begins those that
    /// wait in idle sessions. How many turns were cut off.
    pub async fn recover(self: &Arc<Self>) -> Result<usize> {
        self.store.beat(&self.claimant, clock::now()).await?;
        let count = self.end_orphans().await?;
        self.begin_waiting().await?;
        Ok(count)
    }

    async fn end_orphans(&self) -> Result<usize> {
        let orphans = self.store.orphaned_turns(&self.claimant, &self.hub.running_ids()).await?;
        let count = orphans.len();
        for orphan in orphans {
            self.end_orphan(orphan).await?;
        }
        Ok(count)
    }

    async fn begin_waiting(self: &Arc<Self>) -> Result<()> {
        // Taken before looking: a drain that begins now waits for the turns that begin here.
        let _token = self.turns.token();
        while !self.is_draining()
            && let Finished { next, passed_over } =
                self.store.begin_waiting(&self.claimant, clock::now()).await?
        {
            self.abort_waiting(&passed_over);
            let Some(begun) = next else { break };
            self.run(begun);
        }
        Ok(())
    }

    /// Says that this instance lives, and looks after those that do not, until told to stop.
    pub async fn keep_watch(self: Arc<Self>, lease: Duration, stop: CancellationToken) {
        for look in 1_u64.. {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(lease / LOOKS) => {}
            }
            // It lives as long as it says so in time; others look more often than that.
            let looked = match look % BEAT {
                0 => self.recover().await,
                _ => self.end_orphans().await,
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
    async fn end_orphan(&self, orphan: Orphan) -> Result<()> {
        let Orphan { session_id, turn, claimant, log, next_batch } = orphan;
        let mut transcript = Transcript::from_log(turn.turn_id.clone(), &log);
        transcript.end(Ending::Abort);
        let tokens = tokens::count_long(transcript.text()).await;
        let usage = Usage { completion_tokens: tokens.into(), estimated: true, ..Usage::default() };
        let body = Body {
            content: transcript.text().to_owned(),
            parts: transcript.parts(),
            kind: MessageType::Text,
        };
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
        let last_batch = Batch { number: next_batch, frames: transcript.take_frames().bytes };
        tracing::warn!(
            turn.id = %turn.turn_id,
            session.id = %session_id,
            instance = claimant.instance,
            "a reply was cut off: its server is gone"
        );
        let finish = FinishTurn {
            session_id: session_id.clone(),
            turn_id: turn.turn_id.clone(),
            claimant,
            reply,
            last_batch: (next_batch > 0).then_some(last_batch),
            take_next: None,
        };
        if self.store.finish_turn(finish).await?.is_some() {
            self.publish_reply(&session_id, &turn);
        }
        Ok(())
    }
}
