//! Responses in SQLite: a row for each, by its turn.

use super::SqliteStore;
use super::sessions::{by_key, get};
use super::summaries::key_of;
use crate::domain::principal::AccessLevel;
use crate::domain::{MessageId, Principal, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, Kind, Result};
use crate::store::{ResponseStore, StoredResponse};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Selects what [`stored_response`] reads.
const SELECT: &str = "SELECT turn_id, reply_id, question_id, asker, created_at, request, tape, session \
     FROM responses";

#[async_trait]
impl ResponseStore for SqliteStore {
    async fn put_response(
        &self,
        session: &SessionId,
        response: &StoredResponse,
    ) -> Result<StoredResponse> {
        let (session, response) = (session.clone(), response.clone());
        self.write(move |db| {
            let key = key_of(db, &session)?.ok_or_else(Error::session_not_found)?;
            let sql = "INSERT OR IGNORE INTO responses VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
            db.prepare_cached(sql)?.execute(params![
                response.turn_id.as_str(),
                key,
                response.reply_id.as_str(),
                response.question_id.as_str(),
                response.asker.as_str(),
                response.created_at.as_millis(),
                response.request,
                response.tape,
            ])?;
            let sql = format!("{SELECT} WHERE session = ?1 AND reply_id = ?2");
            let reply = params![key, response.reply_id.as_str()];
            Ok(db.prepare_cached(&sql)?.query_row(reply, stored_response)?)
        })
        .await
    }

    async fn response(
        &self,
        who: &Principal,
        turn: &TurnId,
    ) -> Result<(SessionId, StoredResponse)> {
        let (who, turn) = (who.clone(), turn.clone());
        self.read(move |db| {
            let sql = format!("{SELECT} WHERE turn_id = ?1");
            let found = db
                .prepare_cached(&sql)?
                .query_row([turn.as_str()], |row| Ok((row.get(7)?, stored_response(row)?)))
                .optional()?;
            let (key, response) = found.ok_or_else(Error::response_not_found)?;
            let session = by_key(db, key)?.session.id;
            match get(db, &who, &session, AccessLevel::Participant) {
                Ok(_) => Ok((session, response)),
                Err(error) if error.kind == Kind::SessionNotFound => {
                    Err(Error::response_not_found())
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn session_of_reply(&self, reply: &MessageId) -> Result<SessionId> {
        let reply = reply.clone();
        self.read(move |db| {
            let sql = "SELECT session FROM responses WHERE reply_id = ?1";
            let found = db.prepare_cached(sql)?.query_row([reply.as_str()], |row| row.get(0));
            let key = found.optional()?.ok_or_else(Error::response_not_found)?;
            Ok(by_key(db, key)?.session.id)
        })
        .await
    }

    async fn put_tape(&self, turn: &TurnId, tape: &str) -> Result<()> {
        let (turn, tape) = (turn.clone(), tape.to_owned());
        self.write_later(move |db| {
            db.prepare_cached("UPDATE responses SET tape = ?2 WHERE turn_id = ?1")?
                .execute([turn.as_str(), &tape])?;
            Ok(())
        })
        .await
    }

    async fn delete_response(&self, turn: &TurnId) -> Result<bool> {
        let turn = turn.clone();
        self.write(move |db| {
            let sql = "DELETE FROM responses WHERE turn_id = ?1";
            Ok(db.prepare_cached(sql)?.execute([turn.as_str()])? == 1)
        })
        .await
    }
}

/// The responses of a session, in the order of their turns.
pub(super) fn of_session(db: &Connection, session: i64) -> Result<Vec<StoredResponse>> {
    let sql = format!("{SELECT} WHERE session = ?1 ORDER BY turn_id");
    let mut statement = db.prepare_cached(&sql)?;
    let responses = statement.query_map([session], stored_response)?;
    Ok(responses.collect::<Result<_, _>>()?)
}

fn stored_response(row: &Row<'_>) -> rusqlite::Result<StoredResponse> {
    Ok(StoredResponse {
        turn_id: TurnId::trusted(row.get::<_, String>(0)?),
        reply_id: MessageId::trusted(row.get::<_, String>(1)?),
        question_id: MessageId::trusted(row.get::<_, String>(2)?),
        asker: UserId::trusted(row.get::<_, String>(3)?),
        created_at: Timestamp::from_millis(row.get(4)?),
        request: row.get(5)?,
        tape: row.get(6)?,
    })
}
