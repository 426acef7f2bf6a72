//! Events: what happens to sessions, handed to whoever listens in this process.
//!
//! Whoever commits something says so with [`Events::publish`], which waits for nobody and costs a
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
const MAILBOX_BYTES: usize = 1 << 20;
/// … to read them.
const MAILBOX_EVENTS: usize = 1024;
/// The most notices that wait to be handed on.
const MAX_NOTICES: usize = 10_000;

/// Something that happened, as one instance tells another: what it is about, not how it looks now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Notice {
    /// In a session.
    In { session: String, what: What },
    /// More than could be told.
    Lost,
}

/// What happened in a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum What {
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

impl What {
    pub(super) fn deleted(audience: &[UserId]) -> Self {
        Self::Deleted { audience: audience.iter().map(ToString::to_string).collect() }
    }

    pub(super) fn message(id: &MessageId) -> Self {
        Self::Message { id: id.to_string() }
    }

    pub(super) fn started(turn: &TurnId, message: &MessageId) -> Self {
        Self::Started { turn: turn.to_string(), message: message.to_string() }
    }

    pub(super) fn ended(turn: &TurnId, message: &MessageId) -> Self {
        Self::Ended { turn: turn.to_string(), message: message.to_string() }
    }

    pub(super) fn seen(user: &UserId, up_to: &MessageId) -> Self {
        Self::Seen { user: user.to_string(), up_to: up_to.to_string() }
    }
}

/// An event as a listener reads it.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Event<'a> {
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

impl Event<'_> {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Sync { .. } => "sync",
            Self::Session { .. } => "session",
            Self::Message { .. } => "message",
            Self::Turn { .. } => "turn",
            Self::Seen { .. } => "seen",
        }
    }

    /// The event on the wire.
    pub(super) fn encode(&self) -> Bytes {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("event: {}\ndata: {json}\n\n", self.kind()).into()
    }
}

fn sync() -> Bytes {
    Event::Sync { at: clock::now() }.encode()
}

/// What happened and who listens.
pub(super) struct Events {
    /// Whether other instances want to hear it, too.
    is_shared: bool,
    state: Mutex<State>,
    /// Something was published, or somebody came to listen.
    stirred: Notify,
    /// Something is to be told to other instances.
    to_tell: Notify,
}

#[derive(Default)]
struct State {
    /// For the listeners here.
    notices: Vec<Notice>,
    /// For other instances.
    untold: Vec<Notice>,
    listeners: Vec<Arc<Mailbox>>,
    /// Those who wait for their first `sync`.
    coming: Vec<Arc<Mailbox>>,
    is_closed: bool,
}

/// What there is to do for the listeners of this process.
pub(super) struct Work {
    /// What happened.
    pub(super) notices: Vec<Notice>,
    /// Who hears of it.
    pub(super) listeners: Vec<Arc<Mailbox>>,
    /// Who came meanwhile, and hears what happens from their `sync` on.
    pub(super) coming: Vec<Arc<Mailbox>>,
}

impl Events {
    pub(super) fn new(is_shared: bool) -> Self {
        let (state, stirred, to_tell) = Default::default();
        Self { is_shared, state, stirred, to_tell }
    }

    /// Says that something has happened in a session: after the commit that holds it.
    pub(super) fn publish(&self, session: &SessionId, what: What) {
        let mut state = lock(&self.state);
        let is_heard = !state.listeners.is_empty() || !state.coming.is_empty();
        if !is_heard && !self.is_shared {
            return;
        }
        let notice = Notice::In { session: session.to_string(), what };
        if self.is_shared {
            push(&mut state.untold, notice.clone());
            self.to_tell.notify_one();
        }
        if is_heard {
            push(&mut state.notices, notice);
            self.stirred.notify_one();
        }
    }

    /// Somebody listens, to one session or to all that they participate in.
    pub(super) fn listen(&self, who: Principal, only: Option<SessionId>) -> EventReader {
        let (letters, changed) = Default::default();
        let mailbox = Arc::new(Mailbox { who, only, letters, changed });
        let mut state = lock(&self.state);
        if state.is_closed {
            mailbox.close();
        } else {
            state.coming.push(mailbox.clone());
            self.stirred.notify_one();
        }
        EventReader { mailbox }
    }

    /// Waits until there is something to do for listeners.
    pub(super) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// Whether anybody listens; forgets those who have left.
    pub(super) fn has_listeners(&self) -> bool {
        let mut state = lock(&self.state);
        state.listeners.retain(|mailbox| !mailbox.is_closed());
        state.coming.retain(|mailbox| !mailbox.is_closed());
        !state.listeners.is_empty() || !state.coming.is_empty()
    }

