//! Rate limits, counted in this process: with several instances each one counts for itself. Quotas,
//! which limit tokens and money, are counted in the store.
//!
//! Writes count against the user's configured rate, reads against twenty times that rate. Stopping
//! a reply is a read, so that it is always possible. Each address has a rate of its own, wide
//! enough for an office that shares one NAT address, and a narrow one for failed credentials.
//!
//! A retry of an earlier turn is allowed over the rate. Recognizing one takes reading the body and
//! a lookup in the store, so these lookups have a rate, too; above it a rejection is cheap.

use crate::domain::UserId;
use crate::domain::quota::RateLimit;
use crate::error::{Error, ErrorKind, Result};
use axum::http::{HeaderMap, HeaderValue};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

/// Reads per write that a user may make.
const READ_MULTIPLIER: u32 = 20;
/// Requests that an address may make per write allowed to a user.
const ADDRESS_MULTIPLIER: u32 = 200;
/// Lookups of earlier turns, over the rate, per write allowed to a user.
const REPLAY_MULTIPLIER: u32 = 4;
const REPLAY_BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Number of requests after which the state of idle users and addresses is dropped.
const CLEANUP_INTERVAL: u32 = 4096;

type KeyedLimiter<K> =
    RateLimiter<K, HashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// The rate that a request counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestClass {
    /// Requests without side effects, and cancellations.
    Read,
    Write,
}

/// All rate limiters. By default there is no limit.
#[derive(Default)]
pub struct RequestRateLimiter {
    limiters: Option<LimiterSet>,
    request_count: AtomicU32,
}

struct LimiterSet {
    writes: KeyedLimiter<UserId>,
    /// Lookups whether a turn over the rate is a retry of an earlier one.
    replays: KeyedLimiter<UserId>,
    reads: KeyedLimiter<UserId>,
    addresses: KeyedLimiter<IpAddr>,
    auth_failures: KeyedLimiter<IpAddr>,
}

/// The state of a user's rate after a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct RateLimitStatus {
    limit: u32,
    remaining: u32,
    /// Seconds until the full rate is available again.
    reset: u64,
    /// Seconds until the next request is allowed; `None` if this one was.
    retry_after: Option<u64>,
}

impl RequestRateLimiter {
    /// `rate` is the rate of writes per user; the others are multiples of it. `None`: no limits.
    pub fn new(rate: Option<RateLimit>) -> Self {
        let limiters = rate.map(|rate| LimiterSet {
            writes: build_limiter(rate, 1, None),
            replays: build_limiter(rate, REPLAY_MULTIPLIER, Some(REPLAY_BURST)),
            reads: build_limiter(rate, READ_MULTIPLIER, None),
            addresses: build_limiter(rate, ADDRESS_MULTIPLIER, None),
            auth_failures: build_limiter(rate, 1, None),
        });
        Self { limiters, request_count: AtomicU32::default() }
    }

    /// Counts a request of an address. Errors: `rate_limited`.
    pub(super) fn check_address(&self, address: IpAddr) -> Result<()> {
        let Some(limits) = &self.limiters else { return Ok(()) };
        // The limiters keep a state for each key they have seen, and drop none by themselves.
        if self.request_count.fetch_add(1, Ordering::Relaxed).is_multiple_of(CLEANUP_INTERVAL) {
            limits.remove_stale();
        }
        let status = check_limiter(&limits.addresses, &network_prefix(address));
        status
            .retry_after
            .map_or(Ok(()), |_| Err(status.build_error("too many requests come from this address")))
    }

    /// Counts a request with invalid credentials. Returns `rejection`, or `rate_limited` if there
    /// were too many of them.
    pub(super) fn record_auth_failure(&self, address: IpAddr, rejection: Error) -> Error {
        let Some(limits) = &self.limiters else { return rejection };
        // An unavailable store or a missing scope does not indicate that keys are being guessed.
        if rejection.kind != ErrorKind::Unauthenticated {
            return rejection;
        }
        let status = check_limiter(&limits.auth_failures, &network_prefix(address));
        match status.retry_after {
            None => rejection,
            Some(_) => status
                .build_error("too many requests with invalid credentials came from this address"),
        }
    }

    /// Counts a request of a user. `None` if there is no limit.
    pub(super) fn check_user(&self, user: &UserId, class: RequestClass) -> Option<RateLimitStatus> {
        let limits = self.limiters.as_ref()?;
        Some(match class {
            RequestClass::Write => check_limiter(&limits.writes, user),
            RequestClass::Read => check_limiter(&limits.reads, user),
        })
    }

    /// Counts an idempotency lookup over the user's rate. Returns whether it is allowed.
    pub(super) fn allow_replay_lookup(&self, user: &UserId) -> bool {
        self.limiters.as_ref().is_none_or(|limits| limits.replays.check_key(user).is_ok())
    }
}

