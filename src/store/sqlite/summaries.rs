//! Summaries in SQLite: one row each, under the location of its last message.

use super::SqliteStore;
use super::paths::{find_message, path_segments};
use super::session_rows::find_session_key;
use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use crate::store::stored_values::to_i64;
use crate::store::transaction::MessageLocation;
use crate::store::{PathSummary, SummaryStore};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

#[async_trait]
impl SummaryStore for SqliteStore {
    async fn find_summary(
        &self,
        session: &SessionId,
        up_to: &MessageId,
    ) -> Result<Option<PathSummary>> {
        let session = session.clone();
        let up_to = up_to.clone();
        self.run_read(move |db| {
            let Some(key) = find_session_key(db, &session)? else { return Ok(None) };
            // Most sessions have no summary, and then no path has to be walked.
            let sql = "SELECT min(last_seq) FROM summaries WHERE session = ?1";
            let first: Option<u32> = db.prepare_cached(sql)?.query_row([key], |row| row.get(0))?;
            let Some(first) = first else { return Ok(None) };
            let Some(located) = find_message(db, key, &up_to)? else { return Ok(None) };
            find_newest_summary(db, key, first, located.location)
        })
        .await
    }

    async fn save_summary(&self, session: &SessionId, summary: &PathSummary) -> Result<()> {
        let session = session.clone();
        let summary = summary.clone();
        self.run_background_write(move |db| {
            let Some(key) = find_session_key(db, &session)? else { return Ok(()) };
            let Some(located) = find_message(db, key, &summary.last_message)? else {
                return Ok(());
            };
            let sql =
                "INSERT OR REPLACE INTO summaries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
            db.prepare_cached(sql)?.execute(params![
                key,
                located.location.seq,
                located.location.node,
                summary.first_message.as_str(),
                summary.last_message.as_str(),
                to_i64(summary.tokens_before),
                to_i64(summary.path_tokens),
                summary.text,
                summary.model,
            ])?;
            Ok(())
        })
        .await
    }
}

/// Finds the last summary on the path that ends at `from`. No summary ends before the seq `first`.
fn find_newest_summary(
    db: &Connection,
    session: i64,
    first: u32,
    from: MessageLocation,
) -> Result<Option<PathSummary>> {
    let sql = "SELECT first_id, last_id, tokens_before, path_tokens, text, model FROM summaries \
               WHERE session = ?1 AND last_node = ?2 AND last_seq BETWEEN ?3 AND ?4 \
               ORDER BY last_seq DESC LIMIT 1";
    let mut statement = db.prepare_cached(sql)?;
    for segment in path_segments(db, session, Some(from)) {
        let segment = segment?;
        let range = (session, segment.node, segment.first, segment.last);
        let found = statement.query_row(range, decode_summary).optional()?;
        // Older nodes cannot contain one.
        if found.is_some() || segment.last < first {
            return Ok(found);
        }
    }
    Ok(None)
}

fn decode_summary(row: &Row<'_>) -> rusqlite::Result<PathSummary> {
    Ok(PathSummary {
        first_message: MessageId::new_unchecked(row.get::<_, String>(0)?),
        last_message: MessageId::new_unchecked(row.get::<_, String>(1)?),
        tokens_before: row.get::<_, i64>(2)?.unsigned_abs(),
        path_tokens: row.get::<_, i64>(3)?.unsigned_abs(),
        text: row.get(4)?,
        model: row.get(5)?,
    })
}
