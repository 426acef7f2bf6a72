//! Whole sessions into SQLite, and out of it.

use super::SqliteStore;
use super::rows::{SELECT_MESSAGE, message_key, message_row};
use super::sessions::get;
use crate::domain::principal::AccessLevel;
use crate::domain::{Principal, SessionId, Timestamp};
use crate::error::Result;
use crate::store::work::{MAX_SEQ, SessionRow};
use crate::store::{ImportSession, Imported, SessionPiece, TransferStore, rules};
use async_trait::async_trait;
use rusqlite::{Connection, params};

#[async_trait]
impl TransferStore for SqliteStore {
    async fn import_session(
        &self,
        who: &Principal,
        import: ImportSession,
        now: Timestamp,
    ) -> Result<Imported> {
        let who = who.clone();
        self.step(async move |step| rules::import_session(step, &who, &import, now).await).await
    }

    async fn read_piece(
        &self,
        who: &Principal,
        session: &SessionId,
        after: u32,
    ) -> Result<SessionPiece> {
        let (who, session) = (who.clone(), session.clone());
        self.read(move |db| {
            let row = get(db, &who, &session, AccessLevel::Owner)?;
            piece(db, &row, after)
        })
        .await
    }
}

fn piece(db: &Connection, row: &SessionRow, after: u32) -> Result<SessionPiece> {
    let mut piece = SessionPiece::new(row.session.clone(), row.read_marks.clone());
    let sql = format!("{SELECT_MESSAGE} WHERE key BETWEEN ?1 AND ?2 ORDER BY key");
    let mut statement = db.prepare_cached(&sql)?;
    let range = [message_key(row.key, after + 1), message_key(row.key, MAX_SEQ)];
    let mut rows = statement.query(range)?;
    while let Some(found) = rows.next()? {
        if !piece.push(message_row(found, row)?) {
            break;
        }
    }
    Ok(piece)
}

/// Gives a new session the fields that only an imported one has.
pub(super) fn place(db: &Connection, row: &SessionRow, import: &ImportSession) -> Result<()> {
    db.prepare_cached(
        "UPDATE sessions SET status = ?2, archived = ?3, pinned = ?4, last_seen = ?5 WHERE key = ?1",
    )?
    .execute(params![
        row.key,
        import.status.as_str(),
        import.archived,
        import.pinned,
        import.last_seen.map(Timestamp::as_millis)
    ])?;
    Ok(())
}
