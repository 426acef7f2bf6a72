//! The keys that an issuer of tokens publishes: fetched when the first token comes, believed for ten
//! minutes, fetched again when a token names one that is not among them.
//!
//! The address is the operator's; nothing that a token says is ever fetched.

use super::invalid_credentials;
use super::jwt::config_error;
use crate::error::{Error, ErrorKind, Result};
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long keys are believed: one that is withdrawn is refused after this long.
const KEY_TTL: Duration = Duration::from_secs(10 * 60);
/// How long they are believed when they cannot be fetched again.
const STALE_KEY_TTL: Duration = Duration::from_secs(60 * 60);
/// How long fetching them may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of a set of keys.
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
    /// Held by whoever fetches them: one does for all.
    fetch_lock: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct CachedKeys {
    keys: Arc<Vec<SigningKey>>,
    /// When they were fetched.
    fetched_at: Option<Instant>,
    /// When somebody last tried to fetch them.
    attempted_at: Option<Instant>,
}

/// A key and what it is good for.
struct SigningKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A set whose keys are read one by one: one of a kind that we do not know spoils no other.
#[derive(Deserialize)]
struct LenientKeySet {
    keys: Vec<Value>,
}

impl JwksClient {
    pub(super) fn new(url: String, pause: Duration) -> Result<Self> {
        let wants = "JWT_JWKS_URL must be an address that begins with https:// or http://";
        let url = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "https" | "http"));
        let client =
            Client::builder().timeout(FETCH_TIMEOUT).redirect(redirect::Policy::none()).build();
        Ok(Self {
            url: url.ok_or_else(|| config_error(wants))?,
            client: client.map_err(Error::internal)?,
            refetch_interval: pause,
            cache: Mutex::default(),
            fetch_lock: tokio::sync::Mutex::default(),
        })
    }

    /// The key that a token names, if it is good for its algorithm. A token that names none gets the
    /// only one that is.
    pub(super) async fn find_key(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey> {
        if let Some(key) = self.find_cached_key(id, algorithm, KEY_TTL) {
            return Ok(key);
        }
        self.fetch_if_due().await;
        if let Some(key) = self.find_cached_key(id, algorithm, STALE_KEY_TTL) {
            return Ok(key);
        }
        let known = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        match known.fetched_at {
            Some(since) if since.elapsed() < STALE_KEY_TTL => Err(invalid_credentials()),
            _ => Err(Error::new(
                ErrorKind::AuthUnavailable,
                "who is asking cannot be checked at the moment",
            )),
        }
    }

    fn find_cached_key(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        life: Duration,
    ) -> Option<DecodingKey> {
        let known = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        known.fetched_at.filter(|since| since.elapsed() < life)?;
        let is_meant = |key: &&SigningKey| {
            key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id)
        };
        let mut meant = known.keys.iter().filter(is_meant);
        meant.next().filter(|_| meant.next().is_none()).map(|found| found.key.clone())
    }

    async fn fetch_if_due(&self) {
        let asked = Instant::now();
        let _one = self.fetch_lock.lock().await;
        {
            let mut known = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever was before us may have fetched them while we waited; and tokens with invented
            // names must not make us ask again and again.
            if known
                .attempted_at
                .is_some_and(|tried| tried > asked || tried.elapsed() < self.refetch_interval)
            {
                return;
            }
            known.attempted_at = Some(Instant::now());
        }
        match self.fetch_keys().await {
            Ok(keys) => {
                let mut known = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                (known.keys, known.fetched_at) = (Arc::new(keys), Some(Instant::now()));
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "the signing keys were not fetched")
            }
        }
    }

    async fn fetch_keys(&self) -> Result<Vec<SigningKey>> {
        let unreadable = |error: reqwest::Error| Error::internal(error.without_url());
        let answer = self.client.get(self.url.clone()).send().await.map_err(unreadable)?;
        let mut answer = answer.error_for_status().map_err(unreadable)?;
        let mut bytes = Vec::new();
        while let Some(more) = answer.chunk().await.map_err(unreadable)? {
            bytes.extend_from_slice(&more);
            if bytes.len() > MAX_KEY_SET_BYTES {
                return Err(Error::internal("the set of signing keys is too large"));
            }
        }
        let set: LenientKeySet = serde_json::from_slice(&bytes).map_err(Error::internal)?;
        let known = |key| serde_json::from_value::<Jwk>(key).ok();
        Ok(set
            .keys
            .into_iter()
            .filter_map(known)
            .filter_map(|key| parse_signing_key(&key))
            .collect())
    }
}

/// What a published key is good for; nothing if it is a secret, or for another use.
fn parse_signing_key(jwk: &Jwk) -> Option<SigningKey> {
    let CommonParameters { public_key_use, key_algorithm, key_id, .. } = &jwk.common;
    if public_key_use.as_ref().is_some_and(|its_use| *its_use != PublicKeyUse::Signature) {
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
    if let Some(only) = key_algorithm {
        algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == *only);
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(SigningKey { id: key_id.clone(), algorithms, key })
}
