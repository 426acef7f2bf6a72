//! Invitations and departures: each is stored, then published as an event.

use super::ChatService;
use super::events::SessionEventKind;
use crate::domain::{Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use std::sync::Arc;

impl ChatService {
    /// Makes an invited user a participant. Errors: those of the store.
    pub async fn accept_invitation(
        self: &Arc<Self>,
        principal: &Principal,
        id: &SessionId,
        now: Timestamp,
    ) -> Result<Session> {
        let chat = self.clone();
        let principal = principal.clone();
        let id = id.clone();
        self.run_to_completion(async move {
            let session = chat.store.accept_invitation(&principal, &id, now).await?;
            chat.events.publish(&id, SessionEventKind::Changed);
            Ok(session)
        })
        .await
    }

    /// Removes the caller from a session, or declines the invitation. Errors: those of the store.
    pub async fn leave_session(
        self: &Arc<Self>,
        principal: &Principal,
        id: &SessionId,
        now: Timestamp,
    ) -> Result<()> {
        let chat = self.clone();
        let principal = principal.clone();
        let id = id.clone();
        self.run_to_completion(async move {
            chat.store.leave_session(&principal, &id, now).await?;
            chat.events.publish(&id, SessionEventKind::left_by(&principal.user));
            chat.events.publish(&id, SessionEventKind::Changed);
            Ok(())
        })
        .await
    }

    pub(super) fn publish_invitations(&self, session: &Session) {
        if !session.invited.is_empty() {
            self.events.publish(&session.id, SessionEventKind::Invited);
        }
    }

    /// Tells the other clients of a user where the user has placed a session. Admins who do not
    /// participate place it for the owner.
    pub(super) fn publish_placement(&self, session: &Session, principal: &Principal) {
        let participates = session.participants.contains(&principal.user);
        let user = if participates { &principal.user } else { &session.owner };
        self.events.publish(&session.id, SessionEventKind::placed_by(user));
    }
}
