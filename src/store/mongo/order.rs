//! The steps of this instance that want the same session go one by one, in the order in which they
//! came. They could not go at once anyway: all but one of them would find that another one was
//! faster, and some again and again.

use crate::domain::SessionId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The sessions that steps are at work on or wait for.
#[derive(Debug, Clone, Default)]
pub(super) struct Order(Arc<Mutex<Lines>>);

type Lines = HashMap<SessionId, Arc<AsyncMutex<()>>>;

/// The turn of a step, until it is dropped.
pub(super) struct Turn {
    _guard: OwnedMutexGuard<()>,
    _place: Place,
}

/// A place in the line before a session.
struct Place {
    order: Order,
    session: SessionId,
    line: Arc<AsyncMutex<()>>,
}

impl Order {
    /// Waits until those that came before are done.
    pub(super) async fn turn(&self, session: &SessionId) -> Turn {
        let line = self.lines().entry(session.clone()).or_default().clone();
        let place = Place { order: self.clone(), session: session.clone(), line };
        let guard = place.line.clone().lock_owned().await;
        Turn { _guard: guard, _place: place }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.order.lines();
        // The table's and this one.
        if Arc::strong_count(&self.line) <= 2 {
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
    async fn steps_in_one_session_go_in_their_order_and_leave_nothing_behind() {
        let order = Order::default();
        let (ada, bob) = (SessionId::trusted("ada"), SessionId::trusted("bob"));
        let first = order.turn(&ada).await;
        let mut third = Box::pin(order.turn(&ada));
        {
            let mut second = pin!(order.turn(&ada));
            assert!(poll!(&mut second).is_pending());
            assert!(poll!(&mut third).is_pending());
            drop(order.turn(&bob).await);
            drop(first);
            assert!(poll!(&mut third).is_pending());
            // The second one has its turn and never takes it.
        }
        assert!(matches!(poll!(&mut third), Poll::Ready(_)));
        drop(third);
        assert!(order.lines().is_empty());
    }
}
