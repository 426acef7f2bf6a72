//! The paths that are kept, one per session, within a bound: who was not asked about for the
//! longest goes first.

use super::kept::Kept;
use crate::domain::SessionId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Mutex as AsyncMutex;

/// The paths.
pub(super) struct Shelf {
    most: usize,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    by_session: HashMap<SessionId, Slot>,
    bytes: usize,
    /// Counts the times that one was put back.
    clock: u64,
}

struct Slot {
    /// Empty while somebody works with it. The lock is one session's own: whoever brings its path
    /// up to date has it, and nobody of another session waits for it.
    kept: Arc<AsyncMutex<Option<Kept>>>,
    bytes: usize,
    used: u64,
}

impl Shelf {
    /// Keeps about so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { most, slots: Mutex::default() }
    }

    /// The place of a session.
    pub(super) fn slot(&self, session: &SessionId) -> Arc<AsyncMutex<Option<Kept>>> {
        let mut slots = self.slots();
        let new = || Slot { kept: Arc::default(), bytes: 0, used: 0 };
        slots.by_session.entry(session.clone()).or_insert_with(new).kept.clone()
    }

    /// Says how large a session's path is now, and makes room for it.
    pub(super) fn weigh(&self, session: &SessionId, bytes: usize) {
        let mut slots = self.slots();
        slots.clock += 1;
        let now = slots.clock;
        // It may have been deleted meanwhile.
        let Some(slot) = slots.by_session.get_mut(session) else { return };
        let before = std::mem::replace(&mut slot.bytes, bytes);
        slot.used = now;
        slots.bytes = slots.bytes - before + bytes;
        while slots.bytes > self.most && slots.by_session.len() > 1 {
            let others = slots.by_session.iter().filter(|(id, _)| *id != session);
            let Some(oldest) = others.min_by_key(|(_, slot)| slot.used).map(|(id, _)| id.clone())
            else {
                return;
            };
            slots.remove(&oldest);
        }
    }

    /// Forgets a session.
    pub(super) fn forget(&self, session: &SessionId) {
        self.slots().remove(session);
    }

    /// How many sessions it holds, and about how many bytes.
    pub(super) fn held(&self) -> (usize, usize) {
        let slots = self.slots();
        (slots.by_session.len(), slots.bytes)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn remove(&mut self, session: &SessionId) {
        if let Some(slot) = self.by_session.remove(session) {
            self.bytes -= slot.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_asked_about_for_the_longest_goes_first() {
        let shelf = Shelf::new(100);
        let [ada, bob, eve] = ["ada", "bob", "eve"].map(SessionId::trusted);
        for session in [&ada, &bob] {
            shelf.slot(session);
            shelf.weigh(session, 40);
        }
        shelf.weigh(&ada, 45);
        shelf.slot(&eve);
        shelf.weigh(&eve, 30);
        assert_eq!(shelf.held(), (2, 75), "bob is gone");
        shelf.weigh(&bob, 1000);
        assert_eq!(shelf.held(), (2, 75), "what is gone weighs nothing");
        shelf.weigh(&eve, 500);
        assert_eq!(shelf.held(), (1, 500), "one that is too large is alone");
        shelf.forget(&eve);
        assert_eq!(shelf.held(), (0, 0));
    }
}
