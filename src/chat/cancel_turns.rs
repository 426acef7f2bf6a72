//! Cancels turns, and handles the changes that end turns: status changes and deletions.

use super::ChatService;
use super::events::SessionEventKind;
use crate::domain::principal::AccessLevel;
use crate::domain::{Principal, ProjectId, Session, SessionId, Timestamp, TurnId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{CancelledTurns, DeleteFilter, DeletionResult, ProjectUpdate, SessionUpdate};
use std::sync::Arc;
use std::sync::atomic::Ordering;
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

    /// Changes a session. Closing it or assigning a human agent cancels its turns.
    pub async fn change_session(
        self: &Arc<Self>,
        principal: &Principal,
        id: &SessionId,
        change: SessionUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Session> {
        let chat = self.clone();
        let principal = principal.clone();
        let id = id.clone();
        self.run_to_completion(async move {
            let ends_replies = change
                .status
                .as_ref()
                .is_some_and(|status| status.is_closed() || status.is_agent_assigned());
            let is_empty = change.is_empty();
            let session = chat.store.update_session(&principal, &id, change, if_match, now).await?;
            if !is_empty {
                chat.events.publish(&id, SessionEventKind::Changed);
            }
            // Cancelled after the change is committed: from then on no new turn can start, so none
            // can slip in between.
            if ends_replies && chat.cancel_session_turns(&id, None).await? {
                return chat.store.get_session(&principal, &id, AccessLevel::Participant).await;
            }
            Ok(session)
        })
        .await
    }

    /// Deletes a session and ends its turns.
    pub async fn delete_session(
        self: &Arc<Self>,
        principal: &Principal,
        id: &SessionId,
    ) -> Result<DeletionResult> {
        let chat = self.clone();
        let principal = principal.clone();
        let id = id.clone();
        self.run_to_completion(async move {
            let deleted = chat.store.delete_session(&principal, &id).await?;
            chat.on_session_deleted(&id, &deleted).await;
            Ok(deleted)
        })
        .await
    }

    /// Deletes the caller's own sessions that match `filter`, one step each, and ends their turns.
    pub async fn delete_sessions(
        self: &Arc<Self>,
        principal: &Principal,
        filter: DeleteFilter,
    ) -> Result<DeletionResult> {
        let chat = self.clone();
        let principal = principal.clone();
        self.run_to_completion(
            async move { chat.delete_matching_sessions(&principal, filter).await },
        )
        .await
    }

    /// Deletes a project with its sessions and ends their turns. `if_match` lists the accepted
    /// versions; empty accepts any.
    pub async fn delete_project(
        self: &Arc<Self>,
        principal: &Principal,
        id: &ProjectId,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<DeletionResult> {
        let chat = self.clone();
        let principal = principal.clone();
        let id = id.clone();
        self.run_to_completion(async move {
            // An empty update checks access and version without changing anything.
            let no_change = ProjectUpdate::default();
            let project =
                chat.store.update_project(&principal, &id, no_change, if_match, now).await?;
            let owner = Principal { user: project.owner, is_admin: false };
            // The project is deleted after its sessions: if the server crashes in between, the
            // client can repeat the request.
            let mut total = DeletionResult::default();
            let in_project = DeleteFilter::Project(id.clone());
            total.add_counts(&chat.delete_matching_sessions(&owner, in_project.clone()).await?);
            chat.store.delete_project(&principal, &id).await?;
            // Sessions created in the project while the first pass ran.
            total.add_counts(&chat.delete_matching_sessions(&owner, in_project).await?);
            Ok(total)
        })
        .await
    }

    pub(super) async fn delete_matching_sessions(
        &self,
        principal: &Principal,
        filter: DeleteFilter,
    ) -> Result<DeletionResult> {
        let mut total = DeletionResult::default();
        for id in self.store.list_owned_sessions(principal, filter).await? {
            match self.store.delete_session(principal, &id).await {
                Ok(deleted) => {
                    self.on_session_deleted(&id, &deleted).await;
                    total.add_counts(&deleted);
                }
                // Deleted concurrently.
                Err(error) if error.kind == ErrorKind::SessionNotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    /// Cancels the running turn and removes the queued ones. Returns whether there were any.
    async fn cancel_session_turns(
        &self,
        session: &SessionId,
        only: Option<&TurnId>,
    ) -> Result<bool> {
        let CancelledTurns { running, dequeued } =
            self.store.cancel_queued_turns(session, only).await?;
        // The step removed the queued turns and read the running one together, so no queued turn
        // can start after this.
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

    /// Cleans up after a deleted session: drops its cached memory, publishes the event, cancels its
    /// turns without waiting for them.
    pub(super) async fn on_session_deleted(&self, session: &SessionId, deleted: &DeletionResult) {
        self.memory.forget_session(session);
        // The words were deleted with the session, but the index may keep them in its segments
        // until it is merged.
        self.needs_index_merge.store(true, Ordering::Relaxed);
        self.events.publish(session, SessionEventKind::session_deleted(&deleted.participants));
        self.abort_queued(&deleted.turns);
        for turn in &deleted.turns {
            if let Err(error) = self.request_cancel(session, turn).await {
                // Harmless apart from the cost: the turn has lost its claim and cannot store its
                // reply.
                tracing::warn!(turn.id = %turn, error = %error.chain(), "cancelling a turn of a deleted session failed");
            }
        }
    }

    /// Runs `work` as its own task, so that it completes even if the client disconnects and this
    /// future is dropped. Used for writes followed by an event: the event must not be lost after
    /// the commit.
    pub(super) async fn run_to_completion<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        tokio::spawn(work).await.map_err(Error::internal)?
    }
}
