//! The paths that are kept, one per session, within a bound: who was not asked about for the
//! longest goes first.

use super::path_index::PathIndex;
use crate::domain::SessionId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Mutex as AsyncMutex;

/// The paths.
pub(super) struct IndexCache {
    max_bytes: usize,
    entries: Mutex<CacheEntries>,
}

#[derive(Default)]
struct CacheEntries {
    by_session: HashMap<SessionId, CacheEntry>,
    bytes: usize,
    /// Counts the times that one was put back.
    clock: u64,
}

struct CacheEntry {
    /// Empty while somebody works with it. The lock is one session's own: whoever brings its path
    /// up to date has it, and nobody of another session waits for it.
    index: Arc<AsyncMutex<Option<PathIndex>>>,
    bytes: usize,
    last_used: u64,
}

impl IndexCache {
    /// Keeps about so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { max_bytes: most, entries: Mutex::default() }
    }

    /// The place of a session.
    pub(super) fn entry(&self, session: &SessionId) -> Arc<AsyncMutex<Option<PathIndex>>> {
        let mut slots = self.lock_entries();
        let new = || CacheEntry { index: Arc::default(), bytes: 0, last_used: 0 };
        slots.by_session.entry(session.clone()).or_insert_with(new).index.clone()
    }

    /// Says how large a session's path is now, and makes room for it.
    pub(super) fn record_size(&self, session: &SessionId, bytes: usize) {
        let mut slots = self.lock_entries();
        slots.clock += 1;
        let now = slots.clock;
        // It may have been deleted meanwhile.
        let Some(slot) = slots.by_session.get_mut(session) else { return };
        let before = std::mem::replace(&mut slot.bytes, bytes);
        slot.last_used = now;
        slots.bytes = slots.bytes - before + bytes;
        while slots.bytes > self.max_bytes && slots.by_session.len() > 1 {
            let others = slots.by_session.iter().filter(|(id, _)| *id != session);
            let Some(oldest) =
                others.min_by_key(|(_, slot)| slot.last_used).map(|(id, _)| id.clone())
            else {
                return;
            };
            slots.remove_entry(&oldest);
        }
    }

    /// Forgets a session.
    pub(super) fn remove_session(&self, session: &SessionId) {
        self.lock_entries().remove_entry(session);
    }

    /// How many sessions it holds, and about how many bytes.
    pub(super) fn stats(&self) -> (usize, usize) {
        let slots = self.lock_entries();
        (slots.by_session.len(), slots.bytes)
    }

    fn lock_entries(&self) -> MutexGuard<'_, CacheEntries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheEntries {
    fn remove_entry(&mut self, session: &SessionId) {
        if let Some(slot) = self.by_session.remove(session) {
            self.bytes -= slot.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_recently_used_path_is_evicted_first() {
        let shelf = IndexCache::new(100);
        let [ada, bob, eve] = ["ada", "bob", "eve"].map(SessionId::new_unchecked);
        for session in [&ada, &bob] {
            shelf.entry(session);
            shelf.record_size(session, 40);
        }
        shelf.record_size(&ada, 45);
        shelf.entry(&eve);
        shelf.record_size(&eve, 30);
        assert_eq!(shelf.stats(), (2, 75), "bob is gone");
        shelf.record_size(&bob, 1000);
        assert_eq!(shelf.stats(), (2, 75), "what is gone weighs nothing");
        shelf.record_size(&eve, 500);
        assert_eq!(shelf.stats(), (1, 500), "one that is too large is alone");
        shelf.remove_session(&eve);
        assert_eq!(shelf.stats(), (0, 0));
    }
}
