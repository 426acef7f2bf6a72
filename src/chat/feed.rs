//! The feed: carries events from where they happened to whoever listens, here and at other
//! instances.
//!
//! Every event is judged when it is handed out: the session is read anew, so a participant who was
//! removed hears no more and a new one begins to. Between instances events go through the store:
//! each writes what happens there, and one that has listeners reads what the others wrote, by one
//! poll for all of them. Nothing is replayed: a listener's `sync` says from when on everything is
//! heard.

use super::Chat;
use super::events::{Event, EventReader, Mailbox, Notice, What};
use crate::domain::principal::{AccessDecision, AccessLevel};
use crate::domain::{MessageId, Principal, Session, SessionId};
use crate::error::{Error, Kind, Result};
use crate::store::{EventBundle, FeedPosition};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// How often an instance with listeners looks what the others told.
const LOOK: Duration = Duration::from_millis(100);
/// A store that stumbles is tried again after this long.
const PAUSE: Duration = Duration::from_millis(200);
/// The most events that are told in one document.
const BUNDLE: usize = 500;
/// How long the last words of an instance may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Chat {
    /// The events of one session, or of all that `who` participates in, from now on. Errors:
    /// `session_not_found`.
    pub async fn events(&self, who: &Principal, only: Option<SessionId>) -> Result<EventReader> {
        if let Some(id) = &only {
            self.store.get_session(who, id, AccessLevel::Participant).await?;
        }
        Ok(self.events.listen(who.clone(), only))
    }

    /// Carries events until told to stop; then all who listen get the end of their streams.
    pub async fn keep_events(self: Arc<Self>, stop: CancellationToken) {
        let told = self.tell_others(&stop);
        let heard = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.hand_out() => {}
            }
            self.events.close();
        };
        tokio::join!(told, heard);
    }

    async fn hand_out(&self) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // How far the others were heard, while anybody listens here.
        let mut heard: Option<FeedPosition> = None;
        loop {
            if !self.events.has_listeners() {
                heard = None;
            }
            tokio::select! {
                () = self.events.stirred() => {}
                _ = look.tick(), if heard.is_some() => {}
            }
            let work = self.events.take_work();
            self.hand_to(&work.listeners, work.notices).await;
            if self.store.is_shared() {
                match &mut heard {
                    Some(heard) => self.hear_others(&work.listeners, heard).await,
                    None => heard = Some(self.persistently(|| self.store.feed_position()).await),
                }
            }
            work.coming.iter().for_each(|mailbox| mailbox.post_sync());
        }
    }

    /// Hands out what the others told since.
    async fn hear_others(&self, listeners: &[Arc<Mailbox>], heard: &mut FeedPosition) {
        let own = &self.claimant.boot;
        for EventBundle { boot, number, events: news } in
            self.persistently(|| self.store.read_events_after(heard, own)).await
        {
            let before = heard.insert(boot, number);
            let is_whole = before.is_none_or(|before| before + 1 == number);
            let notices = serde_json::from_str(&news).ok().filter(|_| is_whole);
            // What was told too long ago, or by another version, can only be read anew.
            self.hand_to(listeners, notices.unwrap_or_else(|| vec![Notice::Lost])).await;
        }
    }

    /// Asks the store until it answers: whoever listens can do nothing meanwhile, either. Nothing,
    /// where it cannot answer.
    async fn persistently<T, F>(&self, ask: impl Fn() -> F) -> T
    where
        T: Default,
        F: Future<Output = Result<T>>,
    {
        let mut fails = false;
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) if error.kind != Kind::StoreUnavailable => {
                    tracing::error!(error = %error.chain(), "an event could not be told");
                    return T::default();
                }
                Err(error) if !std::mem::replace(&mut fails, true) => {
                    tracing::warn!(error = %error.chain(), "events wait for the store");
                }
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
    }

    async fn hand_to(&self, listeners: &[Arc<Mailbox>], notices: Vec<Notice>) {
        let mut sessions = HashMap::new();
        for notice in notices {
            match notice {
                Notice::Lost => listeners.iter().for_each(|mailbox| mailbox.post_sync()),
                Notice::In { session, what } => {
                    let concerned = |mailbox: &&Arc<Mailbox>| {
                        mailbox.only.as_ref().is_none_or(|only| only.as_str() == session)
                    };
                    let concerned: Vec<_> = listeners.iter().filter(concerned).cloned().collect();
                    if !concerned.is_empty() {
                        self.hand_out_one(&concerned, &session, what, &mut sessions).await;
                    }
                }
            }
        }
    }

    async fn hand_out_one(
        &self,
        listeners: &[Arc<Mailbox>],
        id: &str,
        what: What,
        sessions: &mut HashMap<String, Option<Session>>,
    ) {
        if let What::Deleted { audience } = what {
            let event =
                Event::Session { action: "deleted", session_id: id, session: None }.encode();
            let had_it = |mailbox: &&Arc<Mailbox>| {
                let user = mailbox.who.user.as_str();
                audience.iter().any(|of| of == user)
                    || mailbox.who.is_admin && mailbox.only.is_some()
            };
            return listeners.iter().filter(had_it).for_each(|mailbox| mailbox.post(event.clone()));
        }
        if !sessions.contains_key(id) {
            let found = self.persistently(|| self.session_now(id)).await;
            sessions.insert(id.to_owned(), found);
        }
        let Some(Some(session)) = sessions.get(id) else { return };
        let hears: Vec<_> = listeners.iter().filter(|mailbox| may_hear(mailbox, session)).collect();
        if hears.is_empty() {
            return;
        }
        if let Some(event) = self.persistently(|| self.event(session, &what)).await {
            hears.iter().for_each(|mailbox| mailbox.post(event.clone()));
        }
    }

    /// The session as it is now, without its nodes, as in lists.
    async fn session_now(&self, id: &str) -> Result<Option<Session>> {
        let id = SessionId::trusted(id);
        let found =
            self.store.get_session(&Principal::server(), &id, AccessLevel::Participant).await;
        Ok(found_or_gone(found)?.map(|session| Session { nodes: None, ..session }))
    }

    /// The event as it is told; `None` if what it was about is gone.
    async fn event(&self, session: &Session, what: &What) -> Result<Option<Bytes>> {
        let session_id = session.id.as_str();
        let of_session =
            |action| Event::Session { action, session_id, session: Some(session) }.encode();
        let turn = |action, turn_id, message_id| {
            Event::Turn { action, session_id, turn_id, message_id }.encode()
        };
        Ok(Some(match what {
            What::Created => of_session("created"),
            What::Changed => of_session("changed"),
            What::Imported { messages } if *messages == u64::from(session.messages_count) => {
                of_session("created")
            }
            What::Imported { .. } => of_session("changed"),
            What::Started { turn: id, message } => turn("started", id, message),
            What::Ended { turn: id, message } => turn("ended", id, message),
            What::Seen { user, up_to } => Event::Seen { session_id, user_id: user, up_to }.encode(),
            What::Message { id } => {
                let id = MessageId::trusted(id.as_str());
                let found = self.store.get_message(&Principal::server(), &session.id, &id).await;
                let Some(message) = found_or_gone(found)? else { return Ok(None) };
                Event::Message { session_id, message: &message }.encode()
            }
            What::Deleted { .. } => return Ok(None),
        }))
    }

    /// Writes what happens here where the other instances find it.
    async fn tell_others(&self, stop: &CancellationToken) {
        let mut number = 0;
        while self.store.is_shared() {
            let untold = tokio::select! {
                untold = self.events.untold() => untold,
                () = stop.cancelled() => self.events.take_untold(),
            };
            for notices in untold.chunks(BUNDLE) {
                let news = serde_json::to_string(notices).unwrap_or_default();
                let told = EventBundle { boot: self.claimant.boot.clone(), number, events: news };
                let telling = self.persistently(|| self.store.publish_events(&told));
                tokio::select! {
                    () = telling => {}
                    () = async { stop.cancelled().await; sleep(LAST_WORDS).await } => return,
                }
                number += 1;
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }
}

/// Whether a listener may hear of a session. Who listens to all hears of those they participate in,
/// an administrator too.
fn may_hear(mailbox: &Mailbox, session: &Session) -> bool {
    let mut who = mailbox.who.clone();
    who.is_admin &= mailbox.only.is_some();
    who.authorize(AccessLevel::Participant, &session.owner, &session.participants)
        == AccessDecision::Allowed
}

/// What was found; `None` if it is gone.
fn found_or_gone<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error { kind: Kind::SessionNotFound | Kind::MessageNotFound, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
