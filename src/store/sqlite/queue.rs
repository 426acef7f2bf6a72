//! Queued turns in SQLite.

use crate::domain::{SessionId, TurnId};
use crate::error::Result;
use crate::store::TurnInput;
use crate::store::queued_turn::QueuedTurn;
use rusqlite::{Connection, OptionalExtension, params};

pub(super) fn queued_turns(db: &Connection, session: i64) -> Result<Vec<QueuedTurn>> {
    let sql = "SELECT turn FROM queue WHERE session = ?1 ORDER BY position";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([session])?;
    let mut queued = Vec::new();
    while let Some(row) = rows.next()? {
        queued.extend(QueuedTurn::decode_or_skip(&row.get::<_, String>(0)?));
    }
    Ok(queued)
}

pub(super) fn enqueue(
    db: &Connection,
    session: i64,
    queued: &QueuedTurn,
    at_front: bool,
) -> Result<()> {
    let sql = "SELECT coalesce(min(position), 0), coalesce(max(position), 0) FROM queue WHERE session = ?1";
    let (first, last): (i64, i64) =
        db.prepare_cached(sql)?.query_row([session], |row| Ok((row.get(0)?, row.get(1)?)))?;
    // Positions may become negative; only their order matters.
    let position = if at_front { first - 1 } else { last + 1 };
    let client_message_id = match &queued.turn.input {
        TurnInput::Send { message, .. } => message.client_message_id.as_ref(),
        TurnInput::Regenerate { .. } => None,
    };
    db.prepare_cached("INSERT INTO queue VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        session,
        position,
        queued.turn.turn_id.as_str(),
        client_message_id.map(|id| id.as_str()),
        queued.to_json()?
    ])?;
    Ok(())
}

pub(super) fn dequeue(db: &Connection, session: i64, turn: &TurnId) -> Result<bool> {
    let sql = "DELETE FROM queue WHERE session = ?1 AND turn_id = ?2";
    Ok(db.prepare_cached(sql)?.execute(params![session, turn.as_str()])? > 0)
}

pub(super) fn find_startable_session(db: &Connection) -> Result<Option<SessionId>> {
    // `turns` holds the running turns, so these sessions are idle although turns are queued.
    let sql = "SELECT s.id FROM queue q JOIN sessions s ON s.key = q.session \
               WHERE q.session NOT IN (SELECT session FROM turns) LIMIT 1";
    let id: Option<String> = db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
    Ok(id.map(SessionId::new_unchecked))
}
