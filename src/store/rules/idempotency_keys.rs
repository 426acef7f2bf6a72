//! Requests recorded under an idempotency key, which recognizes their retries for a day.

use crate::domain::{MessageId, Principal, SessionId, Timestamp, TurnId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::transaction::{PriorRequest, StoreTransaction};
use crate::store::{IdempotencyKey, RetryWindow};

const KEY_LIFETIME_MS: i64 = 24 * 60 * 60 * 1000;
/// How long client libraries keep retrying a request.
const SHORT_WINDOW_MS: i64 = 2 * 60 * 1000;

/// Finds the request recorded under a key. Errors: `idempotency_key_reused` if its
/// body was different.
pub(super) async fn find_prior_request(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    key: &IdempotencyKey,
    now: Timestamp,
) -> Result<Option<PriorRequest>> {
    let since = match key.retry_window {
        RetryWindow::Full | RetryWindow::Disabled => oldest_valid_request(now),
        RetryWindow::Short => Timestamp::from_millis(now.as_millis() - SHORT_WINDOW_MS),
    };
    // The lookup is needed even where the result is ignored: MongoDB replaces exactly the record
    // that this transaction has read.
    match tx.find_request(principal, key, since).await? {
        _ if key.retry_window == RetryWindow::Disabled => Ok(None),
        Some(request) if request.fingerprint != key.fingerprint => {
            Err(key_reused("Idempotency-Key"))
        }
        request => Ok(request),
    }
}

pub(super) async fn record_request(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    key: &IdempotencyKey,
    (session, message_id, turn_id): (&SessionId, &MessageId, Option<&TurnId>),
    now: Timestamp,
) -> Result<()> {
    let request = PriorRequest {
        fingerprint: key.fingerprint.clone(),
        session_id: session.clone(),
        message_id: message_id.clone(),
        turn_id: turn_id.cloned(),
    };
    tx.record_request(principal, key, &request, now, oldest_valid_request(now)).await
}

/// Requests recorded before this time are no longer recognized.
pub(in crate::store) fn oldest_valid_request(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.as_millis() - KEY_LIFETIME_MS)
}

pub(super) fn key_reused(what: &'static str) -> Error {
    let message = format!("this {what} was already used with different content");
    Error::new(ErrorKind::IdempotencyKeyReused, message)
}
