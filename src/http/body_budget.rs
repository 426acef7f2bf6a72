//! Bytes of bodies in memory: a bound for each user, and one for the server.
//!
//! Those of a request are counted as they arrive and given back when it has been handled. Those of
//! a long response are counted until the client has taken them. The last part of the server's
//! budget is kept for users who hold little, so that several users with large bodies don't lock out
//! everyone else.

use crate::domain::UserId;
use crate::error::{Error, ErrorKind, Result};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

/// A user may hold this part of the server's budget.
const USER_SHARE: usize = 4;
/// Part of the server's budget that is kept for users who hold little.
const RESERVE_SHARE: usize = 8;
/// Bytes up to which a user may use the reserve.
const SMALL_HOLDING: usize = 2 << 20;
/// Seconds after which a client should try again. Most bodies are handled within one.
const RETRY_AFTER: u64 = 1;

/// The budget of a server.
pub struct BodyBudget {
    server_limit: usize,
    user_limit: usize,
    held: Mutex<HeldBytes>,
}

#[derive(Default)]
struct HeldBytes {
    total: usize,
    by_user: HashMap<UserId, usize>,
}

impl BodyBudget {
    /// A budget of `server_limit` bytes. Each user may hold a quarter of it, and always one body of
    /// `largest_body` bytes.
    pub fn new(server_limit: usize, largest_body: usize) -> Self {
        let user_limit = (server_limit / USER_SHARE).max(largest_body.min(server_limit));
        Self { server_limit, user_limit, held: Mutex::default() }
    }

    pub(super) fn lease(self: &Arc<Self>, user: UserId) -> BodyLease {
        BodyLease(Arc::new(HeldBody { budget: self.clone(), user, bytes: Mutex::new(0) }))
    }

    fn take(&self, user: &UserId, bytes: usize) -> Result<()> {
        let mut held = self.held.lock();
        let total = held.total + bytes;
        let own = held.by_user.get(user).copied().unwrap_or_default() + bytes;
        if own > self.user_limit {
            return Err(user_limit_error(self.user_limit));
        }
        let reserve = if own <= SMALL_HOLDING { 0 } else { self.server_limit / RESERVE_SHARE };
        if total > self.server_limit - reserve {
            return Err(server_limit_error(self.server_limit));
        }
        held.total = total;
        held.by_user.insert(user.clone(), own);
        Ok(())
    }

    /// Counts bytes that exist already, whatever the limits. Later requests run into these.
    fn count(&self, user: &UserId, bytes: usize) {
        let mut held = self.held.lock();
        held.total += bytes;
        *held.by_user.entry(user.clone()).or_default() += bytes;
    }

    fn give_back(&self, user: &UserId, bytes: usize) {
        let mut held = self.held.lock();
        held.total -= bytes;
        if let Some(own) = held.by_user.get_mut(user) {
            *own -= bytes;
            if *own == 0 {
                held.by_user.remove(user);
            }
        }
    }
}

/// The bytes that one request holds; given back when the last clone is dropped.
#[derive(Clone)]
pub(super) struct BodyLease(Arc<HeldBody>);

struct HeldBody {
    budget: Arc<BodyBudget>,
    user: UserId,
    bytes: Mutex<usize>,
}

impl BodyLease {
    /// Counts `bytes` that have arrived. Errors: `rate_limited` or `store_unavailable`, if the user
    /// or the server holds too many.
    pub(super) fn take(&self, bytes: usize) -> Result<()> {
        self.0.budget.take(&self.0.user, bytes)?;
        *self.0.bytes.lock() += bytes;
        Ok(())
    }

    /// Counts `bytes` that cannot be refused any more.
    pub(super) fn count(&self, bytes: usize) {
        self.0.budget.count(&self.0.user, bytes);
        *self.0.bytes.lock() += bytes;
    }

    /// Keeps what was taken until `bytes` have been sent or dropped.
    pub(super) fn attach_bytes(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(LeasedBytes { bytes, _lease: self })
    }
}

/// Bytes of a response, counted until they have been sent.
struct LeasedBytes {
    bytes: Bytes,
    _lease: BodyLease,
}

impl AsRef<[u8]> for LeasedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyLease {
    /// Keeps what was taken until `body` has been sent or dropped.
    pub(super) fn attach(self, body: Body) -> Body {
        Body::new(body.map_frame(move |frame| {
            let lease = self.clone();
            frame.map_data(|bytes| lease.attach_bytes(bytes))
        }))
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        if bytes > 0 {
            self.budget.give_back(&self.user, bytes);
        }
    }
}

fn user_limit_error(limit: usize) -> Error {
    let sentence = format!(
        "your requests in progress hold more than {limit} bytes of bodies; read the answers, and send \
         fewer at once"
    );
    Error::limit_exceeded(ErrorKind::RateLimited, sentence, limit, RETRY_AFTER)
        .with_limit("body_bytes_user")
}

fn server_limit_error(limit: usize) -> Error {
    let sentence = format!(
        "the requests in progress hold more than {limit} bytes of bodies; nothing was changed; \
         try again shortly"
    );
    Error::new(ErrorKind::StoreUnavailable, sentence)
        .with_details(json!({ "retryAfter": RETRY_AFTER }))
        .with_limit("body_bytes_server")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn lease(budget: &Arc<BodyBudget>, user: &str) -> BodyLease {
        budget.lease(UserId::new_unchecked(user))
    }

    #[test]
    fn user_holds_a_quarter_and_gives_it_back() {
        let budget = Arc::new(BodyBudget::new(64 * MIB, 4 * MIB));
        let first = lease(&budget, "ann");
        let second = lease(&budget, "ann");
        first.take(12 * MIB).unwrap();
        let refused = second.take(5 * MIB).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::RateLimited);
        lease(&budget, "ben").take(5 * MIB).unwrap();
        drop(first);
        second.take(5 * MIB).unwrap();
        drop(second);
        assert!(budget.held.lock().by_user.is_empty());
    }

    #[tokio::test]
    async fn response_counts_until_its_bytes_have_been_sent() {
        let budget = Arc::new(BodyBudget::new(64 * MIB, 4 * MIB));
        let first = lease(&budget, "ann");
        first.take(12 * MIB).unwrap();
        let mut body = first.attach(Body::from(vec![0; 12 * MIB]));
        let sent = body.frame().await.unwrap().unwrap();
        drop(body);
        assert!(lease(&budget, "ann").take(5 * MIB).is_err());
        drop(sent);
        lease(&budget, "ann").take(5 * MIB).unwrap();
    }

    #[test]
    fn small_bodies_pass_when_large_ones_fill_the_server() {
        let budget = Arc::new(BodyBudget::new(64 * MIB, 4 * MIB));
        let users = ["a", "b", "c", "d"].map(|user| lease(&budget, user));
        let taken = users.each_ref().map(|lease| lease.take(16 * MIB).is_ok());
        assert_eq!(taken, [true, true, true, false]);
        assert_eq!(users[3].take(15 * MIB).unwrap_err().kind, ErrorKind::StoreUnavailable);
        users[3].take(8 * MIB).unwrap();
        lease(&budget, "neighbor").take(MIB).unwrap();
    }

    #[test]
    fn largest_body_always_fits_a_small_budget() {
        let budget = Arc::new(BodyBudget::new(40 * MIB, 32 * MIB));
        lease(&budget, "ann").take(32 * MIB).unwrap();
    }
}
