//! Turns that wait for a session's running turn to end, and how they begin then.

use super::rows::SessionRow;
use super::sessions::by_key;
use super::turns::{Claim, begin_again, begin_saying};
use crate::domain::{MessageId, Timestamp, TurnId};
use crate::error::{Error, Kind, Result};
use crate::store::queued::Waiting;
use crate::store::{Ask, Began, Begun, Claimant, MAX_QUEUED, OnBusy, TurnSpec};
use rusqlite::{Connection, OptionalExtension, params};

/// Puts a turn behind those that wait, or before them. Errors: `queue_full`.
pub(super) fn push(
    db: &Connection,
    session: &SessionRow,
    waiting: &Waiting,
    on_busy: OnBusy,
) -> Result<()> {
    let sql = "SELECT count(*), coalesce(min(position), 0), coalesce(max(position), 0) FROM queue WHERE session = ?1";
    let (count, first, last): (u32, i64, i64) = db
        .prepare_cached(sql)?
        .query_row([session.key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    if count >= MAX_QUEUED {
        let message = format!("{MAX_QUEUED} messages wait in this session already");
        return Err(Error::new(Kind::QueueFull, message));
    }
    let position = if on_busy == OnBusy::Interrupt { first - 1 } else { last + 1 };
    let client_message_id = match &waiting.turn.ask {
        Ask::Say { message, .. } => message.client_message_id.as_ref(),
        Ask::Again { .. } => None,
    };
    db.prepare_cached("INSERT INTO queue VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        session.key,
        position,
        waiting.turn.turn_id.as_str(),
        client_message_id.map(|id| id.as_str()),
        waiting.to_json()?
    ])?;
    Ok(())
}

/// Takes the first one that waits in a session.
pub(super) fn pop(db: &Connection, session: i64) -> Result<Option<Waiting>> {
    let sql = "DELETE FROM queue WHERE session = ?1 AND position = \
               (SELECT min(position) FROM queue WHERE session = ?1) RETURNING turn";
    let text: Option<String> =
        db.prepare_cached(sql)?.query_row([session], |row| row.get(0)).optional()?;
    text.as_deref().map(Waiting::from_json).transpose()
}

/// Drops all that wait in a session.
pub(super) fn clear(db: &Connection, session: i64) -> Result<Vec<TurnId>> {
    let sql = "DELETE FROM queue WHERE session = ?1 RETURNING turn_id";
    let mut statement = db.prepare_cached(sql)?;
    let turns = statement.query_map([session], |row| row.get::<_, String>(0))?;
    turns.map(|turn| Ok(TurnId::trusted(turn?))).collect()
}

/// Drops one that waits.
pub(super) fn remove(db: &Connection, session: i64, turn: &TurnId) -> Result<bool> {
    let sql = "DELETE FROM queue WHERE session = ?1 AND turn_id = ?2";
    Ok(db.prepare_cached(sql)?.execute(params![session, turn.as_str()])? > 0)
}

/// Whether a turn waits.
pub(super) fn holds(db: &Connection, session: i64, turn: &TurnId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM queue WHERE session = ?1 AND turn_id = ?2)";
    Ok(db.prepare_cached(sql)?.query_row(params![session, turn.as_str()], |row| row.get(0))?)
}

/// The waiting turn whose message a client named so.
pub(super) fn by_client_id(
    db: &Connection,
    session: i64,
    id: &MessageId,
) -> Result<Option<Waiting>> {
    let sql = "SELECT turn FROM queue WHERE session = ?1 AND client_message_id = ?2";
    let text: Option<String> = db
        .prepare_cached(sql)?
        .query_row(params![session, id.as_str()], |row| row.get(0))
        .optional()?;
    text.as_deref().map(Waiting::from_json).transpose()
}

/// Begins the first turn that waits in an idle session. One that cannot begin any more is passed
/// over: a failure goes on with the next.
pub(super) fn begin_next(
    db: &Connection,
    session: i64,
    claimant: &Claimant,
    now: Timestamp,
    passed_over: &mut Vec<TurnId>,
) -> Result<Option<Box<Begun>>> {
    while let Some(Waiting { turn, .. }) = pop(db, session)? {
        let waited = turn.turn_id.clone();
        db.prepare_cached("SAVEPOINT waiting")?.execute([])?;
        match begin_waiting(db, by_key(db, session)?, turn, claimant, now) {
            Ok(Began::Running(begun)) => {
                db.prepare_cached("RELEASE waiting")?.execute([])?;
                return Ok(Some(begun));
            }
            // Stored, and a person will answer it.
            Ok(_) => {}
            Err(error) => {
                db.prepare_cached("ROLLBACK TO waiting")?.execute([])?;
                tracing::warn!(turn.id = %waited, error = %error, "a waiting turn could not begin");
            }
        }
        db.prepare_cached("RELEASE waiting")?.execute([])?;
        passed_over.push(waited);
    }
    Ok(None)
}

fn begin_waiting(
    db: &Connection,
    row: SessionRow,
    turn: TurnSpec,
    claimant: &Claimant,
    now: Timestamp,
) -> Result<Began> {
    let TurnSpec { turn_id, reply_id, ask, options } = turn;
    let claim = Claim { turn_id, reply_id, options, claimant, now };
    match ask {
        Ask::Say { mut message, parent, .. } => {
            message.created_at = now;
            begin_saying(db, row, *message, &parent, claim)
        }
        Ask::Again { reply } => begin_again(db, row, reply, claim),
    }
}

/// A session in which turns wait and none runs.
pub(super) fn idle_session(db: &Connection) -> Result<Option<i64>> {
    let sql = "SELECT session FROM queue WHERE session NOT IN (SELECT session FROM turns) LIMIT 1";
    Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?)
}
