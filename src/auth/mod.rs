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
pub use keys::{NewApiKey, generate_key};
pub use tickets::{issue_ticket, redeem_ticket};

use crate::clock;
use crate::domain::key::{AuthScope, KeyId};
use crate::domain::{Principal, Timestamp, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use ipnet::IpNet;
use jwt::JwtVerifier;
use keys::KeyVerifier;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How users are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// They are not: everyone is `local`.
    Disabled,
    /// By the header `X-Forwarded-User` of a trusted proxy.
    Proxy,
    /// By keys that `echoic keys` makes.
    Keys,
    /// By tokens that somebody else has signed.
    Jwt,
}

/// Everything there is to set.
#[derive(Debug, Clone)]
pub struct AuthSettings {
    /// How users are told apart.
    pub mode: AuthMode,
    /// Who may say for whom it asks.
    pub trusted_proxies: Vec<IpNet>,
    /// Whose tokens are good.
    pub jwt: JwtSettings,
    /// How long to wait before signing keys are fetched again because of a token that none of them
    /// has signed.
    pub jwks_refetch_interval: Duration,
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
    fn new(user: UserId, scope: AuthScope) -> Self {
        let principal = Principal { user, is_admin: scope == AuthScope::Admin };
        Self { principal, scope, key: None, expires_at: None, email: None, name: None }
    }
}

/// What of a request says who sent it. What cannot be read is refused where it is asked for: the
/// header of another mode may hold anything.
#[derive(Debug)]
pub struct RequestCredentials<'a> {
    /// What `Authorization: Bearer` holds.
    pub bearer: Result<Option<&'a str>>,
    /// What `X-Forwarded-User` holds.
    pub forwarded_user: Result<Option<&'a str>>,
    /// Whom the connection comes from.
    pub peer: IpAddr,
}

/// Tells who is asking.
pub struct Authenticator {
    backend: AuthBackend,
    trusted_proxies: Vec<IpNet>,
}

enum AuthBackend {
    Disabled(Identity),
    Proxy,
    Keys(KeyVerifier),
    Jwt(Box<JwtVerifier>),
}

impl Authenticator {
    /// Asks nobody: everyone is the user `local`.
    pub fn disabled() -> Self {
        let local = Identity::new(UserId::new_unchecked("local"), AuthScope::Chat);
        Self { backend: AuthBackend::Disabled(local), trusted_proxies: Vec::new() }
    }

    /// Errors say what an operator can do.
    pub fn new(settings: AuthSettings, store: Arc<dyn Store>) -> Result<Self> {
        let way = match settings.mode {
            AuthMode::Disabled => return Ok(Self::disabled()),
            AuthMode::Proxy => AuthBackend::Proxy,
            AuthMode::Keys => AuthBackend::Keys(KeyVerifier::new(store)),
            AuthMode::Jwt => AuthBackend::Jwt(Box::new(JwtVerifier::new(
                settings.jwt,
                settings.jwks_refetch_interval,
            )?)),
        };
        Ok(Self { backend: way, trusted_proxies: settings.trusted_proxies })
    }

    /// Whether nobody is asked who they are.
    pub fn is_disabled(&self) -> bool {
        matches!(self.backend, AuthBackend::Disabled(_))
    }

    /// Whether a page that lets its own name point at this server could speak in its reader's name:
    /// where the network is what lets somebody in, and nothing that the page would have to know.
    pub fn is_network_based(&self) -> bool {
        matches!(self.backend, AuthBackend::Disabled(_) | AuthBackend::Proxy)
    }

    /// Whether an address is that of a trusted proxy.
    pub fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }

    /// The user who sent a request. Errors: `unauthenticated`, `auth_unavailable`,
    /// `store_unavailable`.
    pub async fn identify(&self, credentials: RequestCredentials<'_>) -> Result<Identity> {
        match &self.backend {
            AuthBackend::Disabled(local) => Ok(local.clone()),
            AuthBackend::Proxy => self.identify_forwarded(credentials),
            AuthBackend::Keys(keys) => {
                keys.identify_key(credentials.bearer?.ok_or_else(missing_credentials)?).await
            }
            AuthBackend::Jwt(jwt) => {
                jwt.identify_token(credentials.bearer?.ok_or_else(missing_credentials)?).await
            }
        }
    }

    /// Whether the credentials of somebody who was let in are good still: not expired, not revoked.
    /// Errors: `store_unavailable`.
    pub async fn is_still_valid(&self, identity: &Identity) -> Result<bool> {
        if identity.expires_at.is_some_and(|end| end <= clock::now()) {
            return Ok(false);
        }
        match (&self.backend, &identity.key) {
            (AuthBackend::Keys(keys), Some(key)) => keys.has_key(key).await,
            _ => Ok(true),
        }
    }

    /// Writes down when keys were used, now and then, until told to stop.
    pub async fn run_use_recorder(self: Arc<Self>, stop: CancellationToken) {
        if let AuthBackend::Keys(keys) = &self.backend {
            keys.run_use_recorder(stop).await;
        }
    }

    fn identify_forwarded(&self, credentials: RequestCredentials<'_>) -> Result<Identity> {
        // Anybody can write a header: it only counts from those who are trusted to check it.
        if !self.is_trusted_proxy(credentials.peer) {
            return Err(missing_credentials());
        }
        let user = parse_user(credentials.forwarded_user?.ok_or_else(missing_credentials)?)?;
        Ok(Identity::new(user, AuthScope::Chat))
    }
}

/// A user's name as credentials spell it. The sender of all replies is no user.
fn parse_user(text: &str) -> Result<UserId> {
    let user = UserId::parse("user", text).map_err(|_| invalid_credentials())?;
    if user == UserId::assistant() { Err(invalid_credentials()) } else { Ok(user) }
}

/// The refusal of a request that says nothing of who sent it.
pub fn missing_credentials() -> Error {
    Error::new(ErrorKind::Unauthenticated, "this needs credentials")
}

/// The refusal of credentials, which does not tell what is wrong with them.
pub fn invalid_credentials() -> Error {
    Error::new(ErrorKind::Unauthenticated, "these credentials are not valid")
}
