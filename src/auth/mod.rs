//! Who is asking: nobody is asked (`none`), a proxy says (`proxy`), a key says (`keys`), or a token
//! that somebody else has signed (`jwt`).
//!
//! What becomes of a request is an [`Identity`] or a refusal that says the same whatever was wrong.
//! What the user may then do is judged where it is done (`domain::principal`). Called by the one
//! layer of `http` that stands before every route.

mod jwks;
mod jwt;
mod keys;
mod tickets;

pub use jwt::JwtSettings;
pub use keys::{KeyTerms, new_key};
pub use tickets::{issue_ticket, redeem_ticket};

use crate::clock;
use crate::domain::key::{AuthScope, KeyId};
use crate::domain::{Principal, Timestamp, UserId};
use crate::error::{Error, Kind, Result};
use crate::store::Store;
use ipnet::IpNet;
use jwt::Jwt;
use keys::Keys;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How users are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are not: everyone is `local`.
    None,
    /// By the header `X-Forwarded-User` of a trusted proxy.
    Proxy,
    /// By keys that `echoic keys` makes.
    Keys,
    /// By tokens that somebody else has signed.
    Jwt,
}

/// Everything there is to set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How users are told apart.
    pub mode: Mode,
    /// Who may say for whom it asks.
    pub trusted_proxies: Vec<IpNet>,
    /// Whose tokens are good.
    pub jwt: JwtSettings,
    /// How long to wait before signing keys are fetched again because of a token that none of them
    /// has signed.
    pub jwks_pause: Duration,
}

/// A known user, and what they came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub principal: Principal,
    /// What their credentials allow.
    pub scope: AuthScope,
    /// The key that they came with.
    pub key: Option<KeyId>,
    /// From when on those credentials are no longer good.
    pub expires_at: Option<Timestamp>,
    /// Their address, where a token told it.
    pub email: Option<String>,
    /// Their name, where a token told it.
    pub name: Option<String>,
}

impl Identity {
    fn of(user: UserId, scope: AuthScope) -> Self {
        let principal = Principal { user, is_admin: scope == AuthScope::Admin };
        Self { principal, scope, key: None, expires_at: None, email: None, name: None }
    }
}

/// What of a request says who sent it. What cannot be read is refused where it is asked for: the
/// header of another mode may hold anything.
#[derive(Debug)]
pub struct Credentials<'a> {
    /// What `Authorization: Bearer` holds.
    pub bearer: Result<Option<&'a str>>,
    /// What `X-Forwarded-User` holds.
    pub forwarded_user: Result<Option<&'a str>>,
    /// Whom the connection comes from.
    pub peer: IpAddr,
}

/// Tells who is asking.
pub struct Auth {
    way: Way,
    trusted_proxies: Vec<IpNet>,
}

enum Way {
    None(Identity),
    Proxy,
    Keys(Keys),
    Jwt(Box<Jwt>),
}

impl Auth {
    /// Asks nobody: everyone is the user `local`.
    pub fn open() -> Self {
        let local = Identity::of(UserId::trusted("local"), AuthScope::Chat);
        Self { way: Way::None(local), trusted_proxies: Vec::new() }
    }

    /// Errors say what an operator can do.
    pub fn new(settings: Settings, store: Arc<dyn Store>) -> Result<Self> {
        let way = match settings.mode {
            Mode::None => return Ok(Self::open()),
            Mode::Proxy => Way::Proxy,
            Mode::Keys => Way::Keys(Keys::new(store)),
            Mode::Jwt => Way::Jwt(Box::new(Jwt::new(settings.jwt, settings.jwks_pause)?)),
        };
        Ok(Self { way, trusted_proxies: settings.trusted_proxies })
    }

    /// Whether nobody is asked who they are.
    pub fn is_open(&self) -> bool {
        matches!(self.way, Way::None(_))
    }

    /// Whether a page that lets its own name point at this server could speak in its reader's name:
    /// where the network is what lets somebody in, and nothing that the page would have to know.
    pub fn goes_by_network(&self) -> bool {
        matches!(self.way, Way::None(_) | Way::Proxy)
    }

    /// Whether an address is that of a trusted proxy.
    pub fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }

    /// The user who sent a request. Errors: `unauthenticated`, `auth_unavailable`,
    /// `store_unavailable`.
    pub async fn identify(&self, credentials: Credentials<'_>) -> Result<Identity> {
        match &self.way {
            Way::None(local) => Ok(local.clone()),
            Way::Proxy => self.forwarded(credentials),
            Way::Keys(keys) => keys.identify(credentials.bearer?.ok_or_else(missing)?).await,
            Way::Jwt(jwt) => jwt.identify(credentials.bearer?.ok_or_else(missing)?).await,
        }
    }

    /// Whether the credentials of somebody who was let in are good still: not expired, not revoked.
    /// Errors: `store_unavailable`.
    pub async fn still_knows(&self, identity: &Identity) -> Result<bool> {
        if identity.expires_at.is_some_and(|end| end <= clock::now()) {
            return Ok(false);
        }
        match (&self.way, &identity.key) {
            (Way::Keys(keys), Some(key)) => keys.is_there(key).await,
            _ => Ok(true),
        }
    }

    /// Writes down when keys were used, now and then, until told to stop.
    pub async fn keep_uses(self: Arc<Self>, stop: CancellationToken) {
        if let Way::Keys(keys) = &self.way {
            keys.keep_uses(stop).await;
        }
    }

    fn forwarded(&self, credentials: Credentials<'_>) -> Result<Identity> {
        // Anybody can write a header: it only counts from those who are trusted to check it.
        if !self.is_trusted_proxy(credentials.peer) {
            return Err(missing());
        }
        let user = user(credentials.forwarded_user?.ok_or_else(missing)?)?;
        Ok(Identity::of(user, AuthScope::Chat))
    }
}

/// A user's name as credentials spell it. The sender of all replies is no user.
fn user(text: &str) -> Result<UserId> {
    let user = UserId::parse("user", text).map_err(|_| refused())?;
    if user == UserId::assistant() { Err(refused()) } else { Ok(user) }
}

/// The refusal of a request that says nothing of who sent it.
pub fn missing() -> Error {
    Error::new(Kind::Unauthenticated, "this needs credentials")
}

/// The refusal of credentials, which does not tell what is wrong with them.
pub fn refused() -> Error {
    Error::new(Kind::Unauthenticated, "these credentials are not valid")
}
