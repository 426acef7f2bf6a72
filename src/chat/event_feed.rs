//! Delivers events to subscribers, on this instance and others.
//!
//! Access is checked at delivery: the session is read again, so a removed participant gets no
//! further events and a new one starts to. Between instances events travel through the store: each
//! instance writes its own and, while it has subscribers, polls for those of the others. Events are
//! not replayed: a client receives all changes after its last `sync`.

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
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

const POLL_INTERVAL: Duration = Duration::from_millis(100);
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Maximum events per stored bundle.
const MAX_BUNDLE_EVENTS: usize = 500;
/// How long a session that was read for one event is used for the next ones: events are delivered
/// by the access of a moment ago.
const MAX_SESSION_AGE: Duration = Duration::from_millis(200);
/// How long shutdown waits for the last bundle to be written.
const FINAL_PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

impl ChatService {
    /// Subscribes to one session, or to all sessions in which the user participates. Errors:
    /// `session_not_found`.
    pub async fn subscribe_events(
        &self,
        principal: &Principal,
        session_filter: Option<SessionId>,
    ) -> Result<EventReader> {
        if let Some(id) = &session_filter {
            self.store.get_session(principal, id, AccessLevel::Participant).await?;
        }
        Ok(self.events.subscribe(principal.clone(), session_filter))
    }

