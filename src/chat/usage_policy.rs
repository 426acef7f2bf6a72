//! The terms on which turns run: what they cost, what of it anybody may use, and how many run for one
//! user at a time in this process.

use super::ChatService;
use crate::domain::principal::AccessLevel;
use crate::domain::quota::{ModelPrice, Quota, QuotaUnit, UsagePayer, has_price, quota_key};
use crate::domain::{Principal, ProjectId, Session, Timestamp, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{quota_exceeded, quota_window};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What an operator says of it; by default nothing costs and nothing is limited.
#[derive(Debug, Clone, Default)]
pub struct UsagePolicy {
    /// What models cost: the first that fits counts.
    pub prices: Vec<ModelPrice>,
    /// What may be used.
    pub quotas: Arc<[Quota]>,
    /// The most turns of one user that run at the same time.
    pub max_concurrent_turns: Option<u32>,
}

/// How many turns run for each user.
#[derive(Debug, Default)]
pub(super) struct ConcurrencyLimiter {
    running: Arc<Mutex<HashMap<UserId, u32>>>,
}

/// The place of one turn, or of a request without a session, given back when this is dropped.
pub(super) struct ConcurrencyPermit {
    user: UserId,
    /// How many of the user's turns ran once this one had its place, itself included.
    count: u32,
    running: Arc<Mutex<HashMap<UserId, u32>>>,
}

impl ConcurrencyLimiter {
    /// A place for a turn of this user, however many run.
    pub(super) fn acquire(&self, user: &UserId) -> ConcurrencyPermit {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let count = running.entry(user.clone()).or_default();
        *count += 1;
        ConcurrencyPermit { user: user.clone(), count: *count, running: self.running.clone() }
    }
}

impl ConcurrencyPermit {
    /// Why a turn may not begin in this place. Errors: `rate_limited`.
    pub(super) fn check_limit(&self, max: Option<u32>) -> Option<Error> {
        let max = max.filter(|max| self.count > *max)?;
        let sentence = format!("{max} replies are being written for you; wait for one to end");
        Some(Error::limit_exceeded(ErrorKind::RateLimited, sentence, max, 1))
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.user);
            }
        }
    }
}

impl ChatService {
    /// The same with terms.
    #[must_use]
    pub fn with_policy(self, policy: UsagePolicy) -> Self {
        Self { usage_policy: policy, ..self }
    }

    /// Refuses a model whose use would cost nothing by the quota of money that applies. Errors:
    /// `invalid_request`.
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
        let message = "must be a model that has a price here, because a quota of money applies";
        Err(Error::invalid_field("model", message))
    }

    /// Refuses a turn that waited if its quota has been spent meanwhile. Errors: `quota_exceeded`.
    pub(super) async fn check_session_quotas(
        &self,
        payer: &UsagePayer,
        session: &Session,
        now: Timestamp,
    ) -> Result<()> {
        if self.usage_policy.quotas.is_empty() {
            return Ok(());
        }
        // Whoever reads a session books what its last step left to book: the turn that this one
        // waited for.
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
        assert!(limiter.running.lock().unwrap().is_empty());
    }
}
