//! The feed: carries events from where they happened to whoever listens, here and at other
//! instances.
//!
//! Every event is judged when it is handed out: the session is read anew, so a participant who was
//! removed hears no more and a new one begins to. Between instances events go through the store:
//! each writes what happens there, and one that has listeners reads what the others wrote, by one
//! poll for all of them. Nothing is replayed: a listener's `sync` says from when on everything is
//! heard.

use super::ChatService;
use super::events::{
    ClientEvent, EventReader, SessionEventKind, SessionNotification, SubscriberQueue,
};
use crate::domain::principal::{AccessDecision, AccessLevel};
use crate::domain::{MessageId, Principal, Session, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{EventBundle, FeedPosition};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// How often an instance with listeners looks what the others told.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// A store that stumbles is tried again after this long.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// The most events that are told in one document.
const MAX_BUNDLE_EVENTS: usize = 500;
/// How long the last words of an instance may take.
const FINAL_PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

impl ChatService {
    /// The events of one session, or of all that `who` participates in, from now on. Errors:
    /// `session_not_found`.
    pub async fn subscribe_events(
        &self,
        who: &Principal,
        only: Option<SessionId>,
    ) -> Result<EventReader> {
        if let Some(id) = &only {
            self.store.get_session(who, id, AccessLevel::Participant).await?;
        }
        Ok(self.events.subscribe(who.clone(), only))
    }

    /// Carries events until told to stop; then all who listen get the end of their streams.
    pub async fn run_event_feed(self: Arc<Self>, stop: CancellationToken) {
        let told = self.publish_remote_events(&stop);
        let heard = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.run_dispatch() => {}
            }
            self.events.close_all();
        };
        tokio::join!(told, heard);
    }

    async fn run_dispatch(&self) {
        let mut look = interval(POLL_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // How far the others were heard, while anybody listens here.
        let mut heard: Option<FeedPosition> = None;
        loop {
            if !self.events.has_subscribers() {
                heard = None;
            }
            tokio::select! {
                () = self.events.wait_for_change() => {}
                _ = look.tick(), if heard.is_some() => {}
            }
            let work = self.events.take_delivery();
            self.dispatch_notifications(&work.subscribers, work.notifications).await;
            if self.store.is_shared() {
                match &mut heard {
                    Some(heard) => self.poll_remote_events(&work.subscribers, heard).await,
                    None => heard = Some(self.with_retry(|| self.store.feed_position()).await),
                }
            }
            work.new_subscribers.iter().for_each(|mailbox| mailbox.push_sync());
        }
    }

    /// Hands out what the others told since.
    async fn poll_remote_events(
        &self,
        listeners: &[Arc<SubscriberQueue>],
        heard: &mut FeedPosition,
    ) {
        let own = &self.lease_holder.boot;
        for EventBundle { boot, number, events: news } in
            self.with_retry(|| self.store.read_events_after(heard, own)).await
        {
            let before = heard.insert(boot, number);
            let is_whole = before.is_none_or(|before| before + 1 == number);
            let notices = serde_json::from_str(&news).ok().filter(|_| is_whole);
            // What was told too long ago, or by another version, can only be read anew.
            self.dispatch_notifications(
                listeners,
                notices.unwrap_or_else(|| vec![SessionNotification::Lost]),
            )
            .await;
        }
    }

    /// Asks the store until it answers: whoever listens can do nothing meanwhile, either. Nothing,
    /// where it cannot answer.
    async fn with_retry<T, F>(&self, ask: impl Fn() -> F) -> T
    where
        T: Default,
        F: Future<Output = Result<T>>,
    {
        let mut fails = false;
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) if error.kind != ErrorKind::StoreUnavailable => {
                    tracing::error!(error = %error.chain(), "an event could not be told");
                    return T::default();
                }
                Err(error) if !std::mem::replace(&mut fails, true) => {
                    tracing::warn!(error = %error.chain(), "events wait for the store");
                }
                Err(_) => {}
            }
            sleep(RETRY_DELAY).await;
        }
    }

    async fn dispatch_notifications(
        &self,
        listeners: &[Arc<SubscriberQueue>],
        notices: Vec<SessionNotification>,
    ) {
        let mut sessions = HashMap::new();
        for notice in notices {
            match notice {
                SessionNotification::Lost => {
                    listeners.iter().for_each(|mailbox| mailbox.push_sync())
                }
                SessionNotification::Event { session, kind: what } => {
                    let concerned = |mailbox: &&Arc<SubscriberQueue>| {
                        mailbox.session_filter.as_ref().is_none_or(|only| only.as_str() == session)
                    };
                    let concerned: Vec<_> = listeners.iter().filter(concerned).cloned().collect();
                    if !concerned.is_empty() {
                        self.dispatch_event(&concerned, &session, what, &mut sessions).await;
                    }
                }
            }
        }
    }

    async fn dispatch_event(
        &self,
        listeners: &[Arc<SubscriberQueue>],
        id: &str,
        what: SessionEventKind,
        sessions: &mut HashMap<String, Option<Session>>,
    ) {
        if let SessionEventKind::Deleted { audience } = what {
            let event = ClientEvent::Session { action: "deleted", session_id: id, session: None }
                .encode_sse();
            let had_it = |mailbox: &&Arc<SubscriberQueue>| {
                let user = mailbox.principal.user.as_str();
                audience.iter().any(|of| of == user)
                    || mailbox.principal.is_admin && mailbox.session_filter.is_some()
            };
            return listeners
                .iter()
                .filter(had_it)
                .for_each(|mailbox| mailbox.push_event(event.clone()));
        }
        if !sessions.contains_key(id) {
            let found = self.with_retry(|| self.load_session(id)).await;
            sessions.insert(id.to_owned(), found);
        }
        let Some(Some(session)) = sessions.get(id) else { return };
        let hears: Vec<_> =
            listeners.iter().filter(|mailbox| can_receive(mailbox, session)).collect();
        if hears.is_empty() {
            return;
        }
        if let Some(event) = self.with_retry(|| self.build_event(session, &what)).await {
            hears.iter().for_each(|mailbox| mailbox.push_event(event.clone()));
        }
    }

    /// The session as it is now, without its nodes, as in lists.
    async fn load_session(&self, id: &str) -> Result<Option<Session>> {
        let id = SessionId::new_unchecked(id);
        let found =
            self.store.get_session(&Principal::server(), &id, AccessLevel::Participant).await;
        Ok(none_if_not_found(found)?.map(|session| Session { nodes: None, ..session }))
    }

    /// The event as it is told; `None` if what it was about is gone.
    async fn build_event(
        &self,
        session: &Session,
        what: &SessionEventKind,
    ) -> Result<Option<Bytes>> {
        let session_id = session.id.as_str();
        let of_session = |action| {
            ClientEvent::Session { action, session_id, session: Some(session) }.encode_sse()
        };
        let turn = |action, turn_id, message_id| {
            ClientEvent::Turn { action, session_id, turn_id, message_id }.encode_sse()
        };
        Ok(Some(match what {
            SessionEventKind::Created => of_session("created"),
            SessionEventKind::Changed => of_session("changed"),
            SessionEventKind::Imported { messages }
                if *messages == u64::from(session.messages_count) =>
            {
                of_session("created")
            }
            SessionEventKind::Imported { .. } => of_session("changed"),
            SessionEventKind::Started { turn: id, message } => turn("started", id, message),
            SessionEventKind::Ended { turn: id, message } => turn("ended", id, message),
            SessionEventKind::Seen { user, up_to } => {
                ClientEvent::Seen { session_id, user_id: user, up_to }.encode_sse()
            }
            SessionEventKind::Message { id } => {
                let id = MessageId::new_unchecked(id.as_str());
                let found = self.store.get_message(&Principal::server(), &session.id, &id).await;
                let Some(message) = none_if_not_found(found)? else { return Ok(None) };
                ClientEvent::Message { session_id, message: &message }.encode_sse()
            }
            SessionEventKind::Deleted { .. } => return Ok(None),
        }))
    }

    /// Writes what happens here where the other instances find it.
    async fn publish_remote_events(&self, stop: &CancellationToken) {
        let mut number = 0;
        while self.store.is_shared() {
            let untold = tokio::select! {
                untold = self.events.wait_for_outbox() => untold,
                () = stop.cancelled() => self.events.take_outbox(),
            };
            for notices in untold.chunks(MAX_BUNDLE_EVENTS) {
                let news = serde_json::to_string(notices).unwrap_or_default();
                let told =
                    EventBundle { boot: self.lease_holder.boot.clone(), number, events: news };
                let telling = self.with_retry(|| self.store.publish_events(&told));
                tokio::select! {
                    () = telling => {}
                    () = async { stop.cancelled().await; sleep(FINAL_PUBLISH_TIMEOUT).await } => return,
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
fn can_receive(mailbox: &SubscriberQueue, session: &Session) -> bool {
    let mut who = mailbox.principal.clone();
    who.is_admin &= mailbox.session_filter.is_some();
    who.authorize(AccessLevel::Participant, &session.owner, &session.participants)
        == AccessDecision::Allowed
}

/// What was found; `None` if it is gone.
fn none_if_not_found<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error { kind: ErrorKind::SessionNotFound | ErrorKind::MessageNotFound, .. }) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
