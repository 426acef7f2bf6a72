//! The steps of this instance that want the same session go one by one, in the order in which they
//! came. They could not go at once anyway: all but one of them would find that another one was
//! faster, and some again and again.

use crate::domain::SessionId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The sessions that steps are at work on or wait for.
#[derive(Debug, Clone, Default)]
pub(super) struct SessionLocks(Arc<Mutex<SessionLockMap>>);

type SessionLockMap = HashMap<SessionId, Arc<AsyncMutex<()>>>;

/// The turn of a step, until it is dropped.
pub(super) struct SessionGuard {
    _guard: OwnedMutexGuard<()>,
    _ticket: LockTicket,
}

/// A place in the line before a session.
struct LockTicket {
    locks: SessionLocks,
    session: SessionId,
    lock: Arc<AsyncMutex<()>>,
}

impl SessionLocks {
    /// Waits until those that came before are done.
    pub(super) async fn acquire(&self, session: &SessionId) -> SessionGuard {
        let line = self.lock_map().entry(session.clone()).or_default().clone();
        let place = LockTicket { locks: self.clone(), session: session.clone(), lock: line };
        let guard = place.lock.clone().lock_owned().await;
        SessionGuard { _guard: guard, _ticket: place }
    }

    fn lock_map(&self) -> MutexGuard<'_, SessionLockMap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LockTicket {
    fn drop(&mut self) {
        let mut lines = self.locks.lock_map();
        // The table's and this one.
        if Arc::strong_count(&self.lock) <= 2 {
            lines.remove(&self.session);
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
        let order = SessionLocks::default();
        let (ada, bob) = (SessionId::new_unchecked("ada"), SessionId::new_unchecked("bob"));
        let first = order.acquire(&ada).await;
        let mut third = Box::pin(order.acquire(&ada));
        {
            let mut second = pin!(order.acquire(&ada));
            assert!(poll!(&mut second).is_pending());
            assert!(poll!(&mut third).is_pending());
            drop(order.acquire(&bob).await);
            drop(first);
            assert!(poll!(&mut third).is_pending());
            // The second one has its turn and never takes it.
        }
        assert!(matches!(poll!(&mut third), Poll::Ready(_)));
        drop(third);
        assert!(order.lock_map().is_empty());
    }
}
