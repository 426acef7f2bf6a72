//! Requests that may be repeated: known by their key for a day.

use crate::domain::{MessageId, Principal, SessionId, Timestamp, TurnId};
use crate::error::{Error, Kind, Result};
use crate::store::work::{KnownRequest, Work};
use crate::store::{IdempotencyKey, Repeats};

/// How long a request is known by its key, in milliseconds.
const LIFETIME: i64 = 24 * 60 * 60 * 1000;
/// How long a library goes on sending a request again, in milliseconds.
const LATELY: i64 = 2 * 60 * 1000;

/// Looks a request up. Errors: `idempotency_key_reused` if it said something else.
pub(super) async fn find(
    work: &mut impl Work,
    who: &Principal,
    key: &IdempotencyKey,
    now: Timestamp,
) -> Result<Option<KnownRequest>> {
    let since = match key.repeats {
        Repeats::Always | Repeats::Never => oldest(now),
        Repeats::Lately => Timestamp::from_millis(now.as_millis() - LATELY),
    };
    // What is known is looked at in any case: a new note takes its place.
    match work.known_request(who, key, since).await? {
        _ if key.repeats == Repeats::Never => Ok(None),
        Some(known) if known.fingerprint != key.fingerprint => Err(reused("Idempotency-Key")),
        known => Ok(known),
    }
}

/// Remembers a request.
pub(super) async fn remember(
    work: &mut impl Work,
    who: &Principal,
    key: &IdempotencyKey,
    (session, message_id, turn_id): (&SessionId, &MessageId, Option<&TurnId>),
    now: Timestamp,
) -> Result<()> {
    let known = KnownRequest {
        fingerprint: key.fingerprint.clone(),
        session: session.clone(),
        message_id: message_id.clone(),
        turn_id: turn_id.cloned(),
    };
    work.remember_request(who, key, &known, now, oldest(now)).await
}

/// When a request was made that is forgotten now.
pub(in crate::store) fn oldest(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.as_millis() - LIFETIME)
}

pub(super) fn reused(what: &'static str) -> Error {
    let message = format!("this {what} was used before, with other content");
    Error::new(Kind::IdempotencyKeyReused, message)
}
