//! Ending a turn before its model does.

use super::Chat;
use crate::domain::principal::Access;
use crate::domain::{Principal, Session, SessionId, TurnId};
use crate::error::Result;
use std::time::Duration;
use tokio::time::timeout;

/// How long a stop waits until what the turn has said is stored.
const PATIENCE: Duration = Duration::from_secs(5);

impl Chat {
    /// Stops the session's running turn, or nothing if `turn_id` names another one. Comes back
    /// once what was said is stored. Whether anything was stopped.
    pub async fn stop(
        &self,
        who: &Principal,
        session: &SessionId,
        turn_id: Option<&TurnId>,
    ) -> Result<bool> {
        let session = self.store.session(who, session, Access::Participate).await?;
        let Some(turn) = session.active_turn else { return Ok(false) };
        if turn_id.is_some_and(|wanted| *wanted != turn.turn_id) {
            return Ok(false);
        }
        Ok(self.stop_turn(&turn.turn_id).await)
    }

    /// Stops the turn that runs in a session which no longer wants replies.
    pub async fn stop_in(&self, session: &Session) {
        if let Some(turn) = &session.active_turn {
            self.stop_turn(&turn.turn_id).await;
        }
    }

    /// Stops turns whose session is gone, without waiting for their ends.
    pub fn abandon(&self, turns: &[TurnId]) {
        for live in turns.iter().filter_map(|turn| self.hub.get(turn)) {
            live.stop.cancel();
        }
    }

    async fn stop_turn(&self, turn_id: &TurnId) -> bool {
        let Some(live) = self.hub.get(turn_id) else { return false };
        live.stop.cancel();
        let _ = timeout(PATIENCE, live.ended()).await;
        true
    }
}
