//! Deletes all data of a user, and sessions that have been idle for too long.

use super::ChatService;
use crate::clock;
use crate::domain::{Principal, Timestamp, TurnId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{DeleteFilter, DeletionResult};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// 9999-12-31T23:59:59.999Z, the last timestamp that has an RFC 3339 form.
const MAX_TIMESTAMP: Timestamp = Timestamp::from_millis(253_402_300_799_999);
const SESSIONS_PER_BATCH: u32 = 200;
const PROJECTS_PER_PAGE: u32 = 100;

impl ChatService {
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

    /// Deletes sessions that have been idle for longer than `age`, every `interval`, until `stop`
    /// is cancelled. Returns at once if `age` is `None`.
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
                    tracing::info!(sessions, messages, "deleted idle sessions");
                }
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "deleting idle sessions failed, retrying");
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
                // Checked again in the step: the session may have been used since it was listed.
                if let Some(deleted) = self.store.delete_if_inactive(id, since).await? {
                    self.on_session_deleted(id, &deleted).await;
                    total.add_counts(&deleted);
                    deleted_count += 1;
                }
            }
            // The remaining sessions have a running turn, or another instance is deleting them.
            if deleted_count == 0 {
                return Ok(total);
            }
        }
    }
}
