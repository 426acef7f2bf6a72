//! Import and export of whole sessions in SQLite.

use super::SqliteStore;
use super::rows::{SELECT_MESSAGE, SEQ_MASK, decode_message, message_key};
use super::session_rows::KeyedSession;
use super::sessions::get_session;
use crate::domain::principal::AccessLevel;
use crate::domain::{Principal, SessionId, Timestamp};
use crate::error::Result;
use crate::store::{ImportOutcome, ImportSession, SessionChunk, TransferStore, rules};
use async_trait::async_trait;
use rusqlite::Connection;

#[async_trait]
impl TransferStore for SqliteStore {
    async fn import_session(
        &self,
        principal: &Principal,
        import: ImportSession,
        now: Timestamp,
    ) -> Result<ImportOutcome> {
        let principal = principal.clone();
        self.transact(async move |tx| rules::import_session(tx, &principal, &import, now).await)
            .await
    }

    async fn read_chunk(
        &self,
        principal: &Principal,
        session: &SessionId,
        after: u32,
    ) -> Result<SessionChunk> {
        let principal = principal.clone();
        let session = session.clone();
        self.run_read(move |db| {
            let session = get_session(db, &principal, &session, AccessLevel::Owner)?;
            read_chunk(db, &session, after)
        })
        .await
    }
}

fn read_chunk(db: &Connection, session: &KeyedSession, after: u32) -> Result<SessionChunk> {
    let KeyedSession { key, row } = session;
    let mut piece = SessionChunk::new(row);
    let sql = format!("{SELECT_MESSAGE} WHERE key BETWEEN ?1 AND ?2 ORDER BY key");
    let mut statement = db.prepare_cached(&sql)?;
    let range = [message_key(*key, after + 1), message_key(*key, SEQ_MASK)];
    let mut rows = statement.query(range)?;
    while let Some(found) = rows.next()? {
        if !piece.push(decode_message(found, row)?) {
            break;
        }
    }
    Ok(piece)
}
