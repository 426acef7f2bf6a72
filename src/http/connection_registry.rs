//! The open connections: how many there may be in all, per address and per user, and which one is
//! closed for a new one.
//!
//! A connection without a running request makes room for others, first of all one that has never
//! sent a request. A running request is never cut off.

use crate::domain::UserId;
use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Connections by default, if there are descriptors for them.
const DEFAULT_CONNECTIONS: usize = 16 << 10;
/// Descriptors that are not used for connections, at least: for the database, providers and
/// temporary files, and for refusing connections over a bound.
const MIN_RESERVED_DESCRIPTORS: usize = 64;
const MAX_RESERVED_DESCRIPTORS: usize = 1024;
/// One address may hold this share of the connections, one user that share.
const ADDRESS_SHARE: usize = 2;
const USER_SHARE: usize = 8;

/// Upper bounds for open connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    pub total: usize,
    pub per_address: usize,
    pub per_user: usize,
}

impl ConnectionLimits {
    /// Limits for a process that may open `descriptors` files; a quarter of them is reserved,
    /// within bounds. `max_connections` is the operator's limit.
    pub fn new(descriptors: u64, max_connections: Option<usize>) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let reserved = (descriptors / 4).clamp(MIN_RESERVED_DESCRIPTORS, MAX_RESERVED_DESCRIPTORS);
        let available = descriptors.saturating_sub(reserved);
        let total = max_connections.unwrap_or(DEFAULT_CONNECTIONS).min(available).max(USER_SHARE);
        Self { total, per_address: total / ADDRESS_SHARE, per_user: total / USER_SHARE }
    }
}

/// All open connections of the server.
pub(super) struct ConnectionRegistry {
    limits: ConnectionLimits,
    state: Mutex<RegistryState>,
}

#[derive(Default)]
struct RegistryState {
    next_number: u64,
    connections: HashMap<u64, OpenConnection>,
    /// Connections without a running request, in the order in which they make room.
    idle: BTreeSet<IdleRank>,
    /// Number of connections, and those without a running request, by address.
    addresses: HashMap<IpAddr, (usize, BTreeSet<IdleRank>)>,
    users: HashMap<UserId, usize>,
}

/// Whether the connection has served a request, when it became idle, and its number.
type IdleRank = (bool, u64, u64);

struct OpenConnection {
    address: IpAddr,
    /// The user of the latest request.
    user: Option<UserId>,
    rank: IdleRank,
    evicted: CancellationToken,
}

/// A place for a connection, free again once it is dropped.
pub(super) struct ConnectionSlot {
    registry: Arc<ConnectionRegistry>,
    number: u64,
    evicted: CancellationToken,
}

/// A request in progress. Until it is dropped, its connection is not closed to make room.
pub(super) struct ActiveRequest(Arc<ConnectionSlot>);

/// The bound that a connection exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionBound {
    Total,
    Address,
}

impl ConnectionBound {
    pub(super) fn to_error(self, limits: ConnectionLimits) -> Error {
        let (bound, whose, limit) = match self {
            Self::Total => (limits.total, "this server has", "connections"),
            Self::Address => (limits.per_address, "your address has", "connections_per_address"),
        };
        let message = format!(
            "{whose} {bound} connections open, the maximum; close some, or try again later"
        );
        Error::limit_exceeded(ErrorKind::RateLimited, message, bound as u64, 1).with_limit(limit)
    }
}

