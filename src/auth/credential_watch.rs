//! Notices credentials that become invalid while a request that was made with them is still open.
//!
//! Keys may be revoked by any process, so those of open requests are looked up about twice a
//! second, in one read for all of them. Short requests cost a timer and nothing else. A response
//! whose key was looked up too long ago, because the machine is overloaded, waits for the next
//! look-up.

use super::{AuthBackend, Authenticator, Identity};
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::key::KeyId;
use crate::domain::principal::{ACCESS_CHECK_INTERVAL, MAX_ACCESS_CHECK_AGE};
use crate::error::Result;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// Age from which a request is watched. With [`ACCESS_CHECK_INTERVAL`] and the look-up it is less
/// than a second.
const WATCH_DELAY: Duration = Duration::from_millis(200);

/// The keys of open requests.
#[derive(Default)]
pub(super) struct CredentialWatch {
    /// Each request holds one reference.
    keys: Mutex<HashMap<KeyId, Weak<WatchedKey>>>,
    /// Set while the store is unavailable: no key can be looked up then.
    is_suspended: AtomicBool,
}

/// A key with open requests.
struct WatchedKey {
    /// Cancelled when the key is found to be gone.
    revoked: CancellationToken,
    /// When the last look-up began that found the key; `None` before the first one.
    checked_at: Mutex<Option<Instant>>,
    /// Notified of look-ups after a time without one.
    rechecked: Notify,
}

impl CredentialWatch {
    fn watch_key(&self, key: &KeyId) -> Arc<WatchedKey> {
        let mut keys = self.keys.lock();
        if let Some(watched) = keys.get(key).and_then(Weak::upgrade) {
            return watched;
        }
        let watched = Arc::new(WatchedKey {
            revoked: CancellationToken::new(),
            checked_at: Mutex::default(),
            rechecked: Notify::new(),
        });
        keys.insert(key.clone(), Arc::downgrade(&watched));
        watched
    }

    /// Lets responses go on without look-ups, or ends that.
    fn set_suspended(&self, is_suspended: bool) {
        self.is_suspended.store(is_suspended, Ordering::Release);
        if is_suspended {
            self.open_keys().iter().for_each(|(_, watched)| watched.rechecked.notify_waiters());
        }
    }

    /// The keys with open requests; forgets the others.
    fn open_keys(&self) -> Vec<(KeyId, Arc<WatchedKey>)> {
        let mut open = Vec::new();
        self.keys.lock().retain(|key, watched| {
            let watched = watched.upgrade().filter(|watched| !watched.revoked.is_cancelled());
            let is_open = watched.is_some();
            open.extend(watched.map(|watched| (key.clone(), watched)));
            is_open
        });
        open
    }
}

impl WatchedKey {
    /// Notes a look-up that found the key, and began at `checked_at`.
    fn confirm(&self, checked_at: Instant) {
        let before = self.checked_at.lock().replace(checked_at);
        if before.is_none_or(|before| before.elapsed() > MAX_ACCESS_CHECK_AGE) {
            self.rechecked.notify_waiters();
        }
    }
}

/// The credentials of an open request.
pub struct OpenCredentials {
    auth: Arc<Authenticator>,
    key: Option<KeyId>,
    expires_at: Option<Timestamp>,
    authenticated_at: Instant,
    /// Set when the request has been open for [`WATCH_DELAY`].
    watched: OnceLock<Arc<WatchedKey>>,
}

impl OpenCredentials {
    /// Waits until they have expired or been revoked.
    pub fn wait_until_invalid(self: &Arc<Self>) -> BoxFuture<'static, ()> {
        let credentials = self.clone();
        async move {
            let revoked = async {
                let Some(key) = &credentials.key else { return pending().await };
                sleep(WATCH_DELAY).await;
                credentials.watch_key(key).revoked.cancelled().await;
            };
            tokio::select! {
                () = revoked => {}
                () = wait_until(credentials.expires_at) => {}
            }
        }
        .boxed()
    }

    /// Waits until they were found to be valid a moment ago, which they usually were. Never returns
    /// if they are invalid.
    pub async fn wait_until_confirmed(&self) {
        if self.expires_at.is_some_and(|end| end.as_millis() <= clock::now().as_millis()) {
            return pending().await;
        }
        let Some(key) = self.key.as_ref().filter(|_| !self.is_fresh()) else { return };
        let watched = self.watch_key(key);
        loop {
            let rechecked = watched.rechecked.notified();
            if self.is_fresh() {
                return;
            }
            rechecked.await;
        }
    }

    fn watch_key(&self, key: &KeyId) -> &WatchedKey {
        self.watched.get_or_init(|| self.auth.credential_watch.watch_key(key))
    }

    fn is_fresh(&self) -> bool {
        let looked_up_at = self.watched.get().and_then(|watched| *watched.checked_at.lock());
        let checked_at =
            looked_up_at.map_or(self.authenticated_at, |at| at.max(self.authenticated_at));
        checked_at.elapsed() <= MAX_ACCESS_CHECK_AGE
            || self.auth.credential_watch.is_suspended.load(Ordering::Acquire)
    }
}

impl Authenticator {
    /// Watches the credentials of a request, which were checked at `authenticated_at`. `None` if
    /// they stay valid for as long as a request may last.
    pub fn open_credentials(
        self: &Arc<Self>,
        identity: &Identity,
        authenticated_at: Instant,
    ) -> Option<Arc<OpenCredentials>> {
        let has_key = matches!(self.backend, AuthBackend::Keys(_)) && identity.key.is_some();
        if !has_key && identity.expires_at.is_none() {
            return None;
        }
        Some(Arc::new(OpenCredentials {
            auth: self.clone(),
            key: identity.key.clone().filter(|_| has_key),
            expires_at: identity.expires_at,
            authenticated_at,
            watched: OnceLock::new(),
        }))
    }

    /// Looks up the keys of open requests until `stop` is cancelled.
    pub async fn run_credential_watch(self: Arc<Self>, stop: CancellationToken) {
        let AuthBackend::Keys(keys) = &self.backend else { return };
        let mut ticks = interval(ACCESS_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            let checked: Result<()> = tokio::select! {
                () = stop.cancelled() => return,
                checked = async {
                    ticks.tick().await;
                    let checked_at = Instant::now();
                    let open = self.credential_watch.open_keys();
                    if open.is_empty() {
                        return Ok(());
                    }
                    let ids = open.iter().map(|(id, _)| id.clone()).collect();
                    let existing = keys.find_existing_keys(ids).await?;
                    for (id, watched) in open {
                        if existing.contains(&id) {
                            watched.confirm(checked_at);
                        } else {
                            tracing::info!(key.id = %id, "key revoked: ending its open requests");
                            watched.revoked.cancel();
                        }
                    }
                    Ok(())
                } => checked,
            };
            self.credential_watch.set_suspended(checked.is_err());
            match checked {
                Ok(()) => is_failing = false,
                // Requests stay open while the store is unavailable. Logged once per outage.
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(error = %error.chain(), "checking the keys of open requests failed, retrying");
                }
                Err(_) => {}
            }
        }
    }
}

/// Waits until the system clock shows this time.
async fn wait_until(end: Option<Timestamp>) {
    let Some(end) = end else { return std::future::pending().await };
    loop {
        let left = end.as_millis() - clock::now().as_millis();
        let Ok(left @ 1..) = u64::try_from(left) else { return };
        // In steps, because the system clock may be set meanwhile, and timers do not follow it.
        sleep(Duration::from_millis(left).min(ACCESS_CHECK_INTERVAL)).await;
    }
}
