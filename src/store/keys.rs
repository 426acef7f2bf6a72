//! What is asked of a store about the keys of the API.

use crate::domain::Timestamp;
use crate::domain::key::{ApiKey, KeyId};
use crate::error::Result;
use async_trait::async_trait;

/// What is kept of a key's secret: the SHA-256 of the whole key. It has 256 random bits, so nothing
/// slower is needed to keep it from being guessed.
pub type KeyDigest = [u8; 32];

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// All but the secret.
    pub key: ApiKey,
    /// What its secret is compared with.
    pub digest: KeyDigest,
}

/// A ticket as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTicket {
    /// The SHA-256 of its text, in hexadecimal.
    pub digest: String,
    /// Whom it stands for, as `auth` spells it.
    pub owner: String,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

/// Keys: made, looked up, listed, revoked; and tickets.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Adds a key. Errors: `id_conflict`.
    async fn add_key(&self, key: StoredKey) -> Result<()>;

    /// The key with this id.
    async fn find_key(&self, id: &KeyId) -> Result<Option<StoredKey>>;

    /// All keys, oldest first.
    async fn list_keys(&self) -> Result<Vec<StoredKey>>;

    /// Takes a key away. Whether it was there.
    async fn revoke_key(&self, id: &KeyId) -> Result<bool>;

    /// Notes when keys were last used; a later time that is there already stays.
    async fn record_key_uses(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<()>;

    /// Adds a ticket, and may drop those that are no longer good.
    async fn add_ticket(&self, ticket: StoredTicket, now: Timestamp) -> Result<()>;

    /// Takes a ticket away. Of many who want one, one gets it.
    async fn redeem_ticket(&self, digest: &str) -> Result<Option<StoredTicket>>;
}
