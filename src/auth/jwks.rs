//! Signing keys published by a token issuer (JWKS): fetched when the first token arrives, cached
//! for ten minutes, and fetched again when a token names an unknown key.
//!
//! The URL comes from the configuration only. Nothing in a token is ever fetched.

use super::{config_error, invalid_credentials};
use crate::error::{Error, ErrorKind, Result};
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::Mutex;
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long fetched keys are used. A revoked key is accepted for at most this long.
const KEY_TTL: Duration = Duration::from_secs(10 * 60);
/// How long they are used while fetching fails.
const STALE_KEY_TTL: Duration = Duration::from_secs(60 * 60);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a key set, in bytes.
const MAX_KEY_SET_BYTES: usize = 1 << 20;

const RSA_ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The keys of one issuer.
pub(super) struct JwksClient {
    url: Url,
    client: Client,
    refetch_interval: Duration,
    cache: Mutex<CachedKeys>,
    /// Held during a fetch, so that concurrent requests share one.
    fetch_lock: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct CachedKeys {
    keys: Arc<Vec<SigningKey>>,
    fetched_at: Option<Instant>,
    /// The last attempt, successful or not.
    attempted_at: Option<Instant>,
}

/// A key and the algorithms it may verify.
struct SigningKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A key set whose keys are parsed one by one, so that a key of an unknown type does not invalidate
/// the others.
#[derive(Deserialize)]
struct LenientKeySet {
    keys: Vec<Value>,
}

impl JwksClient {
    pub(super) fn new(url: String, refetch_interval: Duration) -> Result<Self> {
        let message = "JWT_JWKS_URL must be a URL that starts with https:// or http://";
        let url = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "https" | "http"));
        // A redirect could lead to a host that the operator did not choose.
        let client =
            Client::builder().timeout(FETCH_TIMEOUT).redirect(redirect::Policy::none()).build();
        Ok(Self {
            url: url.ok_or_else(|| config_error(message))?,
            client: client.map_err(Error::internal)?,
            refetch_interval,
            cache: Mutex::default(),
            fetch_lock: tokio::sync::Mutex::default(),
        })
    }

    /// The key with this id, if it may verify `algorithm`. Without an id, the only key that may.
    pub(super) async fn find_key(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey> {
        if let Some(key) = self.find_cached_key(id, algorithm, KEY_TTL) {
            return Ok(key);
        }
        // The key may be newer than the cache: issuers rotate keys and start using them at once.
        self.fetch_if_due().await;
        if let Some(key) = self.find_cached_key(id, algorithm, STALE_KEY_TTL) {
            return Ok(key);
        }
        let cache = self.cache.lock();
        // With a usable key set the token is at fault, without one the issuer is.
        match cache.fetched_at {
            Some(fetched_at) if fetched_at.elapsed() < STALE_KEY_TTL => Err(invalid_credentials()),
            _ => Err(Error::new(
                ErrorKind::AuthUnavailable,
                "credentials cannot be verified at the moment; try again later",
            )),
        }
    }

    fn find_cached_key(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        ttl: Duration,
    ) -> Option<DecodingKey> {
        let cache = self.cache.lock();
        cache.fetched_at.filter(|fetched_at| fetched_at.elapsed() < ttl)?;
        let is_candidate = |key: &&SigningKey| {
            key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id)
        };
        let mut candidates = cache.keys.iter().filter(is_candidate);
        // More than one candidate is ambiguous; guessing could verify against the wrong key.
        candidates.next().filter(|_| candidates.next().is_none()).map(|found| found.key.clone())
    }

    async fn fetch_if_due(&self) {
        let requested_at = Instant::now();
        let _guard = self.fetch_lock.lock().await;
        {
            let mut cache = self.cache.lock();
            // Another request may have fetched the keys while this one waited for the lock. And
            // tokens with made-up key ids must not trigger a request to the issuer each.
            if cache.attempted_at.is_some_and(|attempted_at| {
                attempted_at > requested_at || attempted_at.elapsed() < self.refetch_interval
            }) {
                return;
            }
            // Recorded before the fetch, so that a failing issuer is not asked more often than a
            // healthy one.
            cache.attempted_at = Some(Instant::now());
        }
        match self.fetch_keys().await {
            Ok(keys) => {
                let mut cache = self.cache.lock();
                cache.keys = Arc::new(keys);
                cache.fetched_at = Some(Instant::now());
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "fetching the signing keys failed")
            }
        }
    }

    async fn fetch_keys(&self) -> Result<Vec<SigningKey>> {
        // The URL may contain credentials, so it is not logged.
        let fetch_failed = |error: reqwest::Error| Error::internal(error.without_url());
        let response = self.client.get(self.url.clone()).send().await.map_err(fetch_failed)?;
        let mut response = response.error_for_status().map_err(fetch_failed)?;
        let mut bytes = Vec::new();
        // Check the size while reading, not from Content-Length, which may be missing or wrong.
        while let Some(more) = response.chunk().await.map_err(fetch_failed)? {
            bytes.extend_from_slice(&more);
            if bytes.len() > MAX_KEY_SET_BYTES {
                return Err(Error::internal("the set of signing keys is too large"));
            }
        }
        let set: LenientKeySet = serde_json::from_slice(&bytes).map_err(Error::internal)?;
        let parse = |key| serde_json::from_value::<Jwk>(key).ok();
        Ok(set
            .keys
            .into_iter()
            .filter_map(parse)
            .filter_map(|key| parse_signing_key(&key))
            .collect())
    }
}

/// The algorithms a published key may verify; `None` for symmetric keys and for keys not meant for
/// signatures.
fn parse_signing_key(jwk: &Jwk) -> Option<SigningKey> {
    let CommonParameters { public_key_use, key_algorithm, key_id, .. } = &jwk.common;
    if public_key_use.as_ref().is_some_and(|key_use| *key_use != PublicKeyUse::Signature) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => RSA_ALGORITHMS.to_vec(),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        _ => return None,
    };
    // A key that names its algorithm may verify no other one of its family.
    if let Some(only) = key_algorithm {
        algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == *only);
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(SigningKey { id: key_id.clone(), algorithms, key })
}
