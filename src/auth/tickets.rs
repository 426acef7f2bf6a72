//! Tickets: for `EventSource`, which cannot send headers. Whoever has credentials gets one that
//! stands for them once, within a minute. The store has its SHA-256 only, so that any instance can
//! take it and nobody who reads the store can.

use super::{Identity, invalid_credentials};
use crate::domain::key::{AuthScope, KeyId};
use crate::domain::{Timestamp, UserId};
use crate::error::{Error, Result};
use crate::store::{KeyStore, StoredTicket};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const TICKET_PREFIX: &str = "tk_";
/// Random bytes of a ticket.
const SECRET_BYTES: usize = 32;
/// How long it is good, in milliseconds.
const TICKET_TTL_MILLIS: i64 = 60_000;
/// Longer ones are none.
const MAX_TICKET_BYTES: usize = 64;

/// Whom a ticket stands for.
#[derive(Serialize, Deserialize)]
struct TicketIdentity {
    user: String,
    scope: String,
    /// The id of the key that it was got with.
    key: Option<String>,
    /// From when on what it was got with is no longer good, in milliseconds.
    expires_at: Option<i64>,
    email: Option<String>,
    name: Option<String>,
}

/// A ticket for somebody: its text, and until when it is good.
pub async fn issue_ticket(
    store: &(impl KeyStore + ?Sized),
    identity: &Identity,
    now: Timestamp,
) -> Result<(String, Timestamp)> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(Error::internal)?;
    let text = format!("{TICKET_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    let holder = TicketIdentity {
        user: identity.principal.user.to_string(),
        scope: identity.scope.as_str().to_owned(),
        key: identity.key.as_ref().map(KeyId::to_string),
        expires_at: identity.expires_at.map(Timestamp::as_millis),
        email: identity.email.clone(),
        name: identity.name.clone(),
    };
    let holder = serde_json::to_string(&holder).map_err(Error::internal)?;
    let expires_at = Timestamp::from_millis(now.as_millis() + TICKET_TTL_MILLIS);
    store
        .add_ticket(StoredTicket { digest: digest_ticket(&text), owner: holder, expires_at }, now)
        .await?;
    Ok((text, expires_at))
}

/// Whom a ticket stands for; from here on it is nobody's. Errors: `unauthenticated`.
pub async fn redeem_ticket(
    store: &(impl KeyStore + ?Sized),
    text: &str,
    now: Timestamp,
) -> Result<Identity> {
    if text.len() > MAX_TICKET_BYTES || !text.starts_with(TICKET_PREFIX) {
        return Err(invalid_credentials());
    }
    let ticket = store.redeem_ticket(&digest_ticket(text)).await?;
    let ticket = ticket.filter(|ticket| now < ticket.expires_at).ok_or_else(invalid_credentials)?;
    let holder: TicketIdentity =
        serde_json::from_str(&ticket.owner).map_err(Error::store_unavailable)?;
    let scope = AuthScope::from_name(&holder.scope).ok_or_else(invalid_credentials)?;
    let identity = Identity::new(UserId::new_unchecked(holder.user), scope);
    Ok(Identity {
        key: holder.key.map(KeyId::new_unchecked),
        expires_at: holder.expires_at.map(Timestamp::from_millis),
        email: holder.email,
        name: holder.name,
        ..identity
    })
}

fn digest_ticket(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