    /// Delivers events until `stop` is cancelled, then ends all event streams.
    pub async fn run_event_feed(self: Arc<Self>, stop: CancellationToken) {
        let publishing = self.publish_remote_events(&stop);
        let dispatching = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.run_dispatch() => {}
            }
            self.events.close_all();
        };
        tokio::join!(publishing, dispatching);
    }

    async fn run_dispatch(&self) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Position in the feed of the other instances; `None` while there are no subscribers.
        let mut position: Option<FeedPosition> = None;
        loop {
            // Without subscribers the store is not polled. The position is fetched again for the
            // next one, since events in between need no delivery.
            if !self.events.has_subscribers() {
                position = None;
            }
            tokio::select! {
                () = self.events.wait_for_change() => {}
                _ = ticks.tick(), if position.is_some() => {}
            }
            let delivery = self.events.take_delivery();
            self.dispatch_notifications(&delivery.subscribers, delivery.notifications).await;
            if self.store.is_shared() {
                match &mut position {
                    Some(position) => {
                        self.poll_remote_events(&delivery.subscribers, position).await
                    }
                    None => position = Some(self.with_retry(|| self.store.feed_position()).await),
                }
            }
            // The `sync` comes last: when a client sees it, the position is known, so that events
            // from other instances after it are delivered.
            delivery.new_subscribers.iter().for_each(|subscriber| subscriber.push_sync());
        }
    }

    /// Delivers the events that other instances published since `position`.
    async fn poll_remote_events(
        &self,
        subscribers: &[Arc<SubscriberQueue>],
        position: &mut FeedPosition,
    ) {
        let own_boot = &self.lease_holder.boot;
        for EventBundle { boot, number, events: payload } in
            self.with_retry(|| self.store.read_events_after(position, own_boot)).await
        {
            let before = position.insert(boot, number);
            // Bundles are numbered without gaps. A gap means that bundles expired before they were
            // read, or could not be stored.
            let is_whole = before.is_none_or(|before| before + 1 == number);
            let notifications = serde_json::from_str(&payload).ok().filter(|_| is_whole);
            // Missing bundles, or bundles of another version, cannot be delivered: subscribers have
            // to reload.
            self.dispatch_notifications(
                subscribers,
                notifications.unwrap_or_else(|| vec![SessionNotification::Lost]),
            )
            .await;
        }
    }

    /// Retries `operation` while the store is unavailable: subscribers could not read anything
    /// meanwhile anyway. Any other error yields the default value.
    async fn with_retry<T, F>(&self, operation: impl Fn() -> F) -> T
    where
        T: Default,
        F: Future<Output = Result<T>>,
    {
        let mut is_failing = false;
        loop {
            match operation().await {
                Ok(value) => return value,
                Err(error) if error.kind != ErrorKind::StoreUnavailable => {
                    tracing::error!(error = %error.chain(), "delivering an event failed");
                    return T::default();
                }
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(error = %error.chain(), "store unavailable, retrying event delivery");
                }
                Err(_) => {}
            }
            sleep(RETRY_DELAY).await;
        }
    }

    async fn dispatch_notifications(
        &self,
        subscribers: &[Arc<SubscriberQueue>],
        notifications: Vec<SessionNotification>,
    ) {
        // One read per session and batch: a turn publishes several notifications in quick
        // succession.
        let mut sessions = HashMap::new();
        for notification in notifications {
            match notification {
                SessionNotification::Lost => {
                    subscribers.iter().for_each(|subscriber| subscriber.push_sync())
                }
                SessionNotification::Event { session, kind } => {
                    let matching = |subscriber: &&Arc<SubscriberQueue>| {
                        subscriber.session_filter.as_ref().is_none_or(|id| id.as_str() == session)
                    };
                    let matching: Vec<_> = subscribers.iter().filter(matching).cloned().collect();
                    if !matching.is_empty() {
                        self.dispatch_event(&matching, &session, kind, &mut sessions).await;
                    }
                }
            }
        }
    }

    async fn dispatch_event(
        &self,
        subscribers: &[Arc<SubscriberQueue>],
        id: &str,
        kind: SessionEventKind,
        sessions: &mut HashMap<String, (Instant, Option<Session>)>,
    ) {
        match kind {
            SessionEventKind::Deleted { audience } => {
                return dispatch_deletion(subscribers, id, &audience);
            }
            SessionEventKind::Left { user } => return dispatch_departure(subscribers, id, &user),
            _ => {}
        }
        if sessions.get(id).is_none_or(|(read_at, _)| read_at.elapsed() > MAX_SESSION_AGE) {
            let server = Principal::server();
            let read_at = Instant::now();
            let found = self.with_retry(|| self.load_session(&server, id)).await;
            sessions.insert(id.to_owned(), (read_at, found));
        }
        let Some((_, Some(session))) = sessions.get(id) else { return };
        // A change may have taken the session away from some of them: events that a slow reader has
        // not read yet are dropped.
        if matches!(kind, SessionEventKind::Changed) {
            subscribers
                .iter()
                .filter(|subscriber| !can_receive(subscriber, session, &kind))
                .for_each(|subscriber| subscriber.drop_session(&session.id));
        }
        let receivers = subscribers.iter().filter(|one| can_receive(one, session, &kind));
        let (with_own_view, others): (Vec<_>, Vec<_>) =
            receivers.partition(|subscriber| has_own_view(subscriber, session, &kind));
        if !others.is_empty()
            && let Some(event) = self.with_retry(|| self.build_event(session, &kind)).await
        {
            others.iter().for_each(|subscriber| match kind {
                SessionEventKind::Invited => subscriber.push_notice(event.clone()),
                _ => subscriber.push_event(&session.id, event.clone()),
            });
        }
        for subscriber in with_own_view {
            let viewed = self.with_retry(|| self.load_session(&subscriber.principal, id)).await;
            if let Some(session) = viewed
                && let Some(event) = self.with_retry(|| self.build_event(&session, &kind)).await
            {
                subscriber.push_event(&session.id, event);
            }
        }
    }

    /// The current session without its nodes, as in the lists of `principal`.
    async fn load_session(&self, principal: &Principal, id: &str) -> Result<Option<Session>> {
        let id = SessionId::new_unchecked(id);
        let found = self.store.get_session(principal, &id, AccessLevel::Participant).await;
        Ok(none_if_not_found(found)?.map(|session| Session { nodes: None, ..session }))
    }

    /// The event to send; `None` if its subject is gone.
    async fn build_event(
        &self,
        session: &Session,
        kind: &SessionEventKind,
    ) -> Result<Option<Bytes>> {
        let session_id = session.id.as_str();
        let of_session = |action| {
            ClientEvent::Session { action, session_id, session: Some(session) }.encode_sse()
        };
        let turn = |action, turn_id, message_id| {
            ClientEvent::Turn { action, session_id, turn_id, message_id }.encode_sse()
        };
        Ok(Some(match kind {
            SessionEventKind::Created => of_session("created"),
            SessionEventKind::Changed | SessionEventKind::Placed { .. } => of_session("changed"),
            SessionEventKind::Invited => {
                let session = session.clone().redact_for_invitee();
                ClientEvent::Session { action: "invited", session_id, session: Some(&session) }
                    .encode_sse()
            }
            // All messages of the session came with the import, so the session itself is new.
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
            SessionEventKind::Deleted { .. } | SessionEventKind::Left { .. } => return Ok(None),
        }))
    }

    /// Publishes the events of this instance to the others.
    async fn publish_remote_events(&self, stop: &CancellationToken) {
        let mut number = 0;
        while self.store.is_shared() {
            let outbox = tokio::select! {
                outbox = self.events.wait_for_outbox() => outbox,
                // Shutdown: publish what is left, once.
                () = stop.cancelled() => self.events.take_outbox(),
            };
            for notifications in outbox.chunks(MAX_BUNDLE_EVENTS) {
                let payload = serde_json::to_string(notifications).unwrap_or_default();
                let bundle =
                    EventBundle { boot: self.lease_holder.boot.clone(), number, events: payload };
                let publishing = self.with_retry(|| self.store.publish_events(&bundle));
                tokio::select! {
                    () = publishing => {}
                    () = async { stop.cancelled().await; sleep(FINAL_PUBLISH_TIMEOUT).await } => return,
                }
                // Counted even if the store rejected the bundle: a gap makes readers reload. A
                // retried write keeps its number, so a bundle is never delivered twice.
                number += 1;
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }
}

/// The session is gone, so access is checked against the users it had. Admins see its end only if
/// they subscribed to that session.
fn dispatch_deletion(subscribers: &[Arc<SubscriberQueue>], id: &str, audience: &[String]) {
    let event =
        ClientEvent::Session { action: "deleted", session_id: id, session: None }.encode_sse();
    let was_participant = |subscriber: &&Arc<SubscriberQueue>| {
        let user = subscriber.principal.user.as_str();
        audience.iter().any(|of| of == user)
            || subscriber.principal.is_admin && subscriber.session_filter.is_some()
    };
    let id = SessionId::new_unchecked(id);
    subscribers.iter().for_each(|subscriber| subscriber.drop_session(&id));
    let receivers = subscribers.iter().filter(was_participant);
    receivers.for_each(|subscriber| subscriber.push_notice(event.clone()));
}

/// Only the user who left is told. Their events of the session are dropped.
fn dispatch_departure(subscribers: &[Arc<SubscriberQueue>], id: &str, user: &str) {
    let event = ClientEvent::Session { action: "left", session_id: id, session: None }.encode_sse();
    let id = SessionId::new_unchecked(id);
    let of_user = |subscriber: &&Arc<SubscriberQueue>| subscriber.principal.user.as_str() == user;
    for subscriber in subscribers.iter().filter(of_user) {
        subscriber.drop_session(&id);
        subscriber.push_notice(event.clone());
    }
}

/// Whether a subscriber may receive an event of a session. A subscription to all sessions covers
/// only those in which the user participates, also for admins, and the invitations of the user.
fn can_receive(subscriber: &SubscriberQueue, session: &Session, kind: &SessionEventKind) -> bool {
    let mut principal = subscriber.principal.clone();
    match kind {
        SessionEventKind::Invited => {
            return subscriber.session_filter.is_none()
                && session.invited.contains(&principal.user);
        }
        SessionEventKind::Placed { user } if principal.user.as_str() != user => return false,
        _ => {}
    }
    principal.is_admin &= subscriber.session_filter.is_some();
    principal.authorize(AccessLevel::Participant, &session.owner, &session.participants)
        == AccessDecision::Allowed
}

/// Whether the event contains the session with the subscriber's own `archived` and `pinned`.
fn has_own_view(subscriber: &SubscriberQueue, session: &Session, kind: &SessionEventKind) -> bool {
    let user = &subscriber.principal.user;
    let is_with_session = matches!(
        kind,
        SessionEventKind::Created
            | SessionEventKind::Changed
            | SessionEventKind::Imported { .. }
            | SessionEventKind::Placed { .. }
    );
    is_with_session && *user != session.owner && session.participants.contains(user)
}

/// Maps not-found errors to `None`.
fn none_if_not_found<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error { kind: ErrorKind::SessionNotFound | ErrorKind::MessageNotFound, .. }) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
