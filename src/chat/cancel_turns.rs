//! Cancels running and queued turns, on this instance or another.

use super::ChatService;
use crate::domain::principal::AccessLevel;
use crate::domain::{Principal, SessionId, TurnId};
use crate::error::{ErrorKind, Result};
use crate::store::CancelledTurns;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long a cancel request waits for the partial reply to be stored.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// Poll interval for the end of a turn of another instance.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl ChatService {
    /// Cancels the running turn of a session and removes its queued turns; does nothing if
    /// `turn_id` names another turn. Returns after the partial reply is stored, and whether
    /// anything was cancelled.
    pub async fn cancel_turns(
        self: &Arc<Self>,
        principal: &Principal,
        session: &SessionId,
        turn_id: Option<&TurnId>,
    ) -> Result<bool> {
        let session =
            self.store.get_session(principal, session, AccessLevel::Participant).await?.id;
        let chat = self.clone();
        let turn_id = turn_id.cloned();
        self.run_to_completion(async move {
            chat.cancel_session_turns(&session, turn_id.as_ref()).await
        })
        .await
    }

    /// Cancels the running turn and removes the queued ones. Returns whether there were any.
    pub(super) async fn cancel_session_turns(
        &self,
        session: &SessionId,
        only: Option<&TurnId>,
    ) -> Result<bool> {
        let CancelledTurns { running, dequeued } =
            self.store.cancel_queued_turns(session, only).await?;
        // The transaction removed the queued turns and read the running one together, so no queued
        // turn can start after this.
        self.abort_queued(&dequeued);
        let Some(turn) = running else { return Ok(!dequeued.is_empty()) };
        let is_cancellable = self.request_cancel(session, &turn).await?;
        // A timeout is not an error: the turn is cancelled and will end on its own.
        let _ = timeout(CANCEL_TIMEOUT, self.wait_until_turn_ended(session, &turn)).await;
        Ok(is_cancellable || !dequeued.is_empty())
    }

    /// Cancels a running turn, or asks the instance that runs it to. Returns `false` if no instance
    /// can be asked.
    pub(super) async fn request_cancel(&self, session: &SessionId, turn: &TurnId) -> Result<bool> {
        match self.hub.find_session_buffer(session, turn).filter(|buffer| !buffer.is_remote()) {
            Some(buffer) => buffer.cancel.cancel(),
            None if self.store.is_shared() => self.store.request_cancellation(turn).await?,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Waits until a turn has ended and its reply is stored. The caller sets the deadline.
    async fn wait_until_turn_ended(&self, session: &SessionId, turn: &TurnId) {
        if let Some(buffer) =
            self.hub.find_session_buffer(session, turn).filter(|buffer| !buffer.is_remote())
        {
            return buffer.wait_until_ended().await;
        }
        let server = Principal::server();
        while self.store.is_shared() {
            sleep(POLL_INTERVAL).await;
            match self.store.get_session(&server, session, AccessLevel::Participant).await {
                Ok(session)
                    if session
                        .active_turn
                        .as_ref()
                        .is_some_and(|active| active.turn_id == *turn) => {}
                // Transient: keep polling until the deadline.
                Err(error) if error.kind == ErrorKind::StoreUnavailable => {}
                Ok(_) | Err(_) => return,
            }
        }
    }
}
