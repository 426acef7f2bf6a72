//! Events: what happens to sessions, handed to whoever listens in this process.
//!
//! Whoever commits something says so with [`EventBroker::publish`], which waits for nobody and costs a
//! look at a lock while nobody listens. `feed.rs` takes what was published, reads the session and
//! the message it is about, and puts the event into the mailbox of each listener who may see them.
//! A mailbox is bounded: one that overflows is emptied and holds a new `sync` instead.

use crate::clock;
use crate::domain::{Message, MessageId, Principal, Session, SessionId, Timestamp, TurnId, UserId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The most bytes and events that wait for a listener …
const MAX_QUEUED_BYTES: usize = 1 << 20;
/// … to read them.
const MAX_QUEUED_EVENTS: usize = 1024;
/// The most notices that wait to be handed on.
const MAX_PENDING_NOTIFICATIONS: usize = 10_000;

/// Something that happened, as one instance tells another: what it is about, not how it looks now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum SessionNotification {
    /// In a session.
    #[serde(rename = "In")]
    Event {
        session: String,
        #[serde(rename = "what")]
        kind: SessionEventKind,
    },
    /// More than could be told.
    Lost,
}

/// What happened in a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum SessionEventKind {
    Created,
    Changed,
    /// So many messages came with it.
    Imported {
        messages: u64,
    },
    /// It had these users.
    Deleted {
        audience: Vec<String>,
    },
    Message {
        id: String,
    },
    Started {
        turn: String,
        message: String,
    },
    Ended {
        turn: String,
        message: String,
    },
    Seen {
        user: String,
        up_to: String,
    },
}

impl SessionEventKind {
    pub(super) fn session_deleted(audience: &[UserId]) -> Self {
        Self::Deleted { audience: audience.iter().map(ToString::to_string).collect() }
    }

    pub(super) fn message_added(id: &MessageId) -> Self {
        Self::Message { id: id.to_string() }
    }

    pub(super) fn turn_started(turn: &TurnId, message: &MessageId) -> Self {
        Self::Started { turn: turn.to_string(), message: message.to_string() }
    }

    pub(super) fn turn_ended(turn: &TurnId, message: &MessageId) -> Self {
        Self::Ended { turn: turn.to_string(), message: message.to_string() }
    }

    pub(super) fn seen_up_to(user: &UserId, up_to: &MessageId) -> Self {
        Self::Seen { user: user.to_string(), up_to: up_to.to_string() }
    }
}

/// An event as a listener reads it.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum ClientEvent<'a> {
    Sync {
        at: Timestamp,
    },
    Session {
        action: &'static str,
        session_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        session: Option<&'a Session>,
    },
    Message {
        session_id: &'a str,
        message: &'a Message,
    },
    Turn {
        action: &'static str,
        session_id: &'a str,
        turn_id: &'a str,
        message_id: &'a str,
    },
    Seen {
        session_id: &'a str,
        user_id: &'a str,
        up_to: &'a str,
    },
}

impl ClientEvent<'_> {
    const fn event_name(&self) -> &'static str {
        match self {
            Self::Sync { .. } => "sync",
            Self::Session { .. } => "session",
            Self::Message { .. } => "message",
            Self::Turn { .. } => "turn",
            Self::Seen { .. } => "seen",
        }
    }

    /// The event on the wire.
    pub(super) fn encode_sse(&self) -> Bytes {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("event: {}\ndata: {json}\n\n", self.event_name()).into()
    }
}

fn encode_sync_event() -> Bytes {
    ClientEvent::Sync { at: clock::now() }.encode_sse()
}

/// What happened and who listens.
pub(super) struct EventBroker {
    /// Whether other instances want to hear it, too.
    is_shared: bool,
    state: Mutex<BrokerState>,
    /// Something was published, or somebody came to listen.
    changed: Notify,
    /// Something is to be told to other instances.
    outbox_changed: Notify,
}

#[derive(Default)]
struct BrokerState {
    /// For the listeners here.
    notifications: Vec<SessionNotification>,
    /// For other instances.
    outbox: Vec<SessionNotification>,
    subscribers: Vec<Arc<SubscriberQueue>>,
    /// Those who wait for their first `sync`.
    new_subscribers: Vec<Arc<SubscriberQueue>>,
    is_closed: bool,
}

/// What there is to do for the listeners of this process.
pub(super) struct DeliveryBatch {
    /// What happened.
    pub(super) notifications: Vec<SessionNotification>,
    /// Who hears of it.
    pub(super) subscribers: Vec<Arc<SubscriberQueue>>,
    /// Who came meanwhile, and hears what happens from their `sync` on.
    pub(super) new_subscribers: Vec<Arc<SubscriberQueue>>,
}

impl EventBroker {
    pub(super) fn new(is_shared: bool) -> Self {
        Self {
            is_shared,
            state: Mutex::default(),
            changed: Notify::new(),
            outbox_changed: Notify::new(),
        }
    }

    /// Says that something has happened in a session: after the commit that holds it.
    pub(super) fn publish(&self, session: &SessionId, kind: SessionEventKind) {
        let mut state = lock(&self.state);
        let has_subscribers = !state.subscribers.is_empty() || !state.new_subscribers.is_empty();
        if !has_subscribers && !self.is_shared {
            return;
        }
        let notification = SessionNotification::Event { session: session.to_string(), kind };
        if self.is_shared {
            push_bounded(&mut state.outbox, notification.clone());
            self.outbox_changed.notify_one();
        }
        if has_subscribers {
            push_bounded(&mut state.notifications, notification);
            self.changed.notify_one();
        }
    }