    /// Takes what there is to do for listeners.
    pub(super) fn take_work(&self) -> Work {
        let mut state = lock(&self.state);
        let notices = std::mem::take(&mut state.notices);
        // Taken together: what is published from here on, those who come hear as well.
        let coming = std::mem::take(&mut state.coming);
        let listeners = state.listeners.clone();
        state.listeners.extend(coming.iter().cloned());
        Work { notices, listeners, coming }
    }

    /// Waits for what other instances should hear, and takes it.
    pub(super) async fn untold(&self) -> Vec<Notice> {
        loop {
            let untold = self.take_untold();
            if !untold.is_empty() {
                return untold;
            }
            self.to_tell.notified().await;
        }
    }

    pub(super) fn take_untold(&self) -> Vec<Notice> {
        std::mem::take(&mut lock(&self.state).untold)
    }

    /// Ends the streams of all who listen, and of each who comes later.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.listeners.iter().chain(&state.coming).for_each(|mailbox| mailbox.close());
    }
}

/// Adds a notice; what is too much becomes the notice that much was lost.
fn push(notices: &mut Vec<Notice>, notice: Notice) {
    if notices.len() >= MAX_NOTICES {
        notices.clear();
        notices.push(Notice::Lost);
    }
    notices.push(notice);
}

/// The events that wait for one listener.
pub(super) struct Mailbox {
    pub(super) who: Principal,
    /// The session to which they listen; all of theirs if none is named.
    pub(super) only: Option<SessionId>,
    letters: Mutex<Letters>,
    changed: Notify,
}

#[derive(Default)]
struct Letters {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    is_closed: bool,
}

impl Mailbox {
    /// Adds an event. A listener who is too slow for them gets a new `sync` in place of all that
    /// wait, and reads anew what they missed.
    pub(super) fn post(&self, event: Bytes) {
        let mut letters = lock(&self.letters);
        let is_full = letters.waiting.len() >= MAILBOX_EVENTS
            || letters.bytes + event.len() > MAILBOX_BYTES && !letters.waiting.is_empty();
        if is_full {
            letters.waiting.clear();
            letters.bytes = 0;
        }
        let letter = if is_full { sync() } else { event };
        letters.bytes += letter.len();
        letters.waiting.push_back(letter);
        drop(letters);
        self.changed.notify_one();
    }

    /// Says that from here on everything is heard, and that what was before may have changed.
    pub(super) fn post_sync(&self) {
        self.post(sync());
    }

    fn close(&self) {
        lock(&self.letters).is_closed = true;
        self.changed.notify_one();
    }

    fn is_closed(&self) -> bool {
        lock(&self.letters).is_closed
    }
}

/// Reads the events of one listener.
pub struct EventReader {
    mailbox: Arc<Mailbox>,
}

impl EventReader {
    /// The next event; waits for it. `None` once the server goes down.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            {
                let mut letters = lock(&self.mailbox.letters);
                if let Some(letter) = letters.waiting.pop_front() {
                    letters.bytes -= letter.len();
                    return Some(letter);
                }
                if letters.is_closed {
                    return None;
                }
            }
            self.mailbox.changed.notified().await;
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn listener() -> EventReader {
        let who = Principal { user: UserId::trusted("alice"), is_admin: false };
        Events::new(false).listen(who, None)
    }

    #[test]
    fn a_listener_who_reads_nothing_holds_bounded_memory_and_is_told_to_read_anew() {
        let mut reader = listener();
        let event = Bytes::from(vec![b'x'; 10_000]);
        for _ in 0..1_000 {
            reader.mailbox.post(event.clone());
            assert!(lock(&reader.mailbox.letters).bytes <= MAILBOX_BYTES);
        }
        let first = reader.next().now_or_never().flatten().unwrap();
        assert!(first.starts_with(b"event: sync\n"), "{first:?}");
    }

    #[test]
    fn an_event_larger_than_the_mailbox_is_heard_by_who_keeps_up() {
        let mut reader = listener();
        let event = Bytes::from(vec![b'x'; 2 * MAILBOX_BYTES]);
        reader.mailbox.post(event.clone());
        assert_eq!(reader.next().now_or_never().flatten(), Some(event));
        assert_eq!(reader.next().now_or_never(), None);
    }

    #[test]
    fn while_nobody_listens_nothing_is_kept() {
        let events = Events::new(false);
        events.publish(&SessionId::trusted("s"), What::Created);
        assert!(events.take_work().notices.is_empty());
    }
}
