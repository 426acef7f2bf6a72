//! Changes of sessions outside of turns: each is stored, then published as an event.
//!
//! They run to completion even if the client disconnects, so that no change is stored without its
//! event.

use super::ChatService;
use super::events::SessionEventKind;
use crate::domain::principal::AccessLevel;
use crate::domain::title::{SessionTitle, TitleSource};
use crate::domain::{Message, MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use crate::store::{ImportOutcome, NewSession, PostMessage, ReadMarkUpdate, SessionUpdate};
use std::sync::Arc;

impl ChatService {
    /// Creates a session, or returns the one that its owner created before under this id. Returns
    /// whether it is new. Errors: `id_conflict`.
    pub async fn create_session(
        self: &Arc<Self>,
        principal: &Principal,
        new: NewSession,
        now: Timestamp,
    ) -> Result<(Session, bool)> {
        let chat = self.clone();
        let principal = principal.clone();
        self.run_to_completion(async move {
            let (session, is_new) = chat.store.create_session(&principal, new, now).await?;
            if is_new {
                chat.events.publish(&session.id, SessionEventKind::Created);
                chat.publish_invitations(&session);
            }
            Ok((session, is_new))
        })
        .await
    }

    /// Stores a message without starting a turn. Errors: those of the store.
    pub async fn post_message(
        self: &Arc<Self>,
        principal: &Principal,
        post: PostMessage,
    ) -> Result<(Message, Session)> {
        let chat = self.clone();
        let principal = principal.clone();
        self.run_to_completion(async move {
            let id = post.message.id.clone();
            let (message, session) = chat.store.post_message(&principal, post).await?;
            // A retry returns the stored message, whose event was already published.
            if message.id == id {
                chat.publish_message(&session, &message.id, &message.content);
            }
            Ok((message, session))
        })
        .await
    }

    /// Switches to the branch that contains a message. Errors: those of the store.
    pub async fn set_head(
        self: &Arc<Self>,
        principal: &Principal,
        id: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        let chat = self.clone();
        let principal = principal.clone();
        let id = id.clone();
        let message = message.clone();
        self.run_to_completion(async move {
            let session = chat.store.set_head(&principal, &id, &message, now).await?;
            // The store leaves `updated_at` alone if the head does not change.
            if session.updated_at == now {
                chat.events.publish(&id, SessionEventKind::Changed);
            }
            Ok(session)
        })
        .await
    }

    /// Changes a session. Closing it or assigning a human agent cancels its turns.
    pub async fn change_session(
        self: &Arc<Self>,
        principal: &Principal,
        id: &SessionId,
        change: SessionUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Session> {
        let chat = self.clone();
        let principal = principal.clone();
        let id = id.clone();
        self.run_to_completion(async move {
            let ends_replies = change
                .status
                .as_ref()
                .is_some_and(|status| status.is_closed() || status.is_agent_assigned());
            let is_shared = change.changes_shared_fields();
            let is_placed = change.changes_placement();
            let has_participants = change.participants.is_some();
            let session = chat.store.update_session(&principal, &id, change, if_match, now).await?;
            if is_shared {
                chat.events.publish(&id, SessionEventKind::Changed);
            } else if is_placed {
                chat.publish_placement(&session, &principal);
            }
            if has_participants {
                chat.publish_invitations(&session);
            }
            // Cancelled after the change is committed: from then on no new turn can start, so none
            // can slip in between.
            if ends_replies && chat.cancel_session_turns(&id, None).await? {
                return chat.store.get_session(&principal, &id, AccessLevel::Participant).await;
            }
            Ok(session)
        })
        .await
    }

    /// Moves the head to its parent, if it is still `head` and not a root. Returns whether it
    /// moved. Errors: those of the store.
    pub async fn pop_head(
        self: &Arc<Self>,
        principal: &Principal,
        id: &SessionId,
        head: &MessageId,
    ) -> Result<bool> {
        let chat = self.clone();
        let principal = principal.clone();
        let id = id.clone();
        let head = head.clone();
        self.run_to_completion(async move {
            let moved = chat.store.pop_head(&principal, &id, &head, crate::clock::now()).await?;
            if moved.is_some() {
                chat.events.publish(&id, SessionEventKind::Changed);
            }
            Ok(moved.is_some())
        })
        .await
    }

    /// Copies the path up to a message into a new session. Errors: those of the store.
    pub async fn fork_session(
        self: &Arc<Self>,
        principal: &Principal,
        id: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        let chat = self.clone();
        let principal = principal.clone();
        let id = id.clone();
        let message = message.clone();
        self.run_to_completion(async move {
            let session = chat.store.fork_session(&principal, &id, &message, now).await?;
            chat.events.publish(&session.id, SessionEventKind::Created);
            Ok(session)
        })
        .await
    }

    /// Moves the caller's read mark forward. Errors: those of the store.
    pub async fn mark_seen(
        self: &Arc<Self>,
        principal: &Principal,
        id: &SessionId,
        up_to: &MessageId,
    ) -> Result<ReadMarkUpdate> {
        let chat = self.clone();
        let principal = principal.clone();
        let id = id.clone();
        let up_to = up_to.clone();
        self.run_to_completion(async move {
            let seen = chat.store.mark_seen(&principal, &id, &up_to).await?;
            // A client marks messages again whenever it shows them; only a change is worth an
            // event.
            if seen.has_moved {
                chat.events
                    .publish(&id, SessionEventKind::seen_up_to(&principal.user, &seen.message_id));
            }
            Ok(seen)
        })
        .await
    }

    /// Publishes an import as one event, not one per message.
    pub fn publish_import(&self, imported: &ImportOutcome) {
        let ImportOutcome { session_id, added_messages: messages, .. } = imported;
        self.events.publish(session_id, SessionEventKind::Imported { messages: *messages });
        self.events.publish(session_id, SessionEventKind::Invited);
    }

    /// Publishes a stored message, and a session change if the message gave the session its title.
    pub(super) fn publish_message(&self, session: &Session, id: &MessageId, content: &str) {
        self.events.publish(&session.id, SessionEventKind::message_added(id));
        let has_set_title = session.title_source == TitleSource::Auto
            && SessionTitle::from_first_message(content)
                .is_some_and(|title| title.text == session.title);
        if has_set_title {
            self.events.publish(&session.id, SessionEventKind::Changed);
        }
    }
}
