//! LRU cache of path indexes, one per session, with an upper bound of memory.

use super::path_index::PathIndex;
use crate::domain::SessionId;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, SemaphorePermit};

/// Long paths whose indexes are built at the same time.
const MAX_LARGE_BUILDS: usize = 2;

/// The index of a session. `None` while a task refreshes it. Each session has a lock of its own, so
/// that refreshing one session does not block others.
pub(super) type SharedIndex = AsyncMutex<Option<PathIndex>>;

pub(super) struct IndexCache {
    max_bytes: usize,
    entries: Mutex<CacheEntries>,
    large_builds: Semaphore,
}

#[derive(Default)]
struct CacheEntries {
    by_session: HashMap<SessionId, CacheEntry>,
    bytes: usize,
    /// Logical clock for `last_used`.
    clock: u64,
}

struct CacheEntry {
    index: Arc<SharedIndex>,
    /// Size when the index was last used.
    bytes: usize,
    last_used: u64,
}

impl IndexCache {
    /// `max_bytes` may be exceeded by indexes in use only.
    pub(super) fn new(max_bytes: usize) -> Self {
        let large_builds = Semaphore::new(MAX_LARGE_BUILDS);
        Self { max_bytes, entries: Mutex::default(), large_builds }
    }

    /// Waits until the index of a long path may be built. `None` never: the semaphore stays open.
    pub(super) async fn large_build_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.large_builds.acquire().await.ok()
    }

    /// The session's entry, created if missing. As long as the caller has it, it is not evicted.
    pub(super) fn entry(&self, session: &SessionId) -> Arc<SharedIndex> {
        let mut entries = self.lock_entries();
        let new = || CacheEntry { index: Arc::default(), bytes: 0, last_used: 0 };
        entries.by_session.entry(session.clone()).or_insert_with(new).index.clone()
    }

    /// Records the current size of a session's index and evicts the least recently used others
    /// that are not in use. `false` if the session has no entry any more, because it was deleted or
    /// evicted: its index is dropped with the last reference to it.
    pub(super) fn record_size(&self, session: &SessionId, bytes: usize) -> bool {
        let mut entries = self.lock_entries();
        entries.clock += 1;
        let now = entries.clock;
        let Some(entry) = entries.by_session.get_mut(session) else { return false };
        let before = std::mem::replace(&mut entry.bytes, bytes);
        entry.last_used = now;
        entries.bytes = entries.bytes - before + bytes;
        while entries.bytes > self.max_bytes {
            let is_idle = |(id, entry): &(&SessionId, &CacheEntry)| {
                *id != session && Arc::strong_count(&entry.index) == 1
            };
            let others = entries.by_session.iter().filter(is_idle);
            let oldest = others.min_by_key(|(_, entry)| entry.last_used).map(|(id, _)| id.clone());
            let Some(oldest) = oldest else { break };
            entries.remove_entry(&oldest);
        }
        true
    }

    pub(super) fn remove_session(&self, session: &SessionId) {
        self.lock_entries().remove_entry(session);
    }

    /// Number of entries, and their approximate size in bytes.
    pub(super) fn stats(&self) -> (usize, usize) {
        let entries = self.lock_entries();
        (entries.by_session.len(), entries.bytes)
    }

    fn lock_entries(&self) -> MutexGuard<'_, CacheEntries> {
        self.entries.lock()
    }
}

impl CacheEntries {
    fn remove_entry(&mut self, session: &SessionId) {
        if let Some(entry) = self.by_session.remove(session) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_recently_used_path_is_evicted_first() {
        let cache = IndexCache::new(100);
        let [ada, bob, eve] = ["ada", "bob", "eve"].map(SessionId::new_unchecked);
        for session in [&ada, &bob] {
            cache.entry(session);
            assert!(cache.record_size(session, 40));
        }
        cache.record_size(&ada, 45);
        let in_use = cache.entry(&eve);
        cache.record_size(&eve, 30);
        assert_eq!(cache.stats(), (2, 75), "bob was evicted");
        assert!(!cache.record_size(&bob, 1000));
        assert_eq!(cache.stats(), (2, 75), "an evicted entry has no size");
        cache.record_size(&ada, 90);
        assert_eq!(cache.stats(), (2, 120), "an entry in use is not evicted");
        drop(in_use);
        cache.record_size(&eve, 500);
        assert_eq!(cache.stats(), (1, 500), "an entry over the limit stays alone");
        cache.remove_session(&eve);
        assert_eq!(cache.stats(), (0, 0));
    }
}
