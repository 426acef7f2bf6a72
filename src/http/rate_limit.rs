//! How often somebody may ask: counted in this process, so with several instances each counts for
//! itself. (Quotas, which are money, are counted in the store.)
//!
//! What changes something counts against a user's rate, reads against twenty times that; a stop is a
//! read, so that nobody has to wait before they may stop. An address has a rate of its own, wide
//! enough for an office behind one, and a narrow one for credentials that are not good.
//!
//! A turn that came before may be repeated over the rate, which takes reading its body and a look into
//! the store: so that has a rate, too, and beyond it a refusal costs next to nothing.

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

/// Reads that a user may make for each change.
const READ_MULTIPLIER: u32 = 20;
/// Requests that an address may make for each change that a user may.
const ADDRESS_MULTIPLIER: u32 = 200;
/// Looks for repeated turns, over the rate, that a user may cause for each change …
const REPLAY_MULTIPLIER: u32 = 4;
/// … and the most of them at once.
const REPLAY_BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Users and addresses that nobody has heard of for a while are forgotten every so many requests.
const CLEANUP_INTERVAL: u32 = 4096;

type KeyedLimiter<K> =
    RateLimiter<K, HashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// What counts a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestClass {
    /// It changes nothing, or ends something.
    Read,
    /// It changes something.
    Write,
}

/// All rates; none by default.
#[derive(Default)]
pub struct RequestRateLimiter {
    limiters: Option<LimiterSet>,
    request_count: AtomicU32,
}

struct LimiterSet {
    writes: KeyedLimiter<UserId>,
    /// Looks for whether a turn that is over the rate came before.
    replays: KeyedLimiter<UserId>,
    reads: KeyedLimiter<UserId>,
    addresses: KeyedLimiter<IpAddr>,
    auth_failures: KeyedLimiter<IpAddr>,
}

/// What is left of a user's rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct RateLimitStatus {
    limit: u32,
    remaining: u32,
    /// Seconds until all of it is there again.
    reset: u64,
    /// Seconds until one more may come; nothing if one may now.
    retry_after: Option<u64>,
}

impl RequestRateLimiter {
    /// A user's rate of changes; what else counts follows from it.
    pub fn new(rate: Option<RateLimit>) -> Self {
        let limits = rate.map(|rate| LimiterSet {
            writes: build_limiter(rate, 1, None),
            replays: build_limiter(rate, REPLAY_MULTIPLIER, Some(REPLAY_BURST)),
            reads: build_limiter(rate, READ_MULTIPLIER, None),
            addresses: build_limiter(rate, ADDRESS_MULTIPLIER, None),
            auth_failures: build_limiter(rate, 1, None),
        });
        Self { limiters: limits, request_count: AtomicU32::default() }
    }

    /// Counts a request of an address, whoever sends it. Errors: `rate_limited`.
    pub(super) fn check_address(&self, address: IpAddr) -> Result<()> {
        let Some(limits) = &self.limiters else { return Ok(()) };
        if self.request_count.fetch_add(1, Ordering::Relaxed).is_multiple_of(CLEANUP_INTERVAL) {
            limits.remove_stale();
        }
        let left = check_limiter(&limits.addresses, &network_prefix(address));
        left.retry_after
            .map_or(Ok(()), |_| Err(left.build_error("too many requests come from this address")))
    }

    /// Counts credentials that were refused; from too many on, that is what is told.
    pub(super) fn record_auth_failure(&self, address: IpAddr, refusal: Error) -> Error {
        let Some(limits) = &self.limiters else { return refusal };
        if refusal.kind != ErrorKind::Unauthenticated {
            return refusal;
        }
        let left = check_limiter(&limits.auth_failures, &network_prefix(address));
        match left.retry_after {
            None => refusal,
            Some(_) => left.build_error("too many credentials from this address were not valid"),
        }
    }

    /// Counts a request of a user.
    pub(super) fn check_user(&self, user: &UserId, class: RequestClass) -> Option<RateLimitStatus> {
        let limits = self.limiters.as_ref()?;
        Some(match class {
            RequestClass::Write => check_limiter(&limits.writes, user),
            RequestClass::Read => check_limiter(&limits.reads, user),
        })
    }

    /// Whether a turn that is over its user's rate may still be looked for, as one that came before.
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
    /// Why the request is refused, if it is.
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

    /// Says in an answer what is left.
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

/// What is counted as one address: of IPv6 the network, for whoever has one address has all in it.
fn network_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// So many times the rate; all of it may come at once unless no more than `at_once` may.
fn build_limiter<K: Hash + Eq + Clone>(
    rate: RateLimit,
    times: u32,
    at_once: Option<NonZeroU32>,
) -> KeyedLimiter<K> {
    let requests = rate.requests.saturating_mul(NonZeroU32::new(times).unwrap_or(NonZeroU32::MIN));
    let each = rate.period / requests.get();
    // A rate of more than one a nanosecond is none that anybody reaches.
    let quota = Quota::with_period(each).unwrap_or(Quota::per_second(requests));
    let burst = at_once.map_or(requests, |most| most.min(requests));
    RateLimiter::hashmap(quota.allow_burst(burst)).with_middleware()
}

fn check_limiter<K: Hash + Eq + Clone>(limiter: &KeyedLimiter<K>, key: &K) -> RateLimitStatus {
    match limiter.check_key(key) {
        Ok(state) => {
            let (limit, remaining) =
                (state.quota().burst_size().get(), state.remaining_burst_capacity());
            let missing = limit.saturating_sub(remaining);
            let reset = state.quota().replenish_interval() * missing;
            RateLimitStatus { limit, remaining, reset: reset.as_secs() + 1, retry_after: None }
        }
        Err(refusal) => {
            let wait = refusal.wait_time_from(DefaultClock::default().now()).as_secs() + 1;
            let quota = refusal.quota();
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
        let (ann, ben) = (UserId::new_unchecked("ann"), UserId::new_unchecked("ben"));
        let may = |user, class| rates.check_user(user, class).unwrap().to_error().is_none();
        assert_eq!([1, 2, 3].map(|_| may(&ann, RequestClass::Write)), [true, true, false]);
        assert!((0..40).all(|_| may(&ann, RequestClass::Read)) && !may(&ann, RequestClass::Read));
        assert!(may(&ben, RequestClass::Write));
        let refusal = rates.check_user(&ann, RequestClass::Write).unwrap().to_error().unwrap();
        let wait = refusal.details.unwrap()["retryAfter"].as_u64().unwrap();
        assert!((1700..=1801).contains(&wait), "{wait}");
        assert!(RequestRateLimiter::default().check_user(&ann, RequestClass::Write).is_none());
    }

    #[test]
    fn failed_credentials_are_limited_per_address() {
        let rates = RequestRateLimiter::new(RateLimit::parse("3/h"));
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let told = || rates.record_auth_failure(address, crate::auth::invalid_credentials()).kind;
        assert_eq!([1, 2, 3].map(|_| told()), [ErrorKind::Unauthenticated; 3]);
        assert_eq!(told(), ErrorKind::RateLimited);
        assert!((0..597).all(|_| rates.check_address(address).is_ok()));
        let late = rates.record_auth_failure(address, Error::store_unavailable("it is away")).kind;
        assert_eq!(late, ErrorKind::StoreUnavailable, "that is no fault of theirs");
    }
}
