//! JSON Web Tokens signed by another party: with a shared secret (HS256), or with a key the issuer
//! publishes (`jwks`).
//!
//! The key decides on the algorithm, never the token: a secret verifies HS256 only, a published key
//! only its own kind of signature. So `alg: none` is rejected, and a public key is never used as an
//! HMAC secret.

use super::jwks::JwksClient;
use super::{Identity, config_error, invalid_credentials, parse_user};
use crate::domain::Timestamp;
use crate::domain::key::AuthScope;
use crate::error::Result;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::time::Duration;

/// Tolerated clock difference, in seconds.
const LEEWAY_SECONDS: u64 = 30;
/// Maximum length of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Minimum length of a secret, in bytes: the output size of HS256. A shorter secret could be
/// brute-forced offline from any token.
const MIN_SECRET_BYTES: usize = 32;

/// Which tokens are accepted.
#[derive(Clone, Default)]
pub struct JwtSettings {
    /// The HS256 secret.
    pub secret: Option<String>,
    /// The URL of the issuer's key set.
    pub jwks_url: Option<String>,
    /// Required `iss` claim.
    pub issuer: Option<String>,
    /// Required `aud` claim.
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

/// The claims that identify a user. Optional ones are ignored if they are not strings.
#[derive(Deserialize)]
struct JwtClaims {
    sub: String,
    /// A string if it is there: RFC 7519 has no lists of issuers.
    #[serde(default, rename = "iss")]
    _iss: String,
    /// Seconds since 1970. May have a fraction.
    exp: f64,
    email: Option<Value>,
    name: Option<Value>,
    role: Option<Value>,
}

impl JwtVerifier {
    /// Errors tell the operator which setting to correct.
    pub(super) fn new(settings: JwtSettings, refetch_interval: Duration) -> Result<Self> {
        let JwtSettings { secret, jwks_url, issuer, audience } = settings;
        let keys = match (secret, jwks_url) {
            (Some(secret), None) if secret.len() < MIN_SECRET_BYTES => {
                return Err(config_error(
                    "JWT_SECRET must have at least 32 bytes; a shorter secret can be brute-forced",
                ));
            }
            (Some(secret), None) => {
                JwtKeySource::Secret(DecodingKey::from_secret(secret.as_bytes()))
            }
            (None, Some(url)) => JwtKeySource::Published(JwksClient::new(url, refetch_interval)?),
            _ => {
                return Err(config_error(
                    "ECHOIC_AUTH=jwt needs either JWT_SECRET or JWT_JWKS_URL",
                ));
            }
        };
        Ok(Self { keys, issuer, audience })
    }

    pub(super) async fn identify_token(&self, token: &str) -> Result<Identity> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid_credentials());
        }
        // Nothing in the header is trusted yet: it only selects the key.
        let header = decode_header(token).map_err(|_| invalid_credentials())?;
        if has_critical_extensions(token) {
            return Err(invalid_credentials());
        }
        let claims = match &self.keys {
            // The algorithm is fixed here. With a published key the header may choose, but only
            // among the algorithms of that key (see `find_key`).
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
        // Only this exact value grants rights; an unknown role is an ordinary user.
        let is_admin = text(claims.role).as_deref() == Some("admin");
        let scope = if is_admin { AuthScope::Admin } else { AuthScope::Chat };
        let identity = Identity::new(parse_user(&claims.sub)?, scope);
        // The `jsonwebtoken` crate compares whole seconds, so the token is valid until the end of
        // its last second.
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
        // `Validation` requires the token's header to name this algorithm and the key to be of its
        // family.
        let mut validation = Validation::new(algorithm);
        let mut required = vec!["exp", "sub"];
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        // With validation on and no expected audience, the crate rejects every token that has one.
        validation.validate_aud = self.audience.is_some();
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        // Expected claims are only compared if present, so they have to be required as well.
        validation.set_required_spec_claims(&required);
        let decoded =
            decode::<JwtClaims>(token, key, &validation).map_err(|_| invalid_credentials())?;
        Ok(decoded.claims)
    }
}

/// Whether the token's header has `crit`. It lists extensions that a recipient must understand or
/// else reject the token (RFC 7515, section 4.1.11), and none is understood here.
fn has_critical_extensions(token: &str) -> bool {
    let header = token.split('.').next().unwrap_or_default();
    let fields: Option<Map<String, Value>> =
        URL_SAFE_NO_PAD.decode(header).ok().and_then(|json| serde_json::from_slice(&json).ok());
    fields.is_none_or(|fields| fields.contains_key("crit"))
}
