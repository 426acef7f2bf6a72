//! Queued turns in SQLite.

use super::transaction::SqliteTransaction;
use crate::domain::key::KeyId;
use crate::domain::{SessionId, Timestamp, TurnId};
use crate::error::Result;
use crate::store::TurnInput;
use crate::store::queued_turn::QueuedTurn;
use crate::store::transaction::{QueueTransaction, SessionRow};
use rusqlite::{OptionalExtension, params};

impl QueueTransaction for SqliteTransaction<'_> {
    async fn queued_turns(&mut self, row: &SessionRow) -> Result<Vec<QueuedTurn>> {
        let sql = "SELECT turn FROM queue WHERE session = ?1 ORDER BY position";
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([self.session_key(row)?])?;
        let mut queued = Vec::new();
        while let Some(row) = rows.next()? {
            queued.extend(QueuedTurn::decode_or_skip(&row.get::<_, String>(0)?));
        }
        Ok(queued)
    }

    async fn enqueue(
        &mut self,
        row: &SessionRow,
        queued: &QueuedTurn,
        at_front: bool,
    ) -> Result<()> {
        let session = self.session_key(row)?;
        let sql = "SELECT coalesce(min(position), 0), coalesce(max(position), 0) FROM queue \
                   WHERE session = ?1";
        let (first, last): (i64, i64) = self
            .db
            .prepare_cached(sql)?
            .query_row([session], |row| Ok((row.get(0)?, row.get(1)?)))?;
        // Positions may become negative; only their order matters.
        let position = if at_front { first - 1 } else { last + 1 };
        let client_message_id = match &queued.turn.input {
            TurnInput::Send { message, .. } => message.client_message_id.as_ref(),
            TurnInput::Regenerate { .. } => None,
        };
        self.db.prepare_cached("INSERT INTO queue VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
            params![
                session,
                position,
                queued.turn.turn_id.as_str(),
                client_message_id.map(|id| id.as_str()),
                queued.to_json()?
            ],
        )?;
        Ok(())
    }

    async fn dequeue(&mut self, row: &SessionRow, turn: &TurnId) -> Result<bool> {
        let sql = "DELETE FROM queue WHERE session = ?1 AND turn_id = ?2";
        let turn = params![self.session_key(row)?, turn.as_str()];
        Ok(self.db.prepare_cached(sql)?.execute(turn)? > 0)
    }

    async fn find_startable_session(&mut self) -> Result<Option<SessionId>> {
        // `turns` holds the running turns, so these sessions are idle although turns are queued.
        let sql = "SELECT s.id FROM queue q JOIN sessions s ON s.key = q.session \
                   WHERE q.session NOT IN (SELECT session FROM turns) LIMIT 1";
        let mut statement = self.db.prepare_cached(sql)?;
        let id: Option<String> = statement.query_row([], |row| row.get(0)).optional()?;
        Ok(id.map(SessionId::new_unchecked))
    }

    async fn is_key_valid(&mut self, key: &KeyId, now: Timestamp) -> Result<bool> {
        let sql = "SELECT 1 FROM keys WHERE id = ?1 AND (expires_at IS NULL OR expires_at > ?2)";
        let key = params![key.as_str(), now.as_millis()];
        Ok(self.db.prepare_cached(sql)?.exists(key)?)
    }
}
