//! Summaries are written beside the turns, one at a time for each session. A failure is logged, and
//! the next turn tries again.

use super::ChatService;
use crate::domain::{CallKind, SessionId};
use crate::store::StartedTurn;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sessions that are being summed up.
#[derive(Clone, Default)]
pub(super) struct SummaryLocks(Arc<Mutex<HashSet<SessionId>>>);

impl ChatService {
    /// Sums up what the next turns of this turn's session will not be shown any more, if it is time
    /// for that and a model writes summaries.
    pub(super) fn maybe_summarize(self: &Arc<Self>, started: &StartedTurn) {
        let Some(model) = self.summary_model.clone() else { return };
        let session = started.session.clone();
        let last = started.turn.message_id.clone();
        let settings = started.options.clone().with_defaults(session.settings.clone());
        let Some(guard) = self.summary_locks.try_lock(&session.id) else { return };
        let chat = self.clone();
        let payer = started.payer.clone();
        tokio::spawn(async move {
            let _guard = guard;
            let call = chat.background_call(CallKind::Summary, &session, &payer);
            let result =
                chat.memory.summarize_history(&call, &model, &session, &settings, &last).await;
            if let Err(error) = result {
                tracing::warn!(session.id = %session.id, error = %error.chain(), "a summary could not be written");
            }
        });
    }
}

impl SummaryLocks {
    /// The right to sum a session up, unless somebody has it.
    fn try_lock(&self, session: &SessionId) -> Option<SummaryGuard> {
        let is_first = self.locked_sessions().insert(session.clone());
        is_first.then(|| SummaryGuard(self.clone(), session.clone()))
    }

    fn locked_sessions(&self) -> MutexGuard<'_, HashSet<SessionId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to sum a session up, until it is dropped.
struct SummaryGuard(SummaryLocks, SessionId);

impl Drop for SummaryGuard {
    fn drop(&mut self) {
        self.0.locked_sessions().remove(&self.1);
    }
}
