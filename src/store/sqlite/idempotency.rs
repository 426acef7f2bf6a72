//! Requests recorded under idempotency keys in SQLite.

use super::transaction::SqliteTransaction;
use crate::domain::{MessageId, Principal, SessionId, Timestamp, TurnId};
use crate::error::Result;
use crate::store::IdempotencyKey;
use crate::store::transaction::{PriorRequest, RequestTransaction};
use rusqlite::{OptionalExtension, params};

impl RequestTransaction for SqliteTransaction<'_> {
    async fn find_request(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        since: Timestamp,
    ) -> Result<Option<PriorRequest>> {
        // Records are deleted with their session; the join only turns its key into its id.
        let sql = "SELECT k.fingerprint, s.id, k.message_id, k.turn_id FROM idempotency_keys k \
                   JOIN sessions s ON s.key = k.session \
                   WHERE k.user_id = ?1 AND k.route = ?2 AND k.key = ?3 AND k.created_at > ?4";
        let found = self.db.prepare_cached(sql)?.query_row(
            params![principal.user.as_str(), key.route, key.key, since.as_millis()],
            |row| {
                Ok(PriorRequest {
                    fingerprint: row.get(0)?,
                    session_id: SessionId::new_unchecked(row.get::<_, String>(1)?),
                    message_id: MessageId::new_unchecked(row.get::<_, String>(2)?),
                    turn_id: row.get::<_, Option<String>>(3)?.map(TurnId::new_unchecked),
                })
            },
        );
        Ok(found.optional()?)
    }

    async fn record_request(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        request: &PriorRequest,
        now: Timestamp,
        since: Timestamp,
    ) -> Result<()> {
        // Each new record makes room for others, so a limited number keeps up.
        let sql = "DELETE FROM idempotency_keys WHERE (user_id, route, key) IN \
                   (SELECT user_id, route, key FROM idempotency_keys WHERE created_at <= ?1 LIMIT 64)";
        self.db.prepare_cached(sql)?.execute([since.as_millis()])?;
        // Selecting the session's key inserts nothing if the session is gone.
        let sql = "INSERT OR REPLACE INTO idempotency_keys \
                   SELECT ?1, ?2, ?3, ?4, key, ?6, ?7, ?8 FROM sessions WHERE id = ?5";
        self.db.prepare_cached(sql)?.execute(params![
            principal.user.as_str(),
            key.route,
            key.key,
            request.fingerprint,
            request.session_id.as_str(),
            request.message_id.as_str(),
            request.turn_id.as_ref().map(|turn| turn.as_str()),
            now.as_millis()
        ])?;
        Ok(())
    }
}
