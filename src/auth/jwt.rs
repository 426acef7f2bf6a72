//! Tokens that somebody else has signed: with a secret that both know (HS256), or with one of the
//! keys that they publish (`jwks`).
//!
//! Which algorithms count is ours to say, never the token's: a secret is only good for HS256, a
//! published key only for its own kind of signature. So `alg: none` is no algorithm, and a public
//! key is never taken for a secret.

use super::jwks::JwksClient;
use super::{Identity, invalid_credentials, parse_user};
use crate::domain::Timestamp;
use crate::domain::key::AuthScope;
use crate::error::{Error, ErrorKind, Result};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// How far clocks may be apart, in seconds.
const LEEWAY_SECONDS: u64 = 30;
/// The longest token.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// The shortest secret, in bytes: as long as what HS256 makes of it. A shorter one can be guessed
/// from any token, offline.
const MIN_SECRET_BYTES: usize = 32;

/// Whose tokens are good.
#[derive(Clone, Default)]
pub struct JwtSettings {
    /// The secret of HS256.
    pub secret: Option<String>,
    /// Where signing keys are published.
    pub jwks_url: Option<String>,
    /// The issuer that a token must name.
    pub issuer: Option<String>,
    /// The audience that a token must name.
    pub audience: Option<String>,
}

impl std::fmt::Debug for JwtSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSettings").field("jwks_url", &self.jwks_url).finish_non_exhaustive()
    }
}

pub(super) struct JwtVerifier {
    keys: JwtKeySource,
    issuer: Option<String>,
    audience: Option<String>,
}

enum JwtKeySource {
    Secret(DecodingKey),
    Published(JwksClient),
}

/// What a token says of its user. What is of another type than it should be is not believed.
#[derive(Deserialize)]
struct JwtClaims {
    sub: String,
    /// Seconds since 1970.
    exp: f64,
    email: Option<Value>,
    name: Option<Value>,
    role: Option<Value>,
}

impl JwtVerifier {
    /// Errors say what an operator can do.
    pub(super) fn new(settings: JwtSettings, jwks_pause: Duration) -> Result<Self> {
        let JwtSettings { secret, jwks_url, issuer, audience } = settings;
        let keys = match (secret, jwks_url) {
            (Some(secret), None) if secret.len() < MIN_SECRET_BYTES => {
                return Err(config_error(
                    "JWT_SECRET must have at least 32 bytes, for else it can be guessed",
                ));
            }
            (Some(secret), None) => {
                JwtKeySource::Secret(DecodingKey::from_secret(secret.as_bytes()))
            }
            (None, Some(url)) => JwtKeySource::Published(JwksClient::new(url, jwks_pause)?),
            _ => {
                return Err(config_error(
                    "ECHOIC_AUTH=jwt needs JWT_SECRET or JWT_JWKS_URL, one of them",
                ));
            }
        };
        Ok(Self { keys, issuer, audience })
    }

    /// The user whom a token names.
    pub(super) async fn identify_token(&self, token: &str) -> Result<Identity> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid_credentials());
        }
        let header = decode_header(token).map_err(|_| invalid_credentials())?;
        let claims = match &self.keys {
            JwtKeySource::Secret(key) => self.decode_claims(token, key, Algorithm::HS256)?,
            JwtKeySource::Published(keys) => {
                let key = keys.find_key(header.kid.as_deref(), header.alg).await?;
                self.decode_claims(token, &key, header.alg)?
            }
        };
        let text = |value: Option<Value>| match value {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let is_admin = text(claims.role).as_deref() == Some("admin");
        let scope = if is_admin { AuthScope::Admin } else { AuthScope::Chat };
        let identity = Identity::new(parse_user(&claims.sub)?, scope);
        // The crate compares whole seconds, so a token is good for all of its last one.
        let last = (claims.exp as i64).saturating_add(LEEWAY_SECONDS as i64);
        let expires_at = Timestamp::from_millis(last.saturating_add(1).saturating_mul(1000));
        Ok(Identity {
            expires_at: Some(expires_at),
            email: text(claims.email),
            name: text(claims.name),
            ..identity
        })
    }

    fn decode_claims(
        &self,
        token: &str,
        key: &DecodingKey,
        algorithm: Algorithm,
    ) -> Result<JwtClaims> {
        // The crate asks for the token's algorithm to be this one, and for the key to be of its kind.
        let mut validation = Validation::new(algorithm);
        let mut required = vec!["exp", "sub"];
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.validate_aud = self.audience.is_some();
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        let decoded =
            decode::<JwtClaims>(token, key, &validation).map_err(|_| invalid_credentials())?;
        Ok(decoded.claims)
    }
}

pub(super) fn config_error(sentence: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Internal, sentence)
}
