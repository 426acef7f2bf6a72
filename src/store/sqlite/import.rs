//! Whole sessions into SQLite.

use super::SqliteStore;
use crate::domain::{Principal, Timestamp};
use crate::error::Result;
use crate::store::work::SessionRow;
use crate::store::{ImportSession, Imported, TransferStore, rules};
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
