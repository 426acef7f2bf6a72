//! API keys: `ek_<id>_<secret>` with a secret of 256 random bits. The store keeps only the key's
//! SHA-256 digest.
//!
//! Each request looks up the id, which is a read of one row, and compares the digest in constant
//! time. Nothing is cached, so a key revoked on any instance is rejected from the next request on.

use super::{Identity, invalid_credentials, parse_user};
use crate::clock;
use crate::domain::key::{ApiKey, AuthScope, KeyId};
use crate::domain::{Timestamp, UserId};
use crate::error::{Error, Result};
use crate::store::{KeyDigest, Store, StoredKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

const KEY_PREFIX: &str = "ek_";
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Length of a secret in URL-safe Base64, without padding.
const SECRET_CHARS: usize = 43;
/// How often the last-used times are written to the store.
const USE_FLUSH_INTERVAL: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// The user that requests with the key act as.
    pub user: UserId,
    pub name: Option<String>,
    pub scope: AuthScope,
    /// `None` if it never expires.
    pub expires_at: Option<Timestamp>,
}

/// Generates a key and returns its text, which cannot be recovered later, and the record to store.
/// Errors: `invalid_request` for a reserved user id.
pub fn generate_key(new: NewApiKey, now: Timestamp) -> Result<(String, StoredKey)> {
    let NewApiKey { user, name, scope, expires_at } = new;
    let user = super::parse_user(user.as_str())
        .map_err(|_| Error::invalid_field("user", "must not be assistant, which is reserved"))?;
    let mut id = [0; KeyId::HEX_LENGTH / 2];
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut id).map_err(Error::internal)?;
    getrandom::fill(&mut secret).map_err(Error::internal)?;
    let id = hex::encode(id);
    let text = format!("{KEY_PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
    let id = KeyId::new_unchecked(id);
    let key = ApiKey { id, name, user, scope, created_at: now, expires_at, last_used_at: None };
    // A plain hash is enough: the secret has 256 random bits, so there is nothing to guess offline.
    let digest = digest_key(&text);
    Ok((text, StoredKey { key, digest }))
}

fn digest_key(text: &str) -> KeyDigest {
    Sha256::digest(text.as_bytes()).into()
}

/// The id in a key's text. Malformed keys are rejected here, without a read of the store.
fn parse_key_id(text: &str) -> Option<KeyId> {
    let (id, secret) = text.strip_prefix(KEY_PREFIX)?.split_once('_')?;
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_secret = secret.len() == SECRET_CHARS && secret.bytes().all(is_letter);
    KeyId::parse(id).filter(|_| is_secret)
}

/// Verifies keys against the store.
pub(super) struct KeyVerifier {
    store: Arc<dyn Store>,
    /// Last-used times that have not been written to the store yet.
    pending_uses: Mutex<HashMap<KeyId, Timestamp>>,
}

impl KeyVerifier {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, pending_uses: Mutex::default() }
    }

    pub(super) async fn identify_key(&self, text: &str) -> Result<Identity> {
        let id = parse_key_id(text).ok_or_else(invalid_credentials)?;
        let found = self.store.find_key(&id).await?;
        // Compare a digest for unknown ids as well, so that timing does not reveal which ids exist.
        let expected = found.as_ref().map_or([0; 32], |stored| stored.digest);
        let is_match = bool::from(digest_key(text).ct_eq(&expected));
        let now = clock::now();
        let stored = found.filter(|stored| is_match && stored.key.is_valid_at(now));
        let stored = stored.ok_or_else(invalid_credentials)?;
        // Collected in memory: a write per request would cost more than the request's own read.
        self.pending_uses.lock().insert(id, now);
        let identity = Identity::new(parse_user(stored.key.user.as_str())?, stored.key.scope);
        Ok(Identity { key: Some(stored.key.id), expires_at: stored.key.expires_at, ..identity })
    }

    /// Whether a key that was accepted before still exists.
    pub(super) async fn has_key(&self, id: &KeyId) -> Result<bool> {
        Ok(self.store.find_key(id).await?.is_some())
    }

    /// Those of these keys that still exist.
    pub(super) async fn find_existing_keys(&self, ids: Vec<KeyId>) -> Result<HashSet<KeyId>> {
        self.store.find_existing_keys(ids).await
    }

    /// Writes the last-used times to the store periodically, and again at shutdown.
    pub(super) async fn run_use_recorder(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            // Wakes up early at shutdown and then flushes a last time: `stop` is checked at the top
            // only.
            let _ = tokio::time::timeout(USE_FLUSH_INTERVAL, stop.cancelled()).await;
            let uses = std::mem::take(&mut *self.pending_uses.lock());
            if uses.is_empty() {
                continue;
            }
            if let Err(error) = self.store.record_key_uses(uses.into_iter().collect()).await {
                tracing::warn!(error = %error.chain(), "recording the last use of API keys failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_key_stores_only_its_digest() {
        let new = NewApiKey {
            user: UserId::new_unchecked("alice"),
            name: None,
            scope: AuthScope::Chat,
            expires_at: None,
        };
        let now = Timestamp::from_millis(0);
        let (text, stored) = generate_key(new.clone(), now).unwrap();
        let (other, _) = generate_key(new.clone(), now).unwrap();
        assert_ne!(text, other);
        let secret = text.splitn(3, '_').nth(2).unwrap();
        assert!(text.starts_with("ek_") && !format!("{stored:?}").contains(secret));
        assert_eq!(parse_key_id(&text), Some(stored.key.id.clone()));
        assert_eq!(digest_key(&text), stored.digest);

        let assistant = NewApiKey { user: UserId::assistant(), ..new };
        assert!(generate_key(assistant, now).is_err());
    }

    #[test]
    fn malformed_key_has_no_id() {
        let secret = "s".repeat(SECRET_CHARS);
        assert!(parse_key_id(&format!("ek_0123456789ab_{secret}")).is_some());
        for odd in [
            "",
            "ek_",
            "ek_0123456789ab",
            "ek_0123456789ab_",
            "sk-0123456789ab",
            &format!("ek_0123456789AB_{secret}"),
            &format!("ek_0123456789ab_{secret}x"),
            &format!("ek_0123456789ab_{}", "ä".repeat(22)),
            &format!("EK_0123456789ab_{secret}"),
        ] {
            assert_eq!(parse_key_id(odd), None, "{odd}");
        }
    }
}
