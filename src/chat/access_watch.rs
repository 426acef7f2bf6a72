//! Ends streams whose readers have lost access to their session.
//!
//! Access is checked when a stream opens, and again for all open streams about twice a second, in
//! one read for all of them. So a lost access is noticed whatever took it away, on this instance or
//! another, and reading a frame costs a look at the time of the last check. If that check is too
//! old, because the machine is overloaded, the reader waits for the next one. Credentials are
//! checked by `auth`.

use super::ChatService;
use super::hub::TurnReader;
use super::reader_access::ReaderAccess;
use crate::domain::principal::ACCESS_CHECK_INTERVAL;
use crate::domain::{Principal, SessionId};
use crate::error::Result;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// The readers of all open streams of turns.
#[derive(Default)]
pub(super) struct AccessWatch {
    readers: Mutex<Vec<Weak<ReaderAccess>>>,
    /// Set while the store is unavailable: no access can be checked then.
    is_suspended: Arc<AtomicBool>,
}

impl AccessWatch {
    /// Watches a reader whose access was found by a check that began at `checked_at`.
    pub(super) fn watch_reader(
        &self,
        principal: &Principal,
        reader: TurnReader,
        checked_at: Instant,
    ) -> TurnReader {
        // A reply that is replayed whole has no buffer in the hub, and nothing to wait for.
        let Some((session, changed)) = reader.live_buffer() else { return reader };
        let access = Arc::new(ReaderAccess::new(
            principal.clone(),
            session,
            changed,
            checked_at,
            self.is_suspended.clone(),
        ));
        self.readers.lock().push(Arc::downgrade(&access));
        reader.with_access(access)
    }

    /// Lets readers go on without checks, or ends that.
    fn set_suspended(&self, is_suspended: bool) {
        self.is_suspended.store(is_suspended, Ordering::Release);
        if is_suspended {
            self.open_readers().iter().for_each(|reader| reader.wake());
        }
    }

    /// The open readers; forgets the others.
    fn open_readers(&self) -> Vec<Arc<ReaderAccess>> {
        let mut open = Vec::new();
        self.readers.lock().retain(|reader| {
            let reader = reader.upgrade().filter(|reader| !reader.is_revoked());
            let is_open = reader.is_some();
            open.extend(reader);
            is_open
        });
        open
    }
}

impl ChatService {
    /// Runs until `stop` is cancelled.
    pub async fn run_access_watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(ACCESS_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            let checked = tokio::select! {
                () = stop.cancelled() => return,
                checked = async { ticks.tick().await; self.check_readers().await } => checked,
            };
            self.access_watch.set_suspended(checked.is_err());
            match checked {
                Ok(()) => is_failing = false,
                // Streams stay open while the store is unavailable. Logged once per outage.
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(error = %error.chain(), "checking the access of readers failed, retrying");
                }
                Err(_) => {}
            }
        }
    }

    async fn check_readers(&self) -> Result<()> {
        let checked_at = Instant::now();
        let readers = self.access_watch.open_readers();
        let mut sessions: HashSet<SessionId> =
            readers.iter().map(|reader| reader.session_id.clone()).collect();
        // Another instance may have deleted sessions whose ended turns are still kept here.
        let ended = if self.store.is_shared() { self.hub.ended_sessions() } else { HashSet::new() };
        sessions.extend(ended.iter().cloned());
        if sessions.is_empty() {
            return Ok(());
        }
        let members = self.store.list_members(sessions.into_iter().collect()).await?;
        for reader in readers {
            let members = members.get(&reader.session_id);
            if reader.is_allowed(members) {
                reader.confirm(checked_at);
            } else {
                tracing::info!(
                    session.id = %reader.session_id,
                    "stream ended: its reader has lost access"
                );
                reader.revoke(members.is_none());
            }
        }
        for session in ended.iter().filter(|session| !members.contains_key(*session)) {
            self.hub.cut_off_session(session, &[]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::frames::FrameBatch;
    use crate::chat::hub::{Hub, TurnBuffer};
    use crate::domain::{TurnId, UserId};
    use bytes::Bytes;
    use futures::FutureExt;
    use std::time::Duration;

    /// A turn with one frame, and a reader whose access was checked long ago.
    fn unchecked_reader(watch: &AccessWatch) -> (Arc<TurnBuffer>, TurnReader) {
        let hub = Hub::default();
        let buffer = hub.open_buffer(&SessionId::new_unchecked("s"), &TurnId::new_unchecked("t"));
        buffer.publish_frames(FrameBatch::from_bytes(Bytes::from_static(b"id: t:1\ndata: {}\n\n")));
        let ann = Principal { user: UserId::new_unchecked("ann"), is_admin: false };
        let long_ago = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let reader = watch.watch_reader(&ann, TurnReader::new(buffer.clone()), long_ago);
        (buffer, reader)
    }

    #[test]
    fn reader_waits_for_an_overdue_check_of_its_access() {
        let watch = AccessWatch::default();
        let (_buffer, mut reader) = unchecked_reader(&watch);
        let mut next = Box::pin(reader.next());
        assert_eq!(next.as_mut().now_or_never(), None);
        watch.open_readers()[0].confirm(Instant::now());
        assert!(next.now_or_never().flatten().is_some());
    }

    #[test]
    fn reader_goes_on_while_no_check_is_possible() {
        let watch = AccessWatch::default();
        let (_buffer, mut reader) = unchecked_reader(&watch);
        watch.is_suspended.store(true, Ordering::Release);
        assert!(reader.next().now_or_never().flatten().is_some());
    }
}
