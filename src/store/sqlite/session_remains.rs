//! Session keys that have content but no row in `sessions`: drafts, which become sessions once
//! they are complete, and deleted sessions, whose content a sweep deletes step by step.

use super::SqliteStore;
use super::rows::{SEQ_MASK, message_key};
use super::search::update_title_words;
use super::writer::StepBudget;
use crate::domain::SessionId;
use crate::error::{Error, Result};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// A draft that was not written for this long is abandoned. Those of an import by another process
/// look the same as those of a crashed one.
const DRAFT_TTL_SECONDS: i64 = 10 * 60;

/// Content by message keys ?1 to ?2. Each statement deletes a few rows; they may be large.
const DELETE_BY_MESSAGE: &[&str] = &[
    "DELETE FROM message_words WHERE rowid IN \
     (SELECT key FROM kept_words WHERE key BETWEEN ?1 AND ?2 ORDER BY key LIMIT 64)",
    "DELETE FROM kept_words WHERE key IN \
     (SELECT key FROM kept_words WHERE key BETWEEN ?1 AND ?2 ORDER BY key LIMIT 64)",
    "DELETE FROM embeddings WHERE key IN \
     (SELECT key FROM embeddings WHERE key BETWEEN ?1 AND ?2 LIMIT 16)",
    "DELETE FROM messages WHERE key IN \
     (SELECT key FROM messages WHERE key BETWEEN ?1 AND ?2 LIMIT 16)",
];

/// Content by session ?1.
const DELETE_BY_SESSION: &[&str] = &[
    "DELETE FROM nodes WHERE session = ?1 AND number IN \
     (SELECT number FROM nodes WHERE session = ?1 LIMIT 64)",
    "DELETE FROM summaries WHERE session = ?1 AND last_seq IN \
     (SELECT last_seq FROM summaries WHERE session = ?1 LIMIT 16)",
    "DELETE FROM turn_log WHERE (turn_id, batch) IN \
     (SELECT turn_id, batch FROM turn_log WHERE session = ?1 LIMIT 16)",
    "DELETE FROM responses WHERE turn_id IN \
     (SELECT turn_id FROM responses WHERE session = ?1 LIMIT 16)",
    "DELETE FROM idempotency_keys WHERE (user_id, route, key) IN \
     (SELECT user_id, route, key FROM idempotency_keys WHERE session = ?1 LIMIT 64)",
];

/// Tables besides `sessions` whose rows stay with a session when its content is replaced.
const MOVED_TABLES: &[&str] =
    &["participants", "queue", "turns", "turn_log", "responses", "idempotency_keys"];

