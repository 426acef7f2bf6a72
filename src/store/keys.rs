//! Store operations on API keys and tickets.

use crate::domain::Timestamp;
use crate::domain::key::{ApiKey, KeyId};
use crate::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use std::collections::HashSet;

/// SHA-256 of a whole API key. A key has 256 random bits, so a slow hash would add no protection
/// against guessing.
pub type KeyDigest = [u8; 32];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Everything but the secret.
    pub key: ApiKey,
    /// Compared with the digest of a presented key.
    pub digest: KeyDigest,
}

/// A one-time, short-lived substitute for a caller's credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTicket {
    /// SHA-256 of the ticket, in hexadecimal.
    pub digest: String,
    /// The caller's identity in the encoding of `auth`.
    pub owner: String,
    pub expires_at: Timestamp,
}

pub(super) fn key_exists() -> Error {
    Error::new(ErrorKind::IdConflict, "a key with this id already exists")
}

/// API keys and tickets.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Adds a key. Errors: `id_conflict`.
    async fn add_key(&self, key: StoredKey) -> Result<()>;

    /// Finds a key by its id.
    async fn find_key(&self, id: &KeyId) -> Result<Option<StoredKey>>;

    /// Returns those of these keys that exist.
    async fn find_existing_keys(&self, ids: Vec<KeyId>) -> Result<HashSet<KeyId>>;

    /// Lists all keys, oldest first.
    async fn list_keys(&self) -> Result<Vec<StoredKey>>;

    /// Deletes a key. Returns whether it existed.
    async fn revoke_key(&self, id: &KeyId) -> Result<bool>;

    /// Records when keys were last used, unless a later time is already recorded.
    async fn record_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<()>;

    /// Adds a ticket. May delete expired ones.
    async fn add_ticket(&self, ticket: StoredTicket, now: Timestamp) -> Result<()>;

    /// Removes a ticket and returns it. If several callers present it, only one gets it.
    async fn redeem_ticket(&self, digest: &str) -> Result<Option<StoredTicket>>;
}