impl ConnectionRegistry {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    /// Takes a place for a connection, closing an idle one if that is necessary. `is_proxy` lifts
    /// the bound of its address: all clients of a proxy share that.
    pub(super) fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        is_proxy: bool,
    ) -> Result<Arc<ConnectionSlot>, ConnectionBound> {
        let address = to_network(peer);
        let mut state = self.state.lock();
        let of_address = state.addresses.get(&address).map_or(0, |(count, _)| *count);
        if !is_proxy && of_address >= self.limits.per_address {
            let first = state.addresses.get(&address).and_then(|(_, idle)| idle.first().copied());
            state.evict(first.ok_or(ConnectionBound::Address)?);
        }
        if state.connections.len() >= self.limits.total {
            let first = state.idle.first().copied();
            state.evict(first.ok_or(ConnectionBound::Total)?);
        }
        Ok(self.add_connection(&mut state, address))
    }

    fn add_connection(
        self: &Arc<Self>,
        state: &mut RegistryState,
        address: IpAddr,
    ) -> Arc<ConnectionSlot> {
        let number = state.take_number();
        let evicted = CancellationToken::new();
        let rank = (false, number, number);
        let connection = OpenConnection { address, user: None, rank, evicted: evicted.clone() };
        state.connections.insert(number, connection);
        state.addresses.entry(address).or_default().0 += 1;
        state.add_idle(address, rank);
        Arc::new(ConnectionSlot { registry: self.clone(), number, evicted })
    }
}

impl ConnectionSlot {
    /// Ends once the connection has to make room.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Marks the connection as used. `None` if it has just made room for another one.
    pub(super) fn begin_request(self: &Arc<Self>) -> Option<ActiveRequest> {
        let mut state = self.registry.state.lock();
        let connection = state.connections.get(&self.number)?;
        let (address, rank) = (connection.address, connection.rank);
        state.remove_idle(address, rank);
        Some(ActiveRequest(self.clone()))
    }

    /// Counts the connection for a user, closing an idle one of theirs if that is necessary.
    /// Errors: `rate_limited`.
    pub(super) fn assign_user(&self, user: &UserId) -> Result<()> {
        let limits = self.registry.limits;
        let mut state = self.registry.state.lock();
        let state = &mut *state;
        let Some(connection) = state.connections.get(&self.number) else { return Ok(()) };
        if connection.user.as_ref() == Some(user) {
            return Ok(());
        }
        let count = state.users.get(user).copied().unwrap_or_default();
        if count >= limits.per_user {
            let Some(idle) = state.find_idle_of(user) else {
                let message = format!(
                    "you have {count} connections in use, the maximum; close some, or try again later"
                );
                let error = Error::limit_exceeded(ErrorKind::RateLimited, message, count as u64, 1);
                return Err(error.with_limit("connections_per_user"));
            };
            state.evict(idle);
        }
        if let Some(connection) = state.connections.get_mut(&self.number) {
            let former = connection.user.replace(user.clone());
            *state.users.entry(user.clone()).or_default() += 1;
            state.release_user(former);
        }
        Ok(())
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.registry.state.lock().remove(self.number);
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let mut state = self.0.registry.state.lock();
        let idle_since = state.take_number();
        let Some(connection) = state.connections.get_mut(&self.0.number) else { return };
        connection.rank = (true, idle_since, self.0.number);
        let (address, rank) = (connection.address, connection.rank);
        state.add_idle(address, rank);
    }
}

impl RegistryState {
    /// Numbers of connections and points in time, in one order.
    fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn add_idle(&mut self, address: IpAddr, rank: IdleRank) {
        self.idle.insert(rank);
        if let Some((_, idle)) = self.addresses.get_mut(&address) {
            idle.insert(rank);
        }
    }

    fn remove_idle(&mut self, address: IpAddr, rank: IdleRank) {
        self.idle.remove(&rank);
        if let Some((_, idle)) = self.addresses.get_mut(&address) {
            idle.remove(&rank);
        }
    }

    /// The connection of a user that makes room first. Only looked for at the bound.
    fn find_idle_of(&self, user: &UserId) -> Option<IdleRank> {
        let is_theirs = |(_, _, number): &&IdleRank| {
            self.connections.get(number).is_some_and(|one| one.user.as_ref() == Some(user))
        };
        self.idle.iter().find(is_theirs).copied()
    }

    fn evict(&mut self, (_, _, number): IdleRank) {
        if let Some(connection) = self.remove(number) {
            connection.evicted.cancel();
        }
    }

    fn remove(&mut self, number: u64) -> Option<OpenConnection> {
        let mut connection = self.connections.remove(&number)?;
        let address = connection.address;
        self.remove_idle(address, connection.rank);
        if let Some((count, _)) = self.addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
        self.release_user(connection.user.take());
        Some(connection)
    }

