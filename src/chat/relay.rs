//! The relay: turns that other instances run, followed through the store's log by one poll for all
//! their readers here, and stops that other instances ask of this one.
//!
//! A reader elsewhere is a flush and a poll behind the instance that runs the turn. Nothing here
//! costs anything while nobody reads from afar and no turn runs.

use super::ChatService;
use super::frames::StreamCursor;
use super::hub::{TurnBuffer, TurnReader};
use super::transcript::abort_frames_after;
use crate::domain::principal::AccessLevel;
use crate::domain::turn::ActiveTurn;
use crate::domain::{Principal, SessionId};
use crate::error::{ErrorKind, Result};
use crate::store::{LogUpdate, RemoteTurn, RemoteTurnState};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// How often it looks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a reader who has read further than the log waits for the log.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

impl ChatService {
    /// Follows the turns of others, and stops what others want stopped, until told to stop.
    pub async fn run_relay(self: Arc<Self>, stop: CancellationToken) {
        if !self.store.is_shared() {
            return;
        }
        let mut look = interval(POLL_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fails = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
            }
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = self.poll_remote_turns() => looked,
            };
            match looked {
                Ok(()) => fails = false,
                // Said once: the next look comes soon.
                Err(error) if !std::mem::replace(&mut fails, true) => {
                    tracing::warn!(error = %error.chain(), "turns of other instances cannot be followed");
                }
                Err(_) => {}
            }
        }
    }

    async fn poll_remote_turns(&self) -> Result<()> {
        if self.hub.has_local_turns() {
            self.poll_cancellations().await?;
        }
        let followed = self.hub.followed_buffers();
        if followed.is_empty() { Ok(()) } else { self.apply_log_updates(&followed).await }
    }

    async fn poll_cancellations(&self) -> Result<()> {
        let asked = self.store.list_cancellations().await?;
        let ours =
            |turn: &_| self.hub.find_buffer(turn).filter(|live| live.remote_progress().is_none());
        let stopped: Vec<_> = asked.iter().filter_map(ours).collect();
        if stopped.is_empty() {
            return Ok(());
        }
        stopped.iter().for_each(|live| live.cancel.cancel());
        let turns: Vec<_> = stopped.iter().map(|live| live.turn_id.clone()).collect();
        self.store.delete_cancellations(&turns).await
    }

    /// A reader of a turn that another instance runs, behind the frame that `cursor` names.
    pub(super) async fn read_remote_turn(
        &self,
        session: &SessionId,
        turn: &ActiveTurn,
        cursor: Option<&StreamCursor>,
    ) -> Result<Option<TurnReader>> {
        let live = self.hub.open_remote_buffer(session, &turn.turn_id, &turn.message_id);
        self.apply_log_updates(std::slice::from_ref(&live)).await?;
        if let Some(cursor) = cursor.filter(|cursor| cursor.turn_id == live.turn_id) {
            // Who read at the instance that runs the turn may know more than the log.
            let _ = timeout(CATCH_UP_TIMEOUT, live.wait_for_frame(cursor.frame)).await;
            if live.last_frame() < cursor.frame {
                // What it has read was lost with its server: it hears how that ends, nothing twice.
                return Ok(Some(TurnReader::at_end(live)));
            }
        }
        Ok(TurnReader::after_cursor(live, cursor))
    }

    /// Publishes what came of these turns.
    async fn apply_log_updates(&self, turns: &[Arc<TurnBuffer>]) -> Result<()> {
        let followed = turns.iter().filter_map(|live| {
            let (session_id, turn_id) = (live.session_id.clone(), live.turn_id.clone());
            Some(RemoteTurn { session_id, turn_id, next_batch: live.remote_progress()?.next_batch })
        });
        let followed: Vec<_> = followed.collect();
        for LogUpdate { turn_id, batches, next_batch, state } in
            self.store.poll_remote_turns(followed.clone()).await?
        {
            let Some(live) = turns.iter().find(|live| live.turn_id == turn_id) else { continue };
            let from = followed.iter().find(|followed| followed.turn_id == turn_id);
            let Some(from) = from.map(|followed| followed.next_batch) else { continue };
            if !live.append_remote(&batches, from, next_batch) {
                continue;
            }
            if state == RemoteTurnState::Gone {
                let ending = match self.build_ending(live).await {
                    Ok(ending) => ending,
                    Err(error) => {
                        tracing::debug!(turn.id = %live.turn_id, error = %error.chain(), "its end comes later");
                        continue;
                    }
                };
                if !live.append_remote(&[ending], next_batch, next_batch + 1) {
                    continue;
                }
            }
            if state != RemoteTurnState::Open {
                self.hub.close_buffer(live);
            }
        }
        Ok(())
    }

    /// The end of a turn whose log does not tell of it: its reply, if it has one and nothing of it
    /// was told yet.
    async fn build_ending(&self, live: &TurnBuffer) -> Result<Bytes> {
        let aborted = || Ok(abort_frames_after(live.turn_id.clone(), live.last_frame()).bytes);
        let Some(remote) = live.remote_progress().filter(|_| live.last_frame() == 0) else {
            return aborted();
        };
        let server = Principal::server();
        let message = self.store.get_message(&server, &live.session_id, &remote.reply_id).await;
        let session =
            self.store.get_session(&server, &live.session_id, AccessLevel::Participant).await;
        let (reply, session) = match (message, session) {
            (Ok(reply), Ok(session)) => (reply, session),
            (Err(error), _) | (_, Err(error)) => {
                return match error.kind {
                    ErrorKind::MessageNotFound | ErrorKind::SessionNotFound => aborted(),
                    _ => Err(error),
                };
            }
        };
        self.replay_stored_reply(&session, live.turn_id.clone(), &reply).await
    }
}
