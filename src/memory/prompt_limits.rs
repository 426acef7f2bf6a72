//! Remembers how long a prompt may be where a provider has refused a longer one, so that the next
//! turn does not send as much again.
//!
//! Servers often have a smaller context window than the model, and do not say so. A limit only
//! shrinks memory; it never refuses a message. Limits are kept in memory only, and only for a
//! while: the server may have been restarted with a larger window.

use super::Memory;
use super::budget::PromptBudget;
use crate::domain::SessionId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a limit is kept. After that one prompt is refused and retried again.
const LIMIT_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// More limits than this replace the oldest.
const MAX_LIMITS: usize = 256;

/// The prompts that a limit is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LimitScope {
    model: String,
    /// `None` for the model's prompts in all sessions.
    session: Option<SessionId>,
}

#[derive(Debug, Clone, Copy)]
struct PromptLimit {
    /// In counted tokens.
    max_tokens: u32,
    recorded_at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct PromptLimitTracker {
    limits: Mutex<HashMap<LimitScope, PromptLimit>>,
}

impl Memory {
    /// Limits the model's prompts to a size that the provider accepted after it had refused a
    /// longer prompt. `session` is the session to limit; `None` limits all sessions, for refusals
    /// that were certainly about the size.
    pub fn limit_prompts(&self, model: &str, session: Option<&SessionId>, counted_tokens: u32) {
        tracing::info!(
            model,
            session.id = session.map(SessionId::as_str),
            tokens = counted_tokens,
            "prompts limited to the size that the provider accepts"
        );
        self.prompt_limits.record_limit(model, session, counted_tokens);
    }

    /// Applies the limits of the model and the session to a budget.
    pub(super) fn apply_prompt_limits(&self, session: &SessionId, budget: &mut PromptBudget) {
        for session in [None, Some(session)] {
            if let Some(max_tokens) = self.prompt_limits.limit_of(&budget.model, session) {
                budget.limit_prompt(max_tokens);
            }
        }
    }
}

impl PromptLimitTracker {
    fn record_limit(&self, model: &str, session: Option<&SessionId>, max_tokens: u32) {
        let scope = LimitScope { model: model.to_owned(), session: session.cloned() };
        let mut limits = self.limits.lock();
        if limits.len() >= MAX_LIMITS && !limits.contains_key(&scope) {
            let oldest = limits.iter().min_by_key(|(_, limit)| limit.recorded_at);
            if let Some(oldest) = oldest.map(|(scope, _)| scope.clone()) {
                limits.remove(&oldest);
            }
        }
        limits.insert(scope, PromptLimit { max_tokens, recorded_at: Instant::now() });
    }

    fn limit_of(&self, model: &str, session: Option<&SessionId>) -> Option<u32> {
        let mut limits = self.limits.lock();
        if limits.is_empty() {
            return None;
        }
        let scope = LimitScope { model: model.to_owned(), session: session.cloned() };
        let limit = *limits.get(&scope)?;
        if limit.recorded_at.elapsed() > LIMIT_LIFETIME {
            limits.remove(&scope);
            return None;
        }
        Some(limit.max_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_separate_and_bounded() {
        let tracker = PromptLimitTracker::default();
        let session = SessionId::new_unchecked("s");
        tracker.record_limit("m", None, 3000);
        tracker.record_limit("m", Some(&session), 2000);
        tracker.record_limit("m", None, 1000);
        assert_eq!(tracker.limit_of("m", None), Some(1000));
        assert_eq!(tracker.limit_of("m", Some(&session)), Some(2000));
        assert_eq!(tracker.limit_of("other", None), None);
        for number in 0..1000 {
            tracker.record_limit(&format!("m{number}"), None, 500);
        }
        assert_eq!(tracker.limits.lock().len(), MAX_LIMITS);
        assert_eq!(
            (tracker.limit_of("m", None), tracker.limit_of("m999", None)),
            (None, Some(500))
        );
    }
}
