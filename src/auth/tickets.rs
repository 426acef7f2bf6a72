//! Tickets authenticate `EventSource` requests, which cannot send headers. An authenticated client
//! gets a ticket that replaces its credentials once, within a minute. The store keeps only its
//! SHA-256 digest: any instance can redeem it, but reading the store does not reveal it.

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
/// Validity, in milliseconds.
const TICKET_TTL_MILLIS: i64 = 60_000;
/// A ticket that seems to be valid for longer than this was issued by a clock that was far ahead.
const MAX_REMAINING_MILLIS: i64 = 2 * TICKET_TTL_MILLIS;
/// Longer strings are rejected without a look at the store.
const MAX_TICKET_BYTES: usize = 64;

/// The stored identity of a ticket's owner.
#[derive(Serialize, Deserialize)]
struct TicketIdentity {
    user: String,
    scope: String,
    /// Id of the API key that the ticket was issued for.
    key: Option<String>,
    /// Expiry of the credentials that the ticket was issued for, in milliseconds since 1970.
    expires_at: Option<i64>,
    email: Option<String>,
    name: Option<String>,
}

/// Issues a ticket. Returns its text and expiry.
pub async fn issue_ticket(
    store: &(impl KeyStore + ?Sized),
    identity: &Identity,
    now: Timestamp,
) -> Result<(String, Timestamp)> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(Error::internal)?;
    let text = format!("{TICKET_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
    // The whole identity is stored, since the request that redeems the ticket carries nothing else.
    let owner = TicketIdentity {
        user: identity.principal.user.to_string(),
        scope: identity.scope.as_str().to_owned(),
        key: identity.key.as_ref().map(KeyId::to_string),
        expires_at: identity.expires_at.map(Timestamp::as_millis),
        email: identity.email.clone(),
        name: identity.name.clone(),
    };
    let owner = serde_json::to_string(&owner).map_err(Error::internal)?;
    let expires_at = Timestamp::from_millis(now.as_millis() + TICKET_TTL_MILLIS);
    store.add_ticket(StoredTicket { digest: digest_ticket(&text), owner, expires_at }, now).await?;
    Ok((text, expires_at))
}

/// Redeems a ticket; it cannot be used again. Errors: `unauthenticated`.
pub async fn redeem_ticket(
    store: &(impl KeyStore + ?Sized),
    text: &str,
    now: Timestamp,
) -> Result<Identity> {
    if text.len() > MAX_TICKET_BYTES || !text.starts_with(TICKET_PREFIX) {
        return Err(invalid_credentials());
    }
    let ticket = store.redeem_ticket(&digest_ticket(text)).await?;
    // The store may keep expired tickets for a while. Redeeming has removed this one either way.
    let is_valid = |ticket: &StoredTicket| {
        let remaining = ticket.expires_at.as_millis().saturating_sub(now.as_millis());
        (1..=MAX_REMAINING_MILLIS).contains(&remaining)
    };
    let ticket = ticket.filter(is_valid).ok_or_else(invalid_credentials)?;
    let owner: TicketIdentity =
        serde_json::from_str(&ticket.owner).map_err(Error::store_unavailable)?;
    let scope = AuthScope::from_name(&owner.scope).ok_or_else(invalid_credentials)?;
    let identity = Identity::new(UserId::new_unchecked(owner.user), scope);
    Ok(Identity {
        key: owner.key.map(KeyId::new_unchecked),
        expires_at: owner.expires_at.map(Timestamp::from_millis),
        email: owner.email,
        name: owner.name,
        ..identity
    })
}

fn digest_ticket(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