/// The key of a new session or draft. Content that is still to be deleted must not become part of
/// it, also if the session with the highest key was deleted.
pub(super) fn next_session_key(db: &Connection) -> Result<i64> {
    let sql = "SELECT max(coalesce((SELECT max(key) FROM sessions), 0), \
               coalesce((SELECT max(key) FROM drafts), 0)) + 1";
    Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Marks the drafts of earlier processes as abandoned.
pub(super) fn abandon_drafts(db: &Connection) -> Result<()> {
    db.execute("UPDATE drafts SET touched_at = 0", [])?;
    Ok(())
}

/// Whether a key's content may be deleted. Marks its draft as abandoned, unless it was written or
/// became a session since it was found.
fn claim_abandoned(db: &Connection, key: i64) -> Result<bool> {
    let sql = "UPDATE drafts SET touched_at = 0 \
               WHERE key = ?1 AND touched_at < (unixepoch() - ?2) * 1000";
    Ok(db.prepare_cached(sql)?.execute((key, DRAFT_TTL_SECONDS))? > 0)
}

pub(super) fn abandon_draft(db: &Connection, key: i64) -> Result<()> {
    db.prepare_cached("UPDATE drafts SET touched_at = 0 WHERE key = ?1")?.execute([key])?;
    Ok(())
}

/// Creates an empty draft and returns its key.
pub(super) fn create_draft(db: &Connection) -> Result<i64> {
    let key = next_session_key(db)?;
    db.prepare_cached("INSERT INTO drafts VALUES (?1, unixepoch() * 1000)")?.execute([key])?;
    Ok(key)
}

/// Says that a draft is being written. Errors if it was abandoned meanwhile.
pub(super) fn touch_draft(db: &Connection, key: i64) -> Result<()> {
    let sql = "UPDATE drafts SET touched_at = unixepoch() * 1000 WHERE key = ?1 AND touched_at > 0";
    let touched = db.prepare_cached(sql)?.execute([key])?;
    ensure_draft_exists(touched)
}

/// Ends a draft: its key becomes that of a session.
pub(super) fn release_draft(db: &Connection, key: i64) -> Result<()> {
    let sql = "DELETE FROM drafts WHERE key = ?1 AND touched_at > 0";
    let released = db.prepare_cached(sql)?.execute([key])?;
    ensure_draft_exists(released)
}

/// Gives a session the content of a draft. Its former content remains to be deleted. Whether the
/// draft may replace it is for the caller to check in the same transaction.
pub(super) fn replace_content(db: &Connection, id: &SessionId, draft: i64) -> Result<()> {
    release_draft(db, draft)?;
    let sql = "SELECT key, title FROM sessions WHERE id = ?1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?));
    let found = db.prepare_cached(sql)?.query_row([id.as_str()], read).optional()?;
    let (key, title): (i64, String) = found.ok_or_else(Error::session_not_found)?;
    // The words of its messages are indexed again under their new keys.
    db.prepare_cached("UPDATE sessions SET key = ?2, kept = 0 WHERE key = ?1")?
        .execute([key, draft])?;
    for table in MOVED_TABLES {
        let sql = format!("UPDATE {table} SET session = ?2 WHERE session = ?1");
        db.prepare_cached(&sql)?.execute([key, draft])?;
    }
    db.prepare_cached("DELETE FROM session_titles WHERE rowid = ?1")?.execute([key])?;
    update_title_words(db, draft, &title)?;
    db.prepare_cached("INSERT INTO drafts VALUES (?1, 0)")?.execute([key])?;
    Ok(())
}

fn ensure_draft_exists(rows: usize) -> Result<()> {
    match rows {
        0 => {
            Err(Error::store_unavailable("an unfinished session was abandoned; repeat the request"))
        }
        _ => Ok(()),
    }
}

impl SqliteStore {
    /// Deletes a part of the content that belongs to no session. Returns whether more is left.
    pub(super) async fn sweep_step(&self) -> Result<bool> {
        // Asked by a reader, so that a sweep that finds nothing costs no commit.
        let key = self.run_read(|db| find_abandoned(db)).await?;
        let Some(key) = key else { return Ok(false) };
        self.run_step(move |db| {
            if claim_abandoned(db, key)? && delete_some_content(db, key, &mut StepBudget::new())? {
                db.prepare_cached("DELETE FROM drafts WHERE key = ?1")?.execute([key])?;
            }
            Ok(true)
        })
        .await
    }
}

fn find_abandoned(db: &Connection) -> Result<Option<i64>> {
    let sql = "SELECT key FROM drafts WHERE touched_at < (unixepoch() - ?1) * 1000 LIMIT 1";
    Ok(db.prepare_cached(sql)?.query_row([DRAFT_TTL_SECONDS], |row| row.get(0)).optional()?)
}

/// Deletes content of a key until the budget is spent. Returns whether nothing is left.
fn delete_some_content(db: &Connection, key: i64, budget: &mut StepBudget) -> Result<bool> {
    let range = [message_key(key, 0), message_key(key, SEQ_MASK)];
    // Words are found by `kept_words`, so both are deleted in the same round.
    let (words, by_message) = DELETE_BY_MESSAGE.split_at(2);
    loop {
        let mut deleted = 0;
        for sql in words {
            deleted = db.prepare_cached(sql)?.execute(range)?;
        }
        if deleted == 0 {
            break;
        }
        if !budget.spend(2 * deleted) {
            return Ok(false);
        }
    }
    for sql in by_message {
        if !delete_rows(budget, || Ok(db.prepare_cached(sql)?.execute(range)?))? {
            return Ok(false);
        }
    }
    for sql in DELETE_BY_SESSION {
        if !delete_rows(budget, || Ok(db.prepare_cached(sql)?.execute(params![key])?))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Repeats a deletion until it finds no more rows. Returns `false` if the budget was spent before.
fn delete_rows(budget: &mut StepBudget, mut delete: impl FnMut() -> Result<usize>) -> Result<bool> {
    loop {
        match delete()? {
            0 => return Ok(true),
            rows if !budget.spend(rows) => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::super::writer::MAX_STEP_ROWS;
    use super::*;

    /// A message of 100 characters in `messages`, its node and the search index.
    fn add_content(db: &Connection, session: i64, messages: u32) {
        for seq in 1..=messages {
            let key = message_key(session, seq);
            let id = format!("m{seq}");
            db.execute(
                "INSERT INTO messages VALUES (?1, ?2, ?3, ?4, NULL, 'user', 'ada', 'text', ?5, NULL, \
                 'completed', NULL, NULL, NULL, NULL, NULL, 1, 0, 5, 0)",
                params![key, session, seq, id, "x".repeat(100)],
            )
            .unwrap();
            db.execute(
                "INSERT INTO nodes VALUES (?1, ?2, 0, 0, ?2, ?3, ?2, 1, 100, 0)",
                params![session, seq, id],
            )
            .unwrap();
            db.execute("INSERT INTO kept_words VALUES (?1, 0, 'user')", [key]).unwrap();
            db.execute("INSERT INTO message_words (rowid, words) VALUES (?1, 'x')", [key]).unwrap();
        }
    }

    fn open(folder: &std::path::Path) -> Connection {
        let path = folder.join("echoic.db");
        let mut db = Connection::open(&path).unwrap();
        schema::migrate_schema(&mut db, &path).unwrap();
        db
    }

    #[test]
    fn sweep_empties_every_table_in_bounded_steps() {
        let folder = tempfile::tempdir().unwrap();
        let db = open(folder.path());
        // One transaction, so that the test does not wait for the disk.
        db.execute_batch("BEGIN").unwrap();
        add_content(&db, 7, 3000);
        add_content(&db, 8, 1);
        let count = |sql: &str| -> i64 { db.query_row(sql, [], |row| row.get(0)).unwrap() };
        let rows = || {
            count(
                "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM nodes) \
                 + (SELECT count(*) FROM kept_words)",
            )
        };
        for _ in 0..10_000 {
            let before = rows();
            let is_done = delete_some_content(&db, 7, &mut StepBudget::new()).unwrap();
            // The budget is checked after each statement.
            assert!(before - rows() <= MAX_STEP_ROWS as i64 + 64);
            if is_done {
                break;
            }
        }
        let tables = ["messages", "nodes", "kept_words"]
            .map(|table| format!("SELECT count(*) FROM {table}"));
        for sql in &tables {
            assert_eq!(count(sql), 1, "{sql}");
        }
        assert_eq!(count("SELECT count(*) FROM message_words WHERE message_words MATCH 'x'"), 1);
    }

    #[test]
    fn every_table_of_a_session_is_moved_or_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let db = open(folder.path());
        let sql = "SELECT t.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c \
                   WHERE t.type = 'table' AND c.name = 'session'";
        let mut statement = db.prepare(sql).unwrap();
        let tables = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        for table in tables.map(Result::unwrap) {
            let delete = format!("DELETE FROM {table} ");
            let is_deleted = DELETE_BY_MESSAGE
                .iter()
                .chain(DELETE_BY_SESSION)
                .any(|sql| sql.starts_with(&delete));
            assert!(
                MOVED_TABLES.contains(&table.as_str()) || is_deleted,
                "{table} must stay with its session or be deleted with its content"
            );
        }
    }

    #[test]
    fn key_of_deleted_session_is_not_given_again() {
        let folder = tempfile::tempdir().unwrap();
        let db = open(folder.path());
        let first = create_draft(&db).unwrap();
        abandon_drafts(&db).unwrap();
        assert!(touch_draft(&db, first).is_err() && release_draft(&db, first).is_err());
        assert_eq!(create_draft(&db).unwrap(), first + 1);
    }
}
