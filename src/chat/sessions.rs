//! What is done to sessions beside turns: stored, then said to those who listen.
//!
//! Each is carried through though whoever asked should leave in the middle, so that nothing is
//! stored of which nobody hears.

use super::ChatService;
use super::events::SessionEventKind;
use crate::domain::title::{SessionTitle, TitleSource};
use crate::domain::{Message, MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::Result;
use crate::store::{ImportOutcome, NewSession, PostMessage, ReadMarkUpdate};
use std::sync::Arc;

impl ChatService {
    /// Creates a session, or gives the one that its owner created under this id before. Whether it
    /// is new. Errors: `id_conflict`.
    pub async fn create_session(
        self: &Arc<Self>,
        who: &Principal,
        new: NewSession,
        now: Timestamp,
    ) -> Result<(Session, bool)> {
        let (chat, who) = (self.clone(), who.clone());
        self.run_to_completion(async move {
            let (session, is_new) = chat.store.create_session(&who, new, now).await?;
            if is_new {
                chat.events.publish(&session.id, SessionEventKind::Created);
            }
            Ok((session, is_new))
        })
        .await
    }

    /// Stores a message without a model. Errors: as of the store.
    pub async fn post_message(
        self: &Arc<Self>,
        who: &Principal,
        post: PostMessage,
    ) -> Result<(Message, Session)> {
        let (chat, who) = (self.clone(), who.clone());
        self.run_to_completion(async move {
            let id = post.message.id.clone();
            let (message, session) = chat.store.post_message(&who, post).await?;
            // A repetition is answered with the message that is there already.
            if message.id == id {
                chat.publish_message(&session, &message.id, &message.content);
            }
            Ok((message, session))
        })
        .await
    }

    /// Switches to the branch of a message. Errors: as of the store.
    pub async fn set_head(
        self: &Arc<Self>,
        who: &Principal,
        id: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        let (chat, who, id, message) = (self.clone(), who.clone(), id.clone(), message.clone());
        self.run_to_completion(async move {
            let session = chat.store.set_head(&who, &id, &message, now).await?;
            // The head may have been there already.
            if session.updated_at == now {
                chat.events.publish(&id, SessionEventKind::Changed);
            }
            Ok(session)
        })
        .await
    }

    /// Takes the head back to the message it stands under, if it is still `head` and no root. Whether
    /// it was. Errors: as of the store.
    pub async fn pop_head(
        self: &Arc<Self>,
        who: &Principal,
        id: &SessionId,
        head: &MessageId,
    ) -> Result<bool> {
        let (chat, who, id, head) = (self.clone(), who.clone(), id.clone(), head.clone());
        self.run_to_completion(async move {
            let moved = chat.store.pop_head(&who, &id, &head, crate::clock::now()).await?;
            if moved.is_some() {
                chat.events.publish(&id, SessionEventKind::Changed);
            }
            Ok(moved.is_some())
        })
        .await
    }

    /// Copies the path up to a message into a new session. Errors: as of the store.
    pub async fn fork_session(
        self: &Arc<Self>,
        who: &Principal,
        id: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        let (chat, who, id, message) = (self.clone(), who.clone(), id.clone(), message.clone());
        self.run_to_completion(async move {
            let session = chat.store.fork_session(&who, &id, &message, now).await?;
            chat.events.publish(&session.id, SessionEventKind::Created);
            Ok(session)
        })
        .await
    }

    /// Moves the caller's read mark forward. Errors: as of the store.
    pub async fn mark_seen(
        self: &Arc<Self>,
        who: &Principal,
        id: &SessionId,
        up_to: &MessageId,
    ) -> Result<ReadMarkUpdate> {
        let (chat, who, id, up_to) = (self.clone(), who.clone(), id.clone(), up_to.clone());
        self.run_to_completion(async move {
            let seen = chat.store.mark_seen(&who, &id, &up_to).await?;
            if seen.has_moved {
                chat.events.publish(&id, SessionEventKind::seen_up_to(&who.user, &seen.message_id));
            }
            Ok(seen)
        })
        .await
    }

    /// Says that a session was imported. Its messages are not told one by one.
    pub fn publish_import(&self, imported: &ImportOutcome) {
        let ImportOutcome { session_id, added_messages: messages, .. } = imported;
        self.events.publish(session_id, SessionEventKind::Imported { messages: *messages });
    }

    /// Says that a message was stored, and that it named its session if it did.
    pub(super) fn publish_message(&self, session: &Session, id: &MessageId, content: &str) {
        self.events.publish(&session.id, SessionEventKind::message_added(id));
        let is_named_after_it = session.title_source == TitleSource::Auto
            && SessionTitle::from_first_message(content)
                .is_some_and(|title| title.text == session.title);
        if is_named_after_it {
            self.events.publish(&session.id, SessionEventKind::Changed);
        }
    }
}
