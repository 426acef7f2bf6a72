//! Writes summaries in the background, one at a time per session. A failure is logged, and the next
//! turn tries again.

use super::ChatService;
use crate::domain::{CallKind, SessionId};
use crate::store::StartedTurn;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashSet;
use std::sync::Arc;

/// The sessions whose summary is being written.
#[derive(Clone, Default)]
pub(super) struct SummaryLocks(Arc<Mutex<HashSet<SessionId>>>);

impl ChatService {
    /// Starts a summary of the messages that will fall out of the prompt, if one is due and a
    /// summary model is configured.
    pub(super) fn maybe_summarize(self: &Arc<Self>, started: &StartedTurn) {
        let Some(model) = self.summary_model.clone() else { return };
        let session = started.session.clone();
        let last = started.turn.message_id.clone();
        let settings = started.options.clone().with_defaults(session.settings.clone());
        // Turns can end faster than a summary is written. Two summaries of the same messages would
        // cost twice.
        let Some(guard) = self.summary_locks.try_lock(&session.id) else { return };
        let chat = self.clone();
        let payer = started.payer.clone();
        self.spawn_background(&started.session, async move {
            let _guard = guard;
            let call = chat.background_call(CallKind::Summary, &session, &payer);
            let result =
                chat.memory.summarize_history(&call, &model, &session, &settings, &last).await;
            if let Err(error) = result {
                tracing::warn!(session.id = %session.id, error = %error.chain(), "writing a summary failed");
            }
        });
    }
}

impl SummaryLocks {
    /// `None` if a summary of the session is being written.
    fn try_lock(&self, session: &SessionId) -> Option<SummaryGuard> {
        let is_first = self.locked_sessions().insert(session.clone());
        is_first.then(|| SummaryGuard(self.clone(), session.clone()))
    }

    fn locked_sessions(&self) -> MutexGuard<'_, HashSet<SessionId>> {
        self.0.lock()
    }
}

/// Held while a summary is being written.
struct SummaryGuard(SummaryLocks, SessionId);

impl Drop for SummaryGuard {
    fn drop(&mut self) {
        self.0.locked_sessions().remove(&self.1);
    }
}
