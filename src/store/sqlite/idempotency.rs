//! Requests that may be repeated: known by their key for a day.

use super::rows::SessionRow;
use crate::domain::{MessageId, Principal, Timestamp, TurnId};
use crate::error::{Error, Kind, Result};
use crate::store::IdempotencyKey;
use rusqlite::{Connection, OptionalExtension, params};

/// How long a request is known by its key, in milliseconds.
const LIFETIME: i64 = 24 * 60 * 60 * 1000;

/// What a request led to when it came first.
pub(super) struct Known {
    /// The session's row.
    pub(super) session: i64,
    /// What was posted, or the reply.
    pub(super) message_id: MessageId,
    /// The turn, where there was one.
    pub(super) turn_id: Option<TurnId>,
}

/// Looks a request up. Errors: `idempotency_key_reused` if it said something else.
pub(super) fn find(
    db: &Connection,
    who: &Principal,
    key: &IdempotencyKey,
    now: Timestamp,
) -> Result<Option<Known>> {
    let sql = "SELECT fingerprint, session, message_id, turn_id FROM idempotency_keys \
               WHERE user_id = ?1 AND route = ?2 AND key = ?3 AND created_at > ?4";
    let oldest = now.as_millis() - LIFETIME;
    let found = db
        .prepare_cached(sql)?
        .query_row(params![who.user.as_str(), key.route, key.key, oldest], |row| {
            let known = Known {
                session: row.get(1)?,
                message_id: MessageId::trusted(row.get::<_, String>(2)?),
                turn_id: row.get::<_, Option<String>>(3)?.map(TurnId::trusted),
            };
            Ok((row.get::<_, String>(0)?, known))
        })
        .optional()?;
    match found {
        Some((fingerprint, _)) if fingerprint != key.fingerprint => Err(reused("Idempotency-Key")),
        found => Ok(found.map(|(_, known)| known)),
    }
}

/// Remembers a request and forgets those of yesterday.
pub(super) fn remember(
    db: &Connection,
    who: &Principal,
    key: &IdempotencyKey,
    session: &SessionRow,
    message_id: &MessageId,
    turn_id: Option<&TurnId>,
    now: Timestamp,
) -> Result<()> {
    let now = now.as_millis();
    db.prepare_cached("DELETE FROM idempotency_keys WHERE created_at <= ?1")?
        .execute([now - LIFETIME])?;
    let sql = "INSERT OR REPLACE INTO idempotency_keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    db.prepare_cached(sql)?.execute(params![
        who.user.as_str(),
        key.route,
        key.key,
        key.fingerprint,
        session.key,
        message_id.as_str(),
        turn_id.map(|turn| turn.as_str()),
        now
    ])?;
    Ok(())
}

pub(super) fn reused(what: &'static str) -> Error {
    let message = format!("this {what} was used before, with other content");
    Error::new(Kind::IdempotencyKeyReused, message)
}
