//! A fair lock per session, within this instance.
//!
//! Concurrent writes to one session conflict: all but one of them would fail at their commit and
//! run again, some of them many times. Waiting in order of arrival costs less and starves none.
//! Writers in other instances are still detected by the session's revision.

use crate::domain::SessionId;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The locks of the sessions that are being written; an entry exists only while it is used.
#[derive(Debug, Clone, Default)]
pub(super) struct SessionLocks(Arc<Mutex<SessionLockMap>>);

type SessionLockMap = HashMap<SessionId, Arc<AsyncMutex<()>>>;

/// Holds the lock of a session until it is dropped. Fields drop in order: first the lock is
/// released, then the ticket removes an unused entry.
pub(super) struct SessionGuard {
    _guard: OwnedMutexGuard<()>,
    _ticket: LockTicket,
}

/// A user of a lock, waiting or holding.
struct LockTicket {
    locks: SessionLocks,
    session: SessionId,
    lock: Arc<AsyncMutex<()>>,
}

impl SessionLocks {
    /// Waits for all earlier callers to release the session's lock.
    pub(super) async fn acquire(&self, session: &SessionId) -> SessionGuard {
        let lock = self.lock_map().entry(session.clone()).or_default().clone();
        // Before waiting, so that a caller that is cancelled while it waits cleans up as well.
        let ticket = LockTicket { locks: self.clone(), session: session.clone(), lock };
        let guard = ticket.lock.clone().lock_owned().await;
        SessionGuard { _guard: guard, _ticket: ticket }
    }

    fn lock_map(&self) -> MutexGuard<'_, SessionLockMap> {
        self.0.lock()
    }
}

impl Drop for LockTicket {
    fn drop(&mut self) {
        // Counted under the map's lock, so that no other caller can take the entry now. Two
        // references, the map's and this ticket's, mean that no other caller uses the lock.
        let mut map = self.locks.lock_map();
        if Arc::strong_count(&self.lock) <= 2 {
            map.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use std::pin::pin;
    use std::task::Poll;

    #[tokio::test]
    async fn session_locks_are_fair_and_leave_no_entries() {
        let locks = SessionLocks::default();
        let (ada, bob) = (SessionId::new_unchecked("ada"), SessionId::new_unchecked("bob"));
        let first = locks.acquire(&ada).await;
        let mut third = Box::pin(locks.acquire(&ada));
        {
            let mut second = pin!(locks.acquire(&ada));
            assert!(poll!(&mut second).is_pending());
            assert!(poll!(&mut third).is_pending());
            drop(locks.acquire(&bob).await);
            drop(first);
            assert!(poll!(&mut third).is_pending());
            // The lock is handed to the second caller, which is dropped without taking it.
        }
        assert!(matches!(poll!(&mut third), Poll::Ready(_)));
        drop(third);
        assert!(locks.lock_map().is_empty());
    }
}
