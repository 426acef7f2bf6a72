//! What is deleted as a whole: all of a user's, and what has lain idle for too long.

use super::ChatService;
use crate::clock;
use crate::domain::{Principal, Timestamp, TurnId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{DeleteFilter, DeletionResult};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The last moment that can be told.
const MAX_TIMESTAMP: Timestamp = Timestamp::from_millis(253_402_300_799_999);
/// Sessions that a sweep looks for at once.
const SESSIONS_PER_BATCH: u32 = 200;
/// Projects that are listed at once.
const PROJECTS_PER_PAGE: u32 = 100;

impl ChatService {
    /// Deletes the caller's sessions and projects; their turns end. What went, and how many projects.
    pub async fn delete_user_data(
        self: &Arc<Self>,
        principal: &Principal,
    ) -> Result<(DeletionResult, u64)> {
        // Nobody else's, whatever the caller may do.
        let owner = Principal { is_admin: false, ..principal.clone() };
        let chat = self.clone();
        self.run_to_completion(async move {
            let mut projects = 0;
            loop {
                let page = chat.store.list_projects(&owner, 1, PROJECTS_PER_PAGE).await?;
                if page.projects.is_empty() {
                    break;
                }
                for project in page.projects {
                    match chat.store.delete_project(&owner, &project.id).await {
                        Ok(()) => projects += 1,
                        // Somebody else was faster.
                        Err(error) if error.kind == ErrorKind::ProjectNotFound => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            let all = DeleteFilter::InactiveSince(MAX_TIMESTAMP);
            let deleted = chat.delete_matching_sessions(&owner, all).await?;
            // Replies that were stopped may still be on their way to the ledger.
            chat.store.delete_usage(&owner.user, &TurnId::generate()).await?;
            Ok((deleted, projects))
        })
        .await
    }

    /// Deletes sessions that have been idle for longer than `age`, now and every `pause`, until told
    /// to stop.
    pub async fn run_retention(
        self: Arc<Self>,
        age: Option<Duration>,
        interval: Duration,
        stop: CancellationToken,
    ) {
        let Some(age) = age else { return };
        while !stop.is_cancelled() {
            match self.delete_idle_sessions(age, &stop).await {
                Ok(DeletionResult { sessions: 0, .. }) => {}
                Ok(DeletionResult { sessions, messages, .. }) => {
                    tracing::info!(sessions, messages, "idle sessions were deleted");
                }
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "idle sessions were not deleted");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(interval) => {}
            }
        }
    }

    async fn delete_idle_sessions(
        &self,
        age: Duration,
        stop: &CancellationToken,
    ) -> Result<DeletionResult, Error> {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let since = Timestamp::from_millis(clock::now().as_millis().saturating_sub(age));
        let mut total = DeletionResult::default();
        loop {
            let idle = self.store.list_inactive_sessions(since, SESSIONS_PER_BATCH).await?;
            let mut deleted_count = 0;
            for id in &idle {
                if stop.is_cancelled() {
                    return Ok(total);
                }
                if let Some(deleted) = self.store.delete_if_inactive(id, since).await? {
                    self.on_session_deleted(id, &deleted).await;
                    total.add_counts(&deleted);
                    deleted_count += 1;
                }
            }
            // What is left has a reply running, or another instance was faster.
            if deleted_count == 0 {
                return Ok(total);
            }
        }
    }
}