    fn release_user(&mut self, user: Option<UserId>) {
        let Some(user) = user else { return };
        if let Some(count) = self.users.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&user);
            }
        }
    }
}

/// The address that is counted: of IPv6 the network of 64 bits, which belongs to one customer.
fn to_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LIMITS: ConnectionLimits = ConnectionLimits { total: 4, per_address: 3, per_user: 2 };

    fn peer(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    fn is_evicted(slot: &ConnectionSlot) -> bool {
        slot.evicted.is_cancelled()
    }

    #[test]
    fn idle_connection_makes_room_and_busy_one_stays() {
        let registry = ConnectionRegistry::new(LIMITS);
        let used = registry.admit(peer(1), false).unwrap();
        drop(used.begin_request().unwrap());
        let unused = registry.admit(peer(1), false).unwrap();
        let busy = registry.admit(peer(1), false).unwrap();
        let request = busy.begin_request().unwrap();
        // The address is at its bound: first goes what was never used, then what is idle.
        let fourth = registry.admit(peer(1), false).unwrap();
        assert!(is_evicted(&unused) && !is_evicted(&used));
        assert!(unused.begin_request().is_none());
        let _fourth_request = fourth.begin_request().unwrap();
        let fifth = registry.admit(peer(1), false).unwrap();
        assert!(is_evicted(&used) && !is_evicted(&busy));
        let _fifth_request = fifth.begin_request().unwrap();
        assert_eq!(registry.admit(peer(1), false).err(), Some(ConnectionBound::Address));
        // Others have room, up to the total.
        let other = registry.admit(peer(2), false).unwrap();
        let _other_request = other.begin_request().unwrap();
        assert_eq!(registry.admit(peer(3), false).err(), Some(ConnectionBound::Total));
        drop((request, busy));
        let _last = registry.admit(peer(3), false).unwrap();
    }

    #[test]
    fn trusted_proxy_is_bounded_by_the_total_only() {
        let registry = ConnectionRegistry::new(LIMITS);
        let admit = || {
            let slot = registry.admit(peer(1), true)?;
            Ok::<_, ConnectionBound>((slot.begin_request(), slot))
        };
        let _open: Vec<_> = (0..4).map(|_| admit().unwrap()).collect();
        assert_eq!(admit().err(), Some(ConnectionBound::Total));
    }

    #[test]
    fn user_is_counted_once_per_connection() {
        let registry = ConnectionRegistry::new(LIMITS);
        let slots: Vec<_> = (1..4).map(|last| registry.admit(peer(last), false).unwrap()).collect();
        let mut requests: Vec<_> = slots.iter().map(|slot| slot.begin_request().unwrap()).collect();
        let (ann, ben) = (UserId::new_unchecked("ann"), UserId::new_unchecked("ben"));
        for _ in 0..5 {
            slots[0].assign_user(&ann).unwrap();
            slots[1].assign_user(&ann).unwrap();
        }
        assert_eq!(slots[2].assign_user(&ann).unwrap_err().kind, ErrorKind::RateLimited);
        // A proxy's connection carries requests of several users.
        slots[0].assign_user(&ben).unwrap();
        slots[2].assign_user(&ann).unwrap();
        slots[2].assign_user(&ben).unwrap();
        slots[2].assign_user(&ann).unwrap();
        // An idle connection of the user makes room.
        requests.remove(1);
        slots[0].assign_user(&ann).unwrap();
        assert!(slots[1].evicted.is_cancelled() && !slots[2].evicted.is_cancelled());
        drop((requests, slots));
        let state = registry.state.lock();
        assert!(state.users.is_empty() && state.addresses.is_empty() && state.idle.is_empty());
    }

    #[test]
    fn limits_leave_descriptors_for_everything_else() {
        for (descriptors, total) in [(256, 192), (1024, 768), (20_000, 16_384), (1 << 40, 16_384)] {
            let limits = ConnectionLimits::new(descriptors, None);
            let expected = ConnectionLimits { total, per_address: total / 2, per_user: total / 8 };
            assert_eq!(limits, expected);
        }
        assert_eq!(ConnectionLimits::new(1 << 40, Some(100_000)).total, 100_000);
    }
}
