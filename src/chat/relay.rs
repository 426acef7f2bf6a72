//! The relay: follows turns of other instances through the turn log, with one poll for all readers
//! here, and applies cancellations requested by other instances.
//!
//! A remote reader lags by one flush and one poll. Without remote readers and running turns the
//! relay does not access the store.

use super::ChatService;
use super::empty_streams::abort_frames_after;
use super::frames::StreamCursor;
use super::hub::{TurnBuffer, TurnReader};
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

const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a reader that is ahead of the log waits for the log to catch up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

impl ChatService {
    /// Runs until `stop` is cancelled. Returns at once if the store is not shared.
    pub async fn run_relay(self: Arc<Self>, stop: CancellationToken) {
        if !self.store.is_shared() {
            return;
        }
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let polled = tokio::select! {
                () = stop.cancelled() => return,
                polled = self.poll_remote_turns() => polled,
            };
            match polled {
                Ok(()) => is_failing = false,
                // Logged once per outage: the next poll is 100 ms away.
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(error = %error.chain(), "polling turns of other instances failed, retrying");
                }
                Err(_) => {}
            }
        }
    }

    async fn poll_remote_turns(&self) -> Result<()> {
        // Only an instance with running turns can be asked to cancel one.
        if self.hub.has_local_turns() {
            self.poll_cancellations().await?;
        }
        let buffers = self.hub.followed_buffers();
        if buffers.is_empty() { Ok(()) } else { self.apply_log_updates(&buffers).await }
    }

    async fn poll_cancellations(&self) -> Result<()> {
        let cancellations = self.store.list_cancellations().await?;
        let find_local = |turn: &_| self.hub.find_buffer(turn).filter(|buffer| !buffer.is_remote());
        let cancelled: Vec<_> = cancellations.iter().filter_map(find_local).collect();
        if cancelled.is_empty() {
            return Ok(());
        }
        // Cancel before deleting the requests: if deleting fails, they are found and applied again,
        // which is harmless.
        cancelled.iter().for_each(|buffer| buffer.cancel.cancel());
        let turns: Vec<_> = cancelled.iter().map(|buffer| buffer.turn_id.clone()).collect();
        self.store.delete_cancellations(&turns).await
    }

    /// Reader for a turn that another instance runs, after the frame named by `cursor`.
    pub(super) async fn read_remote_turn(
        &self,
        session: &SessionId,
        turn: &ActiveTurn,
        cursor: Option<&StreamCursor>,
    ) -> Result<Option<TurnReader>> {
        let buffer = self.hub.open_remote_buffer(session, &turn.turn_id, &turn.message_id);
        self.apply_log_updates(std::slice::from_ref(&buffer)).await?;
        if let Some(cursor) = cursor.filter(|cursor| cursor.turn_id == buffer.turn_id) {
            // A client that was connected to the running instance may have seen frames that are not
            // in the log yet.
            let _ = timeout(CATCH_UP_TIMEOUT, buffer.wait_for_frame(cursor.frame)).await;
            if buffer.last_frame() < cursor.frame {
                // Those frames were lost in a crash. The client gets only the end of the turn;
                // replaying would repeat text it has seen.
                return Ok(Some(TurnReader::at_end(buffer)));
            }
        }
        Ok(TurnReader::after_cursor(buffer, cursor))
    }

    /// Fetches new log batches of these turns and publishes them.
    async fn apply_log_updates(&self, buffers: &[Arc<TurnBuffer>]) -> Result<()> {
        let remote_turns = buffers.iter().filter_map(|buffer| {
            let session_id = buffer.session_id.clone();
            let turn_id = buffer.turn_id.clone();
            Some(RemoteTurn {
                session_id,
                turn_id,
                next_batch: buffer.remote_progress()?.next_batch,
            })
        });
        let remote_turns: Vec<_> = remote_turns.collect();
        for LogUpdate { turn_id, batches, next_batch, state } in
            self.store.poll_remote_turns(remote_turns.clone()).await?
        {
            let Some(buffer) = buffers.iter().find(|buffer| buffer.turn_id == turn_id) else {
                continue;
            };
            let from = remote_turns.iter().find(|remote| remote.turn_id == turn_id);
            let Some(from) = from.map(|remote| remote.next_batch) else { continue };
            // Another poll was faster, or this instance has taken the turn over.
            if !buffer.append_remote(&batches, from, next_batch) {
                continue;
            }
            if state == RemoteTurnState::Gone {
                // The turn is over but its log does not contain the end. It was shorter than one
                // flush, or it was removed.
                let ending = match self.build_ending(buffer).await {
                    Ok(ending) => ending,
                    Err(error) => {
                        tracing::debug!(turn.id = %buffer.turn_id, error = %error.chain(), "reading the end of a remote turn failed, retrying");
                        continue;
                    }
                };
                if !buffer.append_remote(&[ending], next_batch, next_batch + 1) {
                    continue;
                }
            }
            if state != RemoteTurnState::Open {
                self.hub.close_buffer(buffer);
            }
        }
        Ok(())
    }

    /// Frames for a turn whose log has no end: its stored reply if no frame was published yet,
    /// otherwise an abort.
    async fn build_ending(&self, buffer: &TurnBuffer) -> Result<Bytes> {
        let aborted = || Ok(abort_frames_after(buffer.turn_id.clone(), buffer.last_frame()).bytes);
        let Some(remote) = buffer.remote_progress().filter(|_| buffer.last_frame() == 0) else {
            return aborted();
        };
        let server = Principal::server();
        // Replaying the whole reply is only correct for readers that have seen nothing, hence the
        // check for frame 0 above.
        let message = self.store.get_message(&server, &buffer.session_id, &remote.reply_id).await;
        let session =
            self.store.get_session(&server, &buffer.session_id, AccessLevel::Participant).await;
        let (reply, session) = match (message, session) {
            (Ok(reply), Ok(session)) => (reply, session),
            (Err(error), _) | (_, Err(error)) => {
                return match error.kind {
                    ErrorKind::MessageNotFound | ErrorKind::SessionNotFound => aborted(),
                    _ => Err(error),
                };
            }
        };
        self.replay_stored_reply(&session, buffer.turn_id.clone(), &reply).await
    }
}
