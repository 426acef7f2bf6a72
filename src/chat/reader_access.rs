//! One reader's access to the session whose turn it reads. `access_watch.rs` revokes it.

use crate::domain::principal::{AccessDecision, AccessLevel, MAX_ACCESS_CHECK_AGE};
use crate::domain::{Principal, SessionId};
use crate::store::SessionMembers;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::Notify;

pub(super) struct ReaderAccess {
    principal: Principal,
    pub(super) session_id: SessionId,
    /// When the last check began that found the access.
    checked_at: Mutex<Instant>,
    /// Set while no check is possible. Shared by all readers.
    is_suspended: Arc<AtomicBool>,
    is_revoked: AtomicBool,
    /// Whether it was revoked because the session was deleted.
    is_session_gone: AtomicBool,
    /// Wakes the reader.
    changed: Arc<Notify>,
}

impl ReaderAccess {
    pub(super) fn new(
        principal: Principal,
        session_id: SessionId,
        changed: Arc<Notify>,
        checked_at: Instant,
        is_suspended: Arc<AtomicBool>,
    ) -> Self {
        Self {
            principal,
            session_id,
            checked_at: Mutex::new(checked_at),
            is_suspended,
            is_revoked: AtomicBool::new(false),
            is_session_gone: AtomicBool::new(false),
            changed,
        }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.is_revoked.load(Ordering::Acquire)
    }

    pub(super) fn is_session_gone(&self) -> bool {
        self.is_session_gone.load(Ordering::Acquire)
    }

    /// Whether the last check is so old that the reader has to wait for the next one.
    pub(super) fn is_stale(&self) -> bool {
        !self.is_suspended.load(Ordering::Acquire)
            && self.checked_at.lock().elapsed() > MAX_ACCESS_CHECK_AGE
    }

    /// Notes a check that found the access, and began at `checked_at`.
    pub(super) fn confirm(&self, checked_at: Instant) {
        let before = std::mem::replace(&mut *self.checked_at.lock(), checked_at);
        if before.elapsed() > MAX_ACCESS_CHECK_AGE {
            self.wake();
        }
    }

    /// Lets the reader look again at whether it may go on.
    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Whether the reader may go on. `None` for a session that is gone.
    pub(super) fn is_allowed(&self, members: Option<&SessionMembers>) -> bool {
        let Some(SessionMembers { owner, participants }) = members else { return false };
        let access = self.principal.authorize(AccessLevel::Participant, owner, participants);
        access == AccessDecision::Allowed
    }

    /// Ends the reader's stream before the frames that it has not read.
    pub(super) fn revoke(&self, is_session_gone: bool) {
        self.is_session_gone.store(is_session_gone, Ordering::Release);
        self.is_revoked.store(true, Ordering::Release);
        self.wake();
    }
}
