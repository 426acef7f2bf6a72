//! Authentication: none at all (`none`), by a trusted proxy (`proxy`), by API key (`keys`), or by a
//! token that another party signed (`jwt`).
//!
//! A request ends up with an [`Identity`] or an error that does not reveal why it was rejected.
//! Authorization happens where a resource is used (`domain::principal`). Called by the
//! authentication layer of `http`, which wraps every route.

mod credential_watch;
mod jwks;
mod jwt;
mod keys;
mod tickets;

pub use credential_watch::OpenCredentials;
pub use jwt::JwtSettings;
pub use keys::{NewApiKey, generate_key};
pub use tickets::{issue_ticket, redeem_ticket};

use crate::clock;
use crate::domain::key::{AuthScope, KeyId};
use crate::domain::{Principal, Timestamp, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use credential_watch::CredentialWatch;
use ipnet::IpNet;
use jwt::JwtVerifier;
use keys::KeyVerifier;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How users are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Not at all: every request is made by the user `local`.
    Disabled,
    /// By the header `X-Forwarded-User`, accepted from trusted proxies only.
    Proxy,
    /// By API keys, created with `echoic keys`.
    Keys,
    /// By JSON Web Tokens.
    Jwt,
}

#[derive(Debug, Clone)]
pub struct AuthSettings {
    pub mode: AuthMode,
    /// The proxies whose `X-Forwarded-User` is accepted.
    pub trusted_proxies: Vec<IpNet>,
    pub jwt: JwtSettings,
    /// Minimum time between two fetches of the signing keys.
    pub jwks_refetch_interval: Duration,
}

/// An authenticated user and what their credentials allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub principal: Principal,
    pub scope: AuthScope,
    /// The API key of the request.
    pub key: Option<KeyId>,
    /// The credentials are rejected from this time on.
    pub expires_at: Option<Timestamp>,
    /// From a token's claims.
    pub email: Option<String>,
    /// From a token's claims.
    pub name: Option<String>,
}

impl Identity {
    /// A user without a key, an expiry or claims.
    pub fn new(user: UserId, scope: AuthScope) -> Self {
        let principal = Principal { user, is_admin: scope == AuthScope::Admin };
        Self { principal, scope, key: None, expires_at: None, email: None, name: None }
    }
}

/// The parts of a request that may authenticate it. A malformed header is an error only if the
/// configured mode uses it, since in other modes it may hold anything.
#[derive(Debug)]
pub struct RequestCredentials<'a> {
    /// Token of `Authorization: Bearer`.
    pub bearer: Result<Option<&'a str>>,
    /// Value of `X-Forwarded-User`.
    pub forwarded_user: Result<Option<&'a str>>,
    /// Address of the connection's peer.
    pub peer: IpAddr,
}

pub struct Authenticator {
    backend: AuthBackend,
    trusted_proxies: Vec<IpNet>,
    credential_watch: CredentialWatch,
}

enum AuthBackend {
    Disabled(Identity),
    Proxy,
    Keys(KeyVerifier),
    Jwt(Box<JwtVerifier>),
}

impl Authenticator {
    /// Accepts every request as the user `local`.
    pub fn disabled() -> Self {
        let local = Identity::new(UserId::new_unchecked("local"), AuthScope::Chat);
        Self {
            backend: AuthBackend::Disabled(local),
            trusted_proxies: Vec::new(),
            credential_watch: CredentialWatch::default(),
        }
    }

    /// Errors tell the operator which setting to correct.
    pub fn new(settings: AuthSettings, store: Arc<dyn Store>) -> Result<Self> {
        let backend = match settings.mode {
            AuthMode::Disabled => return Ok(Self::disabled()),
            AuthMode::Proxy => AuthBackend::Proxy,
            AuthMode::Keys => AuthBackend::Keys(KeyVerifier::new(store)),
            AuthMode::Jwt => AuthBackend::Jwt(Box::new(JwtVerifier::new(
                settings.jwt,
                settings.jwks_refetch_interval,
            )?)),
        };
        Ok(Self {
            backend,
            trusted_proxies: settings.trusted_proxies,
            credential_watch: CredentialWatch::default(),
        })
    }

    pub fn is_disabled(&self) -> bool {
        matches!(self.backend, AuthBackend::Disabled(_))
    }

    /// Whether reaching the server over the network is enough to be let in. In that case `Host`
    /// must be checked: a web page whose domain resolves to the server's address (DNS rebinding)
    /// could otherwise act as its visitor.
    pub fn is_network_based(&self) -> bool {
        matches!(self.backend, AuthBackend::Disabled(_) | AuthBackend::Proxy)
    }

    pub fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        // A dual-stack socket reports IPv4 peers as `::ffff:a.b.c.d`, which no IPv4 network
        // contains.
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }

    /// Authenticates a request. Errors: `unauthenticated`, `auth_unavailable`, `store_unavailable`.
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

    /// Whether credentials accepted earlier are still valid: neither expired nor revoked. Checked
    /// when a ticket is redeemed. Errors: `store_unavailable`.
    pub async fn is_still_valid(&self, identity: &Identity) -> Result<bool> {
        if identity.expires_at.is_some_and(|end| end <= clock::now()) {
            return Ok(false);
        }
        match (&self.backend, &identity.key) {
            // Tokens cannot be revoked, and the proxy decides per request; only a key can
            // disappear.
            (AuthBackend::Keys(keys), Some(key)) => keys.has_key(key).await,
            _ => Ok(true),
        }
    }

    /// Writes the last-used times of keys to the store until `stop` is cancelled.
    pub async fn run_use_recorder(self: Arc<Self>, stop: CancellationToken) {
        if let AuthBackend::Keys(keys) = &self.backend {
            keys.run_use_recorder(stop).await;
        }
    }

    fn identify_forwarded(&self, credentials: RequestCredentials<'_>) -> Result<Identity> {
        // Any client can send the header; only a trusted proxy is known to have set it.
        if !self.is_trusted_proxy(credentials.peer) {
            // The same answer as without the header: it does not reveal which proxies are trusted.
            return Err(missing_credentials());
        }
        let user = parse_user(credentials.forwarded_user?.ok_or_else(missing_credentials)?)?;
        Ok(Identity::new(user, AuthScope::Chat))
    }
}

/// Parses the user id in credentials. `assistant` is reserved for replies.
fn parse_user(text: &str) -> Result<UserId> {
    let user = UserId::parse("user", text).map_err(|_| invalid_credentials())?;
    if user == UserId::assistant() { Err(invalid_credentials()) } else { Ok(user) }
}

pub fn missing_credentials() -> Error {
    Error::new(ErrorKind::Unauthenticated, "credentials are required")
}

/// Deliberately says nothing about what is wrong with the credentials.
pub fn invalid_credentials() -> Error {
    Error::new(ErrorKind::Unauthenticated, "the credentials are invalid")
}

/// A setting is invalid or missing; the sentence names it. Only at start, so no client sees it.
fn config_error(message: &'static str) -> Error {
    Error::new(ErrorKind::Internal, message)
}
