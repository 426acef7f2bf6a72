//! The hub: the running turns of this process and their readers.
//!
//! A turn has one buffer of frames; a reader is a cursor into it. Publishing never waits for a
//! reader, and a reader that leaves or is slow changes nothing for the turn or for other readers.

use crate::domain::TurnId;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The running turns of this process.
#[derive(Default)]
pub(super) struct Hub {
    turns: Mutex<HashMap<TurnId, Arc<LiveTurn>>>,
}

impl Hub {
    /// Opens a turn's buffer.
    pub(super) fn open(&self, turn_id: &TurnId) -> Arc<LiveTurn> {
        let live = Arc::new(LiveTurn::default());
        lock(&self.turns).insert(turn_id.clone(), live.clone());
        live
    }

    /// The buffer of a turn that is running.
    pub(super) fn get(&self, turn_id: &TurnId) -> Option<Arc<LiveTurn>> {
        lock(&self.turns).get(turn_id).cloned()
    }

    /// Forgets a turn. Those who read it keep its buffer until they are done.
    pub(super) fn close(&self, turn_id: &TurnId) {
        lock(&self.turns).remove(turn_id);
    }

    /// Cuts all running turns.
    pub(super) fn cut_all(&self) {
        for live in lock(&self.turns).values() {
            live.stop.cancel();
        }
    }
}

/// One running turn.
#[derive(Default)]
pub(super) struct LiveTurn {
    frames: Mutex<Buffer>,
    changed: Notify,
    /// Cancelled when somebody stops the turn.
    pub(super) stop: CancellationToken,
}

#[derive(Default)]
struct Buffer {
    /// Frames as they were published, in pieces of whole frames.
    pieces: Vec<Bytes>,
    is_ended: bool,
}

impl LiveTurn {
    /// Adds frames for all readers.
    pub(super) fn publish(&self, frames: Bytes) {
        if !frames.is_empty() {
            lock(&self.frames).pieces.push(frames);
            self.changed.notify_waiters();
        }
    }

    /// Says that nothing more comes.
    pub(super) fn end(&self) {
        lock(&self.frames).is_ended = true;
        self.changed.notify_waiters();
    }

    /// Waits until nothing more comes.
    pub(super) async fn ended(&self) {
        loop {
            let changed = self.changed.notified();
            if lock(&self.frames).is_ended {
                return;
            }
            changed.await;
        }
    }
}

/// Reads a turn's frames from the first one, at its own pace.
pub struct Reader {
    live: Arc<LiveTurn>,
    next: usize,
}

impl Reader {
    /// A reader that stands before the first frame.
    pub(super) fn new(live: Arc<LiveTurn>) -> Self {
        Self { live, next: 0 }
    }

    /// A reader of frames that are all there already.
    pub(super) fn of(frames: Bytes) -> Self {
        let live = LiveTurn::default();
        live.publish(frames);
        live.end();
        Self::new(Arc::new(live))
    }

    /// The next frames, as many as are there; waits for them. `None` behind the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Registered before looking, so that what is published in between wakes it.
            let changed = self.live.changed.notified();
            {
                let buffer = lock(&self.live.frames);
                if let Some(frames) = buffer.pieces.get(self.next) {
                    self.next += 1;
                    return Some(frames.clone());
                }
                if buffer.is_ended {
                    return None;
                }
            }
            changed.await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