impl LimiterSet {
    fn remove_stale(&self) {
        self.writes.retain_recent();
        self.replays.retain_recent();
        self.reads.retain_recent();
        self.addresses.retain_recent();
        self.auth_failures.retain_recent();
    }
}

impl RateLimitStatus {
    /// The error to return if the request exceeded the rate.
    pub(super) fn to_error(self) -> Option<Error> {
        self.retry_after
            .map(|_| self.build_error("you have sent too many requests in a short time"))
    }

    fn build_error(&self, sentence: &'static str) -> Error {
        Error::limit_exceeded(
            ErrorKind::RateLimited,
            sentence,
            self.limit,
            self.retry_after.unwrap_or_default(),
        )
    }

    /// Sets the `RateLimit-*` headers.
    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in [
            ("ratelimit-limit", u64::from(self.limit)),
            ("ratelimit-remaining", u64::from(self.remaining)),
            ("ratelimit-reset", self.reset),
        ] {
            headers.insert(name, HeaderValue::from(value));
        }
    }
}

/// The key that an address is counted under.
pub(super) fn network_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        // An IPv6 client usually controls a whole /64 network, and has an address for each request.
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// A limiter for `multiplier` times the rate. A full period's requests may come at once, or
/// `max_burst` if that is less.
fn build_limiter<K: Hash + Eq + Clone>(
    rate: RateLimit,
    multiplier: u32,
    max_burst: Option<NonZeroU32>,
) -> KeyedLimiter<K> {
    let multiplier = NonZeroU32::new(multiplier).unwrap_or(NonZeroU32::MIN);
    let requests = rate.requests.saturating_mul(multiplier);
    let interval = rate.period / requests.get();
    // `with_period` refuses an interval that rounds to zero: a rate too high to be reached anyway.
    let quota = Quota::with_period(interval).unwrap_or(Quota::per_second(requests));
    let burst = max_burst.map_or(requests, |max| max.min(requests));
    RateLimiter::hashmap(quota.allow_burst(burst)).with_middleware()
}

fn check_limiter<K: Hash + Eq + Clone>(limiter: &KeyedLimiter<K>, key: &K) -> RateLimitStatus {
    match limiter.check_key(key) {
        Ok(state) => {
            let limit = state.quota().burst_size().get();
            let remaining = state.remaining_burst_capacity();
            let missing = limit.saturating_sub(remaining);
            let reset = state.quota().replenish_interval() * missing;
            // Rounded up to whole seconds, so that a client that waits this long is not too early.
            RateLimitStatus { limit, remaining, reset: reset.as_secs() + 1, retry_after: None }
        }
        Err(rejection) => {
            let wait = rejection.wait_time_from(DefaultClock::default().now()).as_secs() + 1;
            let quota = rejection.quota();
            let limit = quota.burst_size().get();
            let reset = (quota.replenish_interval() * limit).as_secs() + wait;
            RateLimitStatus { limit, remaining: 0, reset, retry_after: Some(wait) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_are_limited_apart_per_user() {
        let rates = RequestRateLimiter::new(RateLimit::parse("2/h"));
        let ann = UserId::new_unchecked("ann");
        let ben = UserId::new_unchecked("ben");
        let passes = |user, class| rates.check_user(user, class).unwrap().to_error().is_none();
        assert_eq!([1, 2, 3].map(|_| passes(&ann, RequestClass::Write)), [true, true, false]);
        assert!((0..40).all(|_| passes(&ann, RequestClass::Read)));
        assert!(!passes(&ann, RequestClass::Read));
        assert!(passes(&ben, RequestClass::Write));
        let rejection = rates.check_user(&ann, RequestClass::Write).unwrap().to_error().unwrap();
        let wait = rejection.details.unwrap()["retryAfter"].as_u64().unwrap();
        assert!((1700..=1801).contains(&wait), "{wait}");
        assert!(RequestRateLimiter::default().check_user(&ann, RequestClass::Write).is_none());
    }

    #[test]
    fn failed_credentials_are_limited_per_address() {
        let rates = RequestRateLimiter::new(RateLimit::parse("3/h"));
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let fail = || rates.record_auth_failure(address, crate::auth::invalid_credentials()).kind;
        assert_eq!([1, 2, 3].map(|_| fail()), [ErrorKind::Unauthenticated; 3]);
        assert_eq!(fail(), ErrorKind::RateLimited);
        assert!((0..597).all(|_| rates.check_address(address).is_ok()));
        let outage = rates.record_auth_failure(address, Error::store_unavailable("offline")).kind;
        assert_eq!(outage, ErrorKind::StoreUnavailable, "an outage does not count as a failure");
    }
}
