//! Deletes sessions that have been idle for too long.

use super::ChatService;
use crate::clock;
use crate::domain::Timestamp;
use crate::error::Result;
use crate::store::DeletionResult;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const SESSIONS_PER_BATCH: u32 = 200;

impl ChatService {
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
    ) -> Result<DeletionResult> {
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
                // Checked again in the transaction: the session may have been used since it was
                // listed.
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
