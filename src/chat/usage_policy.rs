//! Usage policy of turns: prices, quotas, and the limit on concurrent turns per user in this
//! process.

use super::ChatService;
use crate::domain::principal::AccessLevel;
use crate::domain::quota::{ModelPrice, Quota, QuotaUnit, UsagePayer, has_price, quota_key};
use crate::domain::{Principal, ProjectId, Session, Timestamp, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{quota_exceeded, quota_window};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Configured by the operator. The default has no prices and no limits.
#[derive(Debug, Clone, Default)]
pub struct UsagePolicy {
    /// The first entry that matches a model applies.
    pub prices: Vec<ModelPrice>,
    pub quotas: Arc<[Quota]>,
    /// Maximum concurrent turns per user; `None` for no limit.
    pub max_concurrent_turns: Option<u32>,
}

/// Counts the running turns of each user. In memory: each instance has its own counts.
#[derive(Debug, Default)]
pub(super) struct ConcurrencyLimiter {
    running: Arc<Mutex<HashMap<UserId, u32>>>,
}

/// Counts one turn, or one stateless call, as running until dropped.
pub(super) struct ConcurrencyPermit {
    user: UserId,
    /// The user's running turns at the time of acquisition, including this one.
    count: u32,
    running: Arc<Mutex<HashMap<UserId, u32>>>,
}

impl ConcurrencyLimiter {
    /// Never fails: the caller decides with [`ConcurrencyPermit::check_limit`], because a turn that
    /// will be queued or repeated needs no room.
    pub(super) fn acquire(&self, user: &UserId) -> ConcurrencyPermit {
        let mut running = self.running.lock();
        let count = running.entry(user.clone()).or_default();
        *count += 1;
        ConcurrencyPermit { user: user.clone(), count: *count, running: self.running.clone() }
    }
}

impl ConcurrencyPermit {
    /// Returns the error if this permit exceeds `max`. Errors: `rate_limited`.
    pub(super) fn check_limit(&self, max: Option<u32>) -> Option<Error> {
        let max = max.filter(|max| self.count > *max)?;
        let sentence =
            format!("{max} replies are already running for this user; wait for one to finish");
        Some(Error::limit_exceeded(ErrorKind::RateLimited, sentence, max, 1))
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        if let Some(count) = running.get_mut(&self.user) {
            *count -= 1;
            // Remove idle users, or the map would grow with every user ever seen.
            if *count == 0 {
                running.remove(&self.user);
            }
        }
    }
}

impl ChatService {
    #[must_use]
    pub fn with_policy(self, policy: UsagePolicy) -> Self {
        Self { usage_policy: policy, ..self }
    }

    /// Rejects a model without a price when a cost quota applies: its use would never count against
    /// that quota. Errors: `invalid_request`.
    pub(super) fn require_price(
        &self,
        model: &str,
        payer: &UsagePayer,
        owner: &UserId,
        project: Option<&ProjectId>,
    ) -> Result<()> {
        let is_money = |quota: &&Quota| quota.unit == QuotaUnit::Cost;
        let mut money = self.usage_policy.quotas.iter().filter(is_money);
        let applies = money.any(|quota| quota_key(quota.scope, payer, owner, project).is_some());
        if !applies || has_price(&self.usage_policy.prices, model) {
            return Ok(());
        }
        let message = "must be a model with a configured price, because a cost quota applies";
        Err(Error::invalid_field("model", message))
    }

    /// Checks the quotas of a call that was admitted earlier: a turn that was queued, or a
    /// background call. Errors: `quota_exceeded`.
    pub(super) async fn check_session_quotas(
        &self,
        payer: &UsagePayer,
        session: &Session,
        now: Timestamp,
    ) -> Result<()> {
        if self.usage_policy.quotas.is_empty() {
            return Ok(());
        }
        // A session's previous turn may still have usage pending in the store. Reading the session
        // applies it, so the check below includes the turn this one waited for.
        let server = Principal::server();
        self.store.get_session(&server, &session.id, AccessLevel::Participant).await?;
        self.check_quotas(payer, &session.owner, session.project_id.as_ref(), now).await
    }

    /// Errors: `quota_exceeded`.
    pub(super) async fn check_quotas(
        &self,
        payer: &UsagePayer,
        owner: &UserId,
        project: Option<&ProjectId>,
        now: Timestamp,
    ) -> Result<()> {
        for quota in self.usage_policy.quotas.iter() {
            let Some((key, since)) = quota_window(quota, payer, owner, project, now) else {
                continue;
            };
            if self.store.usage_total(&key, since).await?.is_exhausted(quota) {
                return Err(quota_exceeded(quota, now));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrency_permit_is_per_user_and_freed_on_drop() {
        let limiter = ConcurrencyLimiter::default();
        let (ann, ben) = (UserId::new_unchecked("ann"), UserId::new_unchecked("ben"));
        let (first, second) = (limiter.acquire(&ann), limiter.acquire(&ann));
        assert!(first.check_limit(Some(1)).is_none() && second.check_limit(Some(1)).is_some());
        assert!(
            second.check_limit(None).is_none()
                && limiter.acquire(&ben).check_limit(Some(1)).is_none()
        );
        drop((first, second));
        assert!(limiter.acquire(&ann).check_limit(Some(1)).is_none());
        assert!(limiter.running.lock().is_empty());
    }
}
