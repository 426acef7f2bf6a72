//! Deletes sessions, projects and all data of a user; what runs in them ends.
//!
//! Each session is deleted in a transaction of its own, so a crash in the middle of many leaves a
//! state from which the same request continues.

use super::ChatService;
use super::events::SessionEventKind;
use crate::domain::{Principal, ProjectId, SessionId, Timestamp, TurnId};
use crate::error::{ErrorKind, Result};
use crate::store::{DeleteFilter, DeletionResult, ProjectUpdate};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// 9999-12-31T23:59:59.999Z, the last timestamp that has an RFC 3339 form.
const MAX_TIMESTAMP: Timestamp = Timestamp::from_millis(253_402_300_799_999);
const PROJECTS_PER_PAGE: u32 = 100;

impl ChatService {
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

    /// Deletes the caller's own sessions that match `filter`, one transaction each, and ends their
    /// turns.
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

    /// Deletes the caller's sessions, projects and usage lines, and ends their turns. Returns what
    /// was deleted, and the number of projects.
    pub async fn delete_user_data(
        self: &Arc<Self>,
        principal: &Principal,
    ) -> Result<(DeletionResult, u64)> {
        // Without admin rights, so that only data of the caller can be deleted.
        let owner = Principal { is_admin: false, ..principal.clone() };
        let chat = self.clone();
        self.run_to_completion(async move {
            let mut projects = 0;
            loop {
                // Always the first page: each pass deletes the projects that it lists.
                let page = chat.store.list_projects(&owner, 1, PROJECTS_PER_PAGE).await?;
                if page.projects.is_empty() {
                    break;
                }
                for project in page.projects {
                    match chat.store.delete_project(&owner, &project.id).await {
                        Ok(()) => projects += 1,
                        // Deleted concurrently.
                        Err(error) if error.kind == ErrorKind::ProjectNotFound => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            let all = DeleteFilter::InactiveSince(MAX_TIMESTAMP);
            let deleted = chat.delete_matching_sessions(&owner, all).await?;
            // Cancelled turns may record their usage after this. The new id marks the point in
            // time: entries of earlier turns are then added to the totals only.
            chat.store.delete_usage(&owner.user, &TurnId::generate()).await?;
            Ok((deleted, projects))
        })
        .await
    }

    /// Cleans up after a deleted session: drops its cached memory, publishes the event, cancels its
    /// turns without waiting for them.
    pub(super) async fn on_session_deleted(&self, session: &SessionId, deleted: &DeletionResult) {
        self.memory.forget_session(session);
        // The words were deleted with the session, but the index may keep them in its segments
        // until it is merged.
        self.needs_index_merge.store(true, Ordering::Relaxed);
        self.events.publish(session, SessionEventKind::session_deleted(&deleted.audience));
        self.abort_queued(&deleted.turns);
        for turn in &deleted.turns {
            if let Err(error) = self.request_cancel(session, turn).await {
                // Harmless apart from the cost: the turn has lost its claim and cannot store its
                // reply.
                tracing::warn!(turn.id = %turn, error = %error.chain(), "cancelling a turn of a deleted session failed");
            }
        }
        // Last, because a request to cancel needs the buffer. Readers do not wait for the turn to
        // notice, and it cannot be resumed.
        self.hub.cut_off_session(session, &deleted.turns);
    }
}
