//! Deletes sessions that have been idle for too long, and what deleted sessions have left behind.

use super::ChatService;
use crate::clock;
use crate::domain::Timestamp;
use crate::error::Result;
use crate::limits;
use crate::store::DeletionResult;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const SESSIONS_PER_BATCH: u32 = 200;
/// How soon the content of a deleted session is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Sessions that a sweep may delete although they are a larger share, so that small installations
/// need not be told. Half of all must be left: if few are recent, the clock may be to blame.
const SMALL_SWEEP: u64 = 5;

/// Which idle sessions are deleted.
#[derive(Debug, Clone, Copy)]
pub struct RetentionPolicy {
    /// How long a session must have been idle.
    pub age: Duration,
    /// Share of all sessions that one sweep may delete, in percent; `None` for any.
    pub max_percent: Option<u32>,
}

impl ChatService {
    /// Deletes sessions that have been idle for too long, every `interval`, until `stop` is
    /// cancelled. Returns at once without a policy.
    pub async fn run_retention(
        self: Arc<Self>,
        policy: Option<RetentionPolicy>,
        interval: Duration,
        stop: CancellationToken,
    ) {
        let Some(policy) = policy else { return };
        while !stop.is_cancelled() {
            match self.delete_idle_sessions(policy, &stop).await {
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

    /// Whether the idle sessions are few enough to be deleted. A clock that is far ahead makes all
    /// sessions look idle.
    async fn is_sweep_allowed(&self, policy: RetentionPolicy, since: Timestamp) -> Result<bool> {
        let Some(percent) = policy.max_percent else { return Ok(true) };
        let sessions = self.store.count_sessions().await?;
        let small_sweep = SMALL_SWEEP.min(sessions / 2);
        let allowed = small_sweep.max(sessions.saturating_mul(percent.into()) / 100);
        let limit = u32::try_from(allowed).unwrap_or(u32::MAX).saturating_add(1);
        let idle = self.store.list_inactive_sessions(since, limit).await?.len() as u64;
        if idle <= allowed {
            return Ok(true);
        }
        limits::note_hit("retention", "server", allowed);
        tracing::warn!(
            sessions,
            allowed,
            "no idle sessions deleted, because retention would delete more than the allowed share of \
             all sessions at once: check the clock, or allow it with ECHOIC_RETENTION_LIMIT=off"
        );
        Ok(false)
    }

    /// Deletes the content of deleted sessions, and of imports and forks that were abandoned,
    /// until `stop` is cancelled.
    pub async fn run_sweeper(self: Arc<Self>, stop: CancellationToken) {
        let mut is_failing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(SWEEP_INTERVAL) => {}
            }
            while !stop.is_cancelled() {
                match self.store.sweep_remains().await {
                    // The words of the deleted messages stay in the index until it is merged.
                    Ok(true) => self.needs_index_merge.store(true, Ordering::Relaxed),
                    Ok(false) => {
                        is_failing = false;
                        break;
                    }
                    Err(error) => {
                        // Logged once per outage.
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::warn!(error = %error.chain(), "deleting content of deleted sessions failed, retrying");
                        }
                        break;
                    }
                }
            }
        }
    }

    async fn delete_idle_sessions(
        &self,
        policy: RetentionPolicy,
        stop: &CancellationToken,
    ) -> Result<DeletionResult> {
        let age = i64::try_from(policy.age.as_millis()).unwrap_or(i64::MAX);
        let since = Timestamp::from_millis(clock::now().as_millis().saturating_sub(age));
        let mut total = DeletionResult::default();
        if !self.is_sweep_allowed(policy, since).await? {
            return Ok(total);
        }
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
