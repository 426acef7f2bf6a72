//! Events: changes of sessions, delivered to the subscribers of this process.
//!
//! Every commit is followed by [`EventBroker::publish`], which never waits and costs one lock when
//! there are no subscribers. `event_feed.rs` takes the notifications, loads the session and the
//! message, and queues the event for every subscriber that may see them. Queues are bounded: an
//! overflowing queue is cleared and gets a `sync` event instead.

use crate::clock;
use crate::domain::{Message, MessageId, Principal, Session, SessionId, Timestamp, TurnId, UserId};
use crate::limits;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// Maximum size of one subscriber's queue, in bytes.
const MAX_QUEUED_BYTES: usize = 1 << 20;
/// Maximum number of events in one subscriber's queue.
const MAX_QUEUED_EVENTS: usize = 1024;
/// Limit of notifications that have not been dispatched yet.
const MAX_PENDING_NOTIFICATIONS: usize = 10_000;

/// A notification as exchanged between instances. It names what changed, not the new state, so that
/// the state is read when it is delivered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum SessionNotification {
    #[serde(rename = "In")]
    Event {
        session: String,
        #[serde(rename = "what")]
        kind: SessionEventKind,
    },
    /// Notifications were dropped: subscribers have to reload.
    Lost,
}

/// Serialized for other instances, which may run another version: unknown kinds become `Lost`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum SessionEventKind {
    Created,
    Changed,
    Imported {
        messages: u64,
    },
    /// Lists the users, because after the deletion the session cannot be read any more.
    Deleted {
        audience: Vec<String>,
    },
    /// For the invited users.
    Invited,
    /// For the user who left.
    Left {
        user: String,
    },
    /// For a participant who changed their own `archived` or `pinned`.
    Placed {
        user: String,
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

    pub(super) fn left_by(user: &UserId) -> Self {
        Self::Left { user: user.to_string() }
    }

    pub(super) fn placed_by(user: &UserId) -> Self {
        Self::Placed { user: user.to_string() }
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

/// An event as sent to clients.
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

    /// Encodes the event as a server-sent event.
    pub(super) fn encode_sse(&self) -> Bytes {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("event: {}\ndata: {json}\n\n", self.event_name()).into()
    }
}

fn encode_sync_event() -> Bytes {
    ClientEvent::Sync { at: clock::now() }.encode_sse()
}

/// Collects notifications and keeps the subscribers.
pub(super) struct EventBroker {
    /// Whether other instances get the notifications as well.
    is_shared: bool,
    state: Mutex<BrokerState>,
    /// Notifies of new notifications and subscribers.
    changed: Notify,
    outbox_changed: Notify,
}

#[derive(Default)]
struct BrokerState {
    /// For the subscribers of this process.
    notifications: Vec<SessionNotification>,
    outbox: Vec<SessionNotification>,
    subscribers: Vec<Arc<SubscriberQueue>>,
    /// Subscribers that have not received their first `sync`.
    new_subscribers: Vec<Arc<SubscriberQueue>>,
    is_closed: bool,
}

/// Pending work of the dispatcher.
pub(super) struct DeliveryBatch {
    pub(super) notifications: Vec<SessionNotification>,
    /// Receive the notifications.
    pub(super) subscribers: Vec<Arc<SubscriberQueue>>,
    /// Joined since the last batch: they receive a `sync` and everything published after it.
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

    /// Publishes a change. Call it after the commit.
    pub(super) fn publish(&self, session: &SessionId, kind: SessionEventKind) {
        let mut state = self.state.lock();
        let has_subscribers = !state.subscribers.is_empty() || !state.new_subscribers.is_empty();
        if !has_subscribers && !self.is_shared {
            return;
        }
        let notification = SessionNotification::Event { session: session.to_string(), kind };
        if self.is_shared {
            push_bounded(&mut state.outbox, notification.clone());
            self.outbox_changed.notify_one();
        }
        // Dropped otherwise: nothing is replayed to a subscriber that joins later.
        if has_subscribers {
            push_bounded(&mut state.notifications, notification);
            self.changed.notify_one();
        }
    }

    /// Adds a subscriber for one session, or for all sessions of `principal`.
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
        let mut state = self.state.lock();
        if state.is_closed {
            subscriber.close();
        } else {
            state.new_subscribers.push(subscriber.clone());
            self.changed.notify_one();
        }
        EventReader { queue: subscriber }
    }

    /// Waits for notifications or new subscribers.
    pub(super) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }

    /// Removes subscribers that disconnected; returns whether any are left.
    pub(super) fn has_subscribers(&self) -> bool {
        let mut state = self.state.lock();
        state.subscribers.retain(|subscriber| !subscriber.is_closed());
        state.new_subscribers.retain(|subscriber| !subscriber.is_closed());
        !state.subscribers.is_empty() || !state.new_subscribers.is_empty()
    }

    /// Takes the pending work. New subscribers count as subscribers from here on.
    pub(super) fn take_delivery(&self) -> DeliveryBatch {
        let mut state = self.state.lock();
        let notifications = std::mem::take(&mut state.notifications);
        // Taken under one lock: a notification published after this is delivered to the new
        // subscribers too, so none falls between their `sync` and their first event.
        let new_subscribers = std::mem::take(&mut state.new_subscribers);
        let subscribers = state.subscribers.clone();
        state.subscribers.extend(new_subscribers.iter().cloned());
        DeliveryBatch { notifications, subscribers, new_subscribers }
    }

    /// Waits for notifications for other instances and takes them.
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
        std::mem::take(&mut self.state.lock().outbox)
    }

    /// Ends all event streams, also those of later subscribers.
    pub(super) fn close_all(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state
            .subscribers
            .iter()
            .chain(&state.new_subscribers)
            .for_each(|subscriber| subscriber.close());
    }
}

