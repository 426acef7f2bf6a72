//! Responses in SQLite: one row per turn.

use super::SqliteStore;
use super::session_rows::{find_session_key, get_session_by_key};
use super::sessions::get_session;
use crate::domain::principal::AccessLevel;
use crate::domain::{MessageId, Principal, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{ResponseStore, StoredResponse};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Columns in the order in which [`decode_response`] reads them.
const SELECT_RESPONSE: &str = "SELECT turn_id, reply_id, question_id, asker, created_at, request, tape, session \
     FROM responses";

#[async_trait]
impl ResponseStore for SqliteStore {
    async fn save_response(
        &self,
        session: &SessionId,
        response: &StoredResponse,
    ) -> Result<StoredResponse> {
        let session = session.clone();
        let response = response.clone();
        self.run_write(move |db| {
            let key = find_session_key(db, &session)?.ok_or_else(Error::session_not_found)?;
            // A retry must not replace what the first attempt has saved, so the stored
            // row is read back.
            let sql = "INSERT OR IGNORE INTO responses VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
            db.prepare_cached(sql)?.execute(params![
                response.turn_id.as_str(),
                key,
                response.reply_id.as_str(),
                response.user_message_id.as_str(),
                response.user.as_str(),
                response.created_at.as_millis(),
                response.request,
                response.recording,
            ])?;
            let sql = format!("{SELECT_RESPONSE} WHERE session = ?1 AND reply_id = ?2");
            let reply = params![key, response.reply_id.as_str()];
            Ok(db.prepare_cached(&sql)?.query_row(reply, decode_response)?)
        })
        .await
    }

    async fn get_response(
        &self,
        principal: &Principal,
        turn: &TurnId,
    ) -> Result<(SessionId, StoredResponse)> {
        let principal = principal.clone();
        let turn = turn.clone();
        self.run_read(move |db| {
            let sql = format!("{SELECT_RESPONSE} WHERE turn_id = ?1");
            let found = db
                .prepare_cached(&sql)?
                .query_row([turn.as_str()], |row| Ok((row.get(7)?, decode_response(row)?)))
                .optional()?;
            let (key, response) = found.ok_or_else(Error::response_not_found)?;
            // The content of a deleted session remains for a while.
            let visible = get_session_by_key(db, key).and_then(|found| {
                get_session(db, &principal, &found.row.session.id, AccessLevel::Participant)
            });
            match visible {
                Ok(found) => Ok((found.row.session.id, response)),
                // A response in a hidden session must look like a missing one.
                Err(error) if error.kind == ErrorKind::SessionNotFound => {
                    Err(Error::response_not_found())
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn find_session_by_reply(&self, reply: &MessageId) -> Result<SessionId> {
        let reply = reply.clone();
        self.run_read(move |db| {
            let sql = "SELECT s.id FROM responses r JOIN sessions s ON s.key = r.session \
                       WHERE r.reply_id = ?1";
            let found = db
                .prepare_cached(sql)?
                .query_row([reply.as_str()], |row| row.get::<_, String>(0))
                .optional()?;
            Ok(SessionId::new_unchecked(found.ok_or_else(Error::response_not_found)?))
        })
        .await
    }

    async fn save_recording(&self, turn: &TurnId, recording: &str) -> Result<()> {
        let turn = turn.clone();
        let recording = recording.to_owned();
        self.run_background_write(move |db| {
            db.prepare_cached("UPDATE responses SET tape = ?2 WHERE turn_id = ?1")?
                .execute([turn.as_str(), &recording])?;
            Ok(())
        })
        .await
    }

    async fn delete_response(&self, turn: &TurnId) -> Result<bool> {
        let turn = turn.clone();
        self.run_write(move |db| {
            let sql = "DELETE FROM responses WHERE turn_id = ?1";
            Ok(db.prepare_cached(sql)?.execute([turn.as_str()])? == 1)
        })
        .await
    }
}

pub(super) fn list_session_responses(db: &Connection, session: i64) -> Result<Vec<StoredResponse>> {
    let sql = format!("{SELECT_RESPONSE} WHERE session = ?1 ORDER BY turn_id");
    let mut statement = db.prepare_cached(&sql)?;
    let responses = statement.query_map([session], decode_response)?;
    Ok(responses.collect::<Result<_, _>>()?)
}

fn decode_response(row: &Row<'_>) -> rusqlite::Result<StoredResponse> {
    Ok(StoredResponse {
        turn_id: TurnId::new_unchecked(row.get::<_, String>(0)?),
        reply_id: MessageId::new_unchecked(row.get::<_, String>(1)?),
        user_message_id: MessageId::new_unchecked(row.get::<_, String>(2)?),
        user: UserId::new_unchecked(row.get::<_, String>(3)?),
        created_at: Timestamp::from_millis(row.get(4)?),
        request: row.get(5)?,
        recording: row.get(6)?,
    })
}