    /// Somebody listens, to one session or to all that they participate in.
    pub(super) fn subscribe(
        &self,
        principal: Principal,
        session_filter: Option<SessionId>,
    ) -> EventReader {
        let subscriber = Arc::new(SubscriberQueue {
            principal,
            session_filter,
            queue: Mutex::default(),
            changed: Notify::new(),
        });
        let mut state = lock(&self.state);
        if state.is_closed {
            subscriber.close();
        } else {
            state.new_subscribers.push(subscriber.clone());
            self.changed.notify_one();
        }
        EventReader { queue: subscriber }
    }

    /// Waits until there is something to do for listeners.
    pub(super) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }

    /// Whether anybody listens; forgets those who have left.
    pub(super) fn has_subscribers(&self) -> bool {
        let mut state = lock(&self.state);
        state.subscribers.retain(|subscriber| !subscriber.is_closed());
        state.new_subscribers.retain(|subscriber| !subscriber.is_closed());
        !state.subscribers.is_empty() || !state.new_subscribers.is_empty()
    }

    /// Takes what there is to do for listeners.
    pub(super) fn take_delivery(&self) -> DeliveryBatch {
        let mut state = lock(&self.state);
        let notifications = std::mem::take(&mut state.notifications);
        // Taken together: what is published from here on, those who come hear as well.
        let new_subscribers = std::mem::take(&mut state.new_subscribers);
        let subscribers = state.subscribers.clone();
        state.subscribers.extend(new_subscribers.iter().cloned());
        DeliveryBatch { notifications, subscribers, new_subscribers }
    }

    /// Waits for what other instances should hear, and takes it.
    pub(super) async fn wait_for_outbox(&self) -> Vec<SessionNotification> {
        loop {
            let outbox = self.take_outbox();
            if !outbox.is_empty() {
                return outbox;
            }
            self.outbox_changed.notified().await;
        }
    }

    pub(super) fn take_outbox(&self) -> Vec<SessionNotification> {
        std::mem::take(&mut lock(&self.state).outbox)
    }

    /// Ends the streams of all who listen, and of each who comes later.
    pub(super) fn close_all(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state
            .subscribers
            .iter()
            .chain(&state.new_subscribers)
            .for_each(|subscriber| subscriber.close());
    }
}

/// Adds a notice; what is too much becomes the notice that much was lost.
fn push_bounded(notifications: &mut Vec<SessionNotification>, notification: SessionNotification) {
    if notifications.len() >= MAX_PENDING_NOTIFICATIONS {
        notifications.clear();
        notifications.push(SessionNotification::Lost);
    }
    notifications.push(notification);
}

/// The events that wait for one listener.
pub(super) struct SubscriberQueue {
    pub(super) principal: Principal,
    /// The session to which they listen; all of theirs if none is named.
    pub(super) session_filter: Option<SessionId>,
    queue: Mutex<QueuedEvents>,
    changed: Notify,
}

#[derive(Default)]
struct QueuedEvents {
    events: VecDeque<Bytes>,
    byte_count: usize,
    is_closed: bool,
}

impl SubscriberQueue {
    /// Adds an event. A listener who is too slow for them gets a new `sync` in place of all that
    /// wait, and reads anew what they missed.
    pub(super) fn push_event(&self, event: Bytes) {
        let mut queued = lock(&self.queue);
        let is_full = queued.events.len() >= MAX_QUEUED_EVENTS
            || queued.byte_count + event.len() > MAX_QUEUED_BYTES && !queued.events.is_empty();
        if is_full {
            queued.events.clear();
            queued.byte_count = 0;
        }
        let event = if is_full { encode_sync_event() } else { event };
        queued.byte_count += event.len();
        queued.events.push_back(event);
        drop(queued);
        self.changed.notify_one();
    }

    /// Says that from here on everything is heard, and that what was before may have changed.
    pub(super) fn push_sync(&self) {
        self.push_event(encode_sync_event());
    }

    fn close(&self) {
        lock(&self.queue).is_closed = true;
        self.changed.notify_one();
    }

    fn is_closed(&self) -> bool {
        lock(&self.queue).is_closed
    }
}

/// Reads the events of one listener.
pub struct EventReader {
    queue: Arc<SubscriberQueue>,
}

impl EventReader {
    /// The next event; waits for it. `None` once the server goes down.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            {
                let mut queued = lock(&self.queue.queue);
                if let Some(event) = queued.events.pop_front() {
                    queued.byte_count -= event.len();
                    return Some(event);
                }
                if queued.is_closed {
                    return None;
                }
            }
            self.queue.changed.notified().await;
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn subscribe_alice() -> EventReader {
        let principal = Principal { user: UserId::new_unchecked("alice"), is_admin: false };
        EventBroker::new(false).subscribe(principal, None)
    }

    #[test]
    fn stalled_subscriber_is_bounded_and_gets_sync() {
        let mut reader = subscribe_alice();
        let event = Bytes::from(vec![b'x'; 10_000]);
        for _ in 0..1_000 {
            reader.queue.push_event(event.clone());
            assert!(lock(&reader.queue.queue).byte_count <= MAX_QUEUED_BYTES);
        }
        let first = reader.next().now_or_never().flatten().unwrap();
        assert!(first.starts_with(b"event: sync\n"), "{first:?}");
    }

    #[test]
    fn oversized_event_reaches_reader_that_keeps_up() {
        let mut reader = subscribe_alice();
        let event = Bytes::from(vec![b'x'; 2 * MAX_QUEUED_BYTES]);
        reader.queue.push_event(event.clone());
        assert_eq!(reader.next().now_or_never().flatten(), Some(event));
        assert_eq!(reader.next().now_or_never(), None);
    }

    #[test]
    fn event_without_subscribers_is_dropped() {
        let events = EventBroker::new(false);
        events.publish(&SessionId::new_unchecked("s"), SessionEventKind::Created);
        assert!(events.take_delivery().notifications.is_empty());
    }
}