/// Adds a notification. On overflow all pending ones are replaced by `Lost`.
fn push_bounded(notifications: &mut Vec<SessionNotification>, notification: SessionNotification) {
    if notifications.len() >= MAX_PENDING_NOTIFICATIONS {
        notifications.clear();
        notifications.push(SessionNotification::Lost);
    }
    notifications.push(notification);
}

/// The events queued for one subscriber.
pub(super) struct SubscriberQueue {
    pub(super) principal: Principal,
    /// `None` for all sessions in which the user participates.
    pub(super) session_filter: Option<SessionId>,
    queue: Mutex<QueuedEvents>,
    changed: Notify,
}

#[derive(Default)]
struct QueuedEvents {
    /// With the session they belong to; `None` for a `sync`.
    events: VecDeque<(Option<SessionId>, Bytes)>,
    byte_count: usize,
    is_closed: bool,
}

impl SubscriberQueue {
    /// Queues an event. For a subscriber that reads too slowly, a `sync` replaces everything
    /// queued; the client then reloads its state.
    pub(super) fn push_event(&self, session: &SessionId, event: Bytes) {
        self.push(Some(session), event);
    }

    /// Queues an event that is delivered although its reader may not use the session: an
    /// invitation or a farewell.
    pub(super) fn push_notice(&self, event: Bytes) {
        self.push(None, event);
    }

    fn push(&self, session: Option<&SessionId>, event: Bytes) {
        let mut queued = self.queue.lock();
        let is_full = queued.events.len() >= MAX_QUEUED_EVENTS
            // A single event over the limit is accepted into an empty queue, or it could never be
            // delivered.
            || queued.byte_count + event.len() > MAX_QUEUED_BYTES && !queued.events.is_empty();
        if is_full {
            queued.events.clear();
            queued.byte_count = 0;
            let bound = format!("{MAX_QUEUED_EVENTS} events or {MAX_QUEUED_BYTES} bytes");
            limits::note_hit("event_queue", &self.principal.user, bound);
        }
        let (session, event) =
            if is_full { (None, encode_sync_event()) } else { (session.cloned(), event) };
        queued.byte_count += event.len();
        queued.events.push_back((session, event));
        drop(queued);
        self.changed.notify_one();
    }

    /// Queues a `sync`: all later changes will be delivered, earlier ones may have been missed. So
    /// the queued events are dropped, which may be of sessions that the subscriber has lost.
    pub(super) fn push_sync(&self) {
        let event = encode_sync_event();
        let mut queued = self.queue.lock();
        queued.byte_count = event.len();
        queued.events = VecDeque::from([(None, event)]);
        drop(queued);
        self.changed.notify_one();
    }

    /// Drops the queued events of a session that the subscriber has lost.
    pub(super) fn drop_session(&self, session: &SessionId) {
        let mut queued = self.queue.lock();
        queued.events.retain(|(of, _)| of.as_ref() != Some(session));
        queued.byte_count = queued.events.iter().map(|(_, event)| event.len()).sum();
    }

    fn close(&self) {
        self.queue.lock().is_closed = true;
        self.changed.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.queue.lock().is_closed
    }
}

/// Reads the events of one subscriber and unsubscribes on drop.
pub struct EventReader {
    queue: Arc<SubscriberQueue>,
}

impl EventReader {
    /// Waits for the next event; `None` when the server shuts down.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            {
                let mut queued = self.queue.queue.lock();
                if let Some((_, event)) = queued.events.pop_front() {
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
            reader.queue.push_event(&SessionId::new_unchecked("s"), event.clone());
            assert!(reader.queue.queue.lock().byte_count <= MAX_QUEUED_BYTES);
        }
        let first = reader.next().now_or_never().flatten().unwrap();
        assert!(first.starts_with(b"event: sync\n"), "{first:?}");
    }

    #[test]
    fn oversized_event_reaches_reader_that_keeps_up() {
        let mut reader = subscribe_alice();
        let event = Bytes::from(vec![b'x'; 2 * MAX_QUEUED_BYTES]);
        reader.queue.push_event(&SessionId::new_unchecked("s"), event.clone());
        assert_eq!(reader.next().now_or_never().flatten(), Some(event));
        assert_eq!(reader.next().now_or_never(), None);
    }

    #[test]
    fn sync_replaces_events_that_were_not_read() {
        let mut reader = subscribe_alice();
        reader.queue.push_event(&SessionId::new_unchecked("s"), Bytes::from_static(b"event"));
        reader.queue.push_sync();
        let first = reader.next().now_or_never().flatten().unwrap();
        assert!(first.starts_with(b"event: sync\n"), "{first:?}");
        assert_eq!(reader.next().now_or_never(), None);
    }

    #[test]
    fn event_without_subscribers_is_dropped() {
        let events = EventBroker::new(false);
        events.publish(&SessionId::new_unchecked("s"), SessionEventKind::Created);
        assert!(events.take_delivery().notifications.is_empty());
    }
}
