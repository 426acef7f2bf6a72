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
use crate::error::{Error, Kind, Result};
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
const READS: u32 = 20;
/// Requests that an address may make for each change that a user may.
const ADDRESS: u32 = 200;
/// Looks for repeated turns, over the rate, that a user may cause for each change …
const REPEATS: u32 = 4;
/// … and the most of them at once.
const REPEATS_AT_ONCE: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Users and addresses that nobody has heard of for a while are forgotten every so many requests.
const TIDY: u32 = 4096;

type Limiter<K> = RateLimiter<K, HashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// What counts a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It changes nothing, or ends something.
    Read,
    /// It changes something.
    Change,
}

/// All rates; none by default.
#[derive(Default)]
pub struct Rates {
    limits: Option<Limits>,
    asked: AtomicU32,
}

struct Limits {
    changes: Limiter<UserId>,
    /// Looks for whether a turn that is over the rate came before.
    repeats: Limiter<UserId>,
    reads: Limiter<UserId>,
    addresses: Limiter<IpAddr>,
    refused: Limiter<IpAddr>,
}

/// What is left of a user's rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    limit: u32,
    remaining: u32,
    /// Seconds until all of it is there again.
    reset: u64,
    /// Seconds until one more may come; nothing if one may now.
    wait: Option<u64>,
}

impl Rates {
    /// A user's rate of changes; what else counts follows from it.
    pub fn of(rate: Option<RateLimit>) -> Self {
        let limits = rate.map(|rate| Limits {
            changes: limiter(rate, 1, None),
            repeats: limiter(rate, REPEATS, Some(REPEATS_AT_ONCE)),
            reads: limiter(rate, READS, None),
            addresses: limiter(rate, ADDRESS, None),
            refused: limiter(rate, 1, None),
        });
        Self { limits, asked: AtomicU32::default() }
    }

    /// Counts a request of an address, whoever sends it. Errors: `rate_limited`.
    pub(super) fn admit(&self, address: IpAddr) -> Result<()> {
        let Some(limits) = &self.limits else { return Ok(()) };
        if self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(TIDY) {
            limits.tidy();
        }
        let left = take(&limits.addresses, &network(address));
        left.wait.map_or(Ok(()), |_| Err(left.refusal("too many requests come from this address")))
    }

    /// Counts credentials that were refused; from too many on, that is what is told.
    pub(super) fn refused(&self, address: IpAddr, refusal: Error) -> Error {
        let Some(limits) = &self.limits else { return refusal };
        if refusal.kind != Kind::Unauthenticated {
            return refusal;
        }
        let left = take(&limits.refused, &network(address));
        match left.wait {
            None => refusal,
            Some(_) => left.refusal("too many credentials from this address were not valid"),
        }
    }

    /// Counts a request of a user.
    pub(super) fn take(&self, user: &UserId, class: Class) -> Option<Left> {
        let limits = self.limits.as_ref()?;
        Some(match class {
            Class::Change => take(&limits.changes, user),
            Class::Read => take(&limits.reads, user),
        })
    }

    /// Whether a turn that is over its user's rate may still be looked for, as one that came before.
    pub(super) fn may_repeat(&self, user: &UserId) -> bool {
        self.limits.as_ref().is_none_or(|limits| limits.repeats.check_key(user).is_ok())
    }
}

impl Limits {
    fn tidy(&self) {
        self.changes.retain_recent();
        self.repeats.retain_recent();
        self.reads.retain_recent();
        self.addresses.retain_recent();
        self.refused.retain_recent();
    }
}

impl Left {
    /// Why the request is refused, if it is.
    pub(super) fn error(&self) -> Option<Error> {
        self.wait.map(|_| self.refusal("you have sent too many requests in a short time"))
    }

    fn refusal(&self, sentence: &'static str) -> Error {
        Error::limit_exceeded(
            Kind::RateLimited,
            sentence,
            self.limit,
            self.wait.unwrap_or_default(),
        )
    }

    /// Says in an answer what is left.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
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
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// So many times the rate; all of it may come at once unless no more than `at_once` may.
fn limiter<K: Hash + Eq + Clone>(
    rate: RateLimit,
    times: u32,
    at_once: Option<NonZeroU32>,
) -> Limiter<K> {
    let requests = rate.requests.saturating_mul(NonZeroU32::new(times).unwrap_or(NonZeroU32::MIN));
    let each = rate.period / requests.get();
    // A rate of more than one a nanosecond is none that anybody reaches.
    let quota = Quota::with_period(each).unwrap_or(Quota::per_second(requests));
    let burst = at_once.map_or(requests, |most| most.min(requests));
    RateLimiter::hashmap(quota.allow_burst(burst)).with_middleware()
}

fn take<K: Hash + Eq + Clone>(limiter: &Limiter<K>, key: &K) -> Left {
    match limiter.check_key(key) {
        Ok(state) => {
            let (limit, remaining) =
                (state.quota().burst_size().get(), state.remaining_burst_capacity());
            let missing = limit.saturating_sub(remaining);
            let reset = state.quota().replenish_interval() * missing;
            Left { limit, remaining, reset: reset.as_secs() + 1, wait: None }
        }
        Err(refusal) => {
            let wait = refusal.wait_time_from(DefaultClock::default().now()).as_secs() + 1;
            let quota = refusal.quota();
            let limit = quota.burst_size().get();
            let reset = (quota.replenish_interval() * limit).as_secs() + wait;
            Left { limit, remaining: 0, reset, wait: Some(wait) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_changes_are_counted_apart_and_each_user_for_themselves() {
        let rates = Rates::of(RateLimit::parse("2/h"));
        let (ann, ben) = (UserId::trusted("ann"), UserId::trusted("ben"));
        let may = |user, class| rates.take(user, class).unwrap().error().is_none();
        assert_eq!([1, 2, 3].map(|_| may(&ann, Class::Change)), [true, true, false]);
        assert!((0..40).all(|_| may(&ann, Class::Read)) && !may(&ann, Class::Read));
        assert!(may(&ben, Class::Change));
        let refusal = rates.take(&ann, Class::Change).unwrap().error().unwrap();
        let wait = refusal.details.unwrap()["retryAfter"].as_u64().unwrap();
        assert!((1700..=1801).contains(&wait), "{wait}");
        assert!(Rates::default().take(&ann, Class::Change).is_none());
    }

    #[test]
    fn an_address_may_only_try_so_many_credentials() {
        let rates = Rates::of(RateLimit::parse("3/h"));
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let told = || rates.refused(address, crate::auth::refused()).kind;
        assert_eq!([1, 2, 3].map(|_| told()), [Kind::Unauthenticated; 3]);
        assert_eq!(told(), Kind::RateLimited);
        assert!((0..597).all(|_| rates.admit(address).is_ok()));
        let late = rates.refused(address, Error::store_unavailable("it is away")).kind;
        assert_eq!(late, Kind::StoreUnavailable, "that is no fault of theirs");
    }
}
