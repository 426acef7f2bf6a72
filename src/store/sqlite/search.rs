//! Full-text index of messages in SQLite: FTS5 without the texts, filled in the background.
//!
//! Each word is stored with a prefix for the session's owner, so that a search reads nothing of
//! other users' words. Whether a match may be seen is decided by the sessions themselves.

use super::SqliteStore;
use super::rows::{message_key, seq_from_key};
use crate::domain::search::{SearchCursor, SearchMatch, SearchQuery, SearchTerm};
use crate::domain::{MessageId, Principal, Session, SessionId};
use crate::error::{Error, Result};
use crate::store::transaction::MAX_SEQ;
use crate::store::{IndexBacklog, MessageWords, SearchStore, SessionWords};
use async_trait::async_trait;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, params, params_from_iter};
use sha2::{Digest, Sha256};

/// Index pages merged in one step.
const MERGE_PAGES: i64 = 64;

#[async_trait]
impl SearchStore for SqliteStore {
    async fn list_index_backlog(&self) -> Result<Vec<IndexBacklog>> {
        self.run_read(|db| {
            let sql = "SELECT id, kept FROM sessions WHERE messages > kept LIMIT 64";
            let mut statement = db.prepare_cached(sql)?;
            let backlog = statement.query_map([], |row| {
                let session_id = SessionId::new_unchecked(row.get::<_, String>(0)?);
                Ok(IndexBacklog { session_id, indexed_seq: row.get(1)? })
            })?;
            backlog.collect::<Result<_, _>>().map_err(Error::from)
        })
        .await
    }

    async fn index_words(&self, words: Vec<SessionWords>) -> Result<()> {
        let rows: Vec<_> = words.into_iter().map(IndexRows::from_words).collect();
        self.run_background_write(move |db| rows.iter().try_for_each(|rows| rows.write_rows(db)))
            .await
    }

    async fn merge_index(&self, is_first: bool) -> Result<bool> {
        self.run_background_write(move |db| {
            let mut has_more = false;
            for table in ["message_words", "session_titles"] {
                has_more |= merge_index_pages(db, table, is_first)?;
            }
            Ok(has_more)
        })
        .await
    }

    async fn search_messages(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<Vec<SearchMatch>> {
        let principal = principal.clone();
        let query = query.clone();
        self.run_read(move |db| search_messages(db, &principal, &query)).await
    }

    async fn search_titles(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<Vec<SearchMatch>> {
        let principal = principal.clone();
        let query = query.clone();
        self.run_read(move |db| search_titles(db, &principal, &query)).await
    }
}

/// Index rows of consecutive messages, with their words joined before the writer thread gets them.
struct IndexRows {
    session: Session,
    after_seq: u32,
    messages: Vec<(MessageWords, String)>,
}

impl IndexRows {
    fn from_words(words: SessionWords) -> Self {
        let SessionWords { session, after_seq: after, messages } = words;
        let prefix = owner_prefix(session.owner.as_str());
        let prefixed = |message: MessageWords| {
            let words = message.words.iter().flat_map(|word| [prefix.as_str(), word.as_str(), " "]);
            let words = words.collect();
            (message, words)
        };
        Self { messages: messages.into_iter().map(prefixed).collect(), session, after_seq: after }
    }

    fn write_rows(&self, db: &Connection) -> Result<()> {
        let Self { session, after_seq: after, messages } = self;
        // Nothing is written if another writer has indexed the session meanwhile, or if it was
        // deleted and another one has its id.
        let sql = "SELECT key FROM sessions WHERE id = ?1 AND created_at = ?2 AND kept = ?3";
        let expected = params![session.id.as_str(), session.created_at.as_millis(), after];
        let key: Option<i64> =
            db.prepare_cached(sql)?.query_row(expected, |row| row.get(0)).optional()?;
        let Some(session) = key else { return Ok(()) };
        let mut last = *after;
        for (message, words) in messages {
            let key = message_key(session, message.seq);
            db.prepare_cached("INSERT INTO message_words (rowid, words) VALUES (?1, ?2)")?
                .execute(params![key, words])?;
            db.prepare_cached("INSERT INTO kept_words VALUES (?1, ?2, ?3)")?.execute(params![
                key,
                message.created_at.as_millis(),
                message.role.as_str()
            ])?;
            last = message.seq;
        }
        db.prepare_cached("UPDATE sessions SET kept = ?2 WHERE key = ?1")?
            .execute((session, last))?;
        Ok(())
    }
}

/// Deletes the index rows of a session that is being deleted.
pub(super) fn delete_words(db: &Connection, session: i64) -> Result<()> {
    let range = [message_key(session, 0), message_key(session, MAX_SEQ)];
    for rows in [
        "DELETE FROM message_words WHERE rowid IN (SELECT key FROM kept_words WHERE key BETWEEN ?1 AND ?2)",
        "DELETE FROM kept_words WHERE key BETWEEN ?1 AND ?2",
    ] {
        db.prepare_cached(rows)?.execute(range)?;
    }
    Ok(())
}

/// Merges some pages of an index, because deleted words stay in it until then. Returns
/// whether more are left.
///
/// A negative number of pages starts a merge of the whole index. With one at each step, words that
/// are added meanwhile would start the merge over:
/// <https://www.sqlite.org/fts5.html#the_merge_command>.
fn merge_index_pages(db: &Connection, table: &str, is_first: bool) -> Result<bool> {
    let changes = || db.query_row("SELECT total_changes()", [], |row| row.get::<_, i64>(0));
    let before = changes()?;
    let sql = format!("INSERT INTO {table} ({table}, rank) VALUES ('merge', ?1)");
    db.prepare_cached(&sql)?.execute([if is_first { -MERGE_PAGES } else { MERGE_PAGES }])?;
    // By the FTS5 documentation, a difference below 2 means that there was nothing to merge.
    Ok(changes()? - before >= 2)
}

/// Prefix of each word in an owner's sessions. No folded word contains the dot, which is part of a
/// word to the tokenizer.
fn owner_prefix(owner: &str) -> String {
    format!("{}·", hex::encode(&Sha256::digest(owner)[..6]))
}

/// FTS5 expression for messages with all terms. Folded words contain only letters and digits, so
/// they need no escape inside quotes.
fn match_expression(prefix: &str, terms: &[SearchTerm]) -> String {
    let term = |SearchTerm { word, is_prefix }: &SearchTerm| {
        format!("\"{prefix}{word}\"{}", if *is_prefix { "*" } else { "" })
    };
    terms.iter().map(term).collect::<Vec<_>>().join(" AND ")
}

fn search_messages(
    db: &Transaction<'_>,
    principal: &Principal,
    query: &SearchQuery,
) -> Result<Vec<SearchMatch>> {
    let scope = SearchScope::load(db, principal)?;
    let per_owner: Vec<_> = scope
        .owners
        .iter()
        .map(|owner| format!("({})", match_expression(&owner_prefix(owner), &query.terms)))
        .collect();
    let mut filter = SearchFilter::new("message_words MATCH ?", per_owner.join(" OR ").into());
    filter.add_condition(scope.visibility_condition(), principal.user.as_str().to_owned());
    filter.add_query_conditions(query, "k.at");
    if let Some(role) = query.role {
        filter.add_condition("k.role = ?", role.as_str().to_owned());
    }
    if let Some(SearchCursor { at_millis: at, session, seq }) = &query.after {
        // 16777215 is `MAX_SEQ` and extracts the seq from a key.
        filter.add_condition("(k.at, s.id, k.key & 16777215) < (?, ?, ?)", *at);
        filter.values.extend([session.clone().into(), Value::from(i64::from(*seq))]);
    }
    let sql = format!(
        "SELECT k.at, s.id, k.key FROM message_words CROSS JOIN kept_words k ON k.key = message_words.rowid \
         CROSS JOIN sessions s ON s.key = k.key >> 24 WHERE {} \
         ORDER BY k.at DESC, s.id DESC, k.key DESC LIMIT {}",
        filter.conditions.join(" AND "),
        u64::from(query.limit) + 1
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(&filter.values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key: i64 = row.get(2)?;
        let id: String = db
            .prepare_cached("SELECT id FROM messages WHERE key = ?1")?
            .query_row([key], |row| row.get(0))?;
        let cursor =
            SearchCursor { at_millis: row.get(0)?, session: row.get(1)?, seq: seq_from_key(key) };
        found.push(SearchMatch { cursor, message: Some(MessageId::new_unchecked(id)) });
    }
    Ok(found)
}

fn search_titles(
    db: &Transaction<'_>,
    principal: &Principal,
    query: &SearchQuery,
) -> Result<Vec<SearchMatch>> {
    let scope = SearchScope::load(db, principal)?;
    let mut filter =
        SearchFilter::new("session_titles MATCH ?", match_expression("", &query.terms).into());
    filter.add_condition(scope.visibility_condition(), principal.user.as_str().to_owned());
    filter.add_query_conditions(query, "s.created_at");
    if let Some(SearchCursor { at_millis: at, session, seq }) = &query.after {
        // A title counts as seq 0, so that titles and messages share a cursor.
        filter.add_condition("(s.created_at, s.id, 0) < (?, ?, ?)", *at);
        filter.values.extend([session.clone().into(), Value::from(i64::from(*seq))]);
    }
    let sql = format!(
        "SELECT s.created_at, s.id FROM session_titles CROSS JOIN sessions s ON s.key = session_titles.rowid \
         WHERE {} ORDER BY s.created_at DESC, s.id DESC LIMIT {}",
        filter.conditions.join(" AND "),
        u64::from(query.limit) + 1
    );
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_map(params_from_iter(&filter.values), |row| {
        let cursor = SearchCursor { at_millis: row.get(0)?, session: row.get(1)?, seq: 0 };
        Ok(SearchMatch { cursor, message: None })
    })?;
    found.collect::<Result<_, _>>().map_err(Error::from)
}

/// The owners whose sessions a user may read.
struct SearchScope {
    /// The user, and the owners of sessions that the user participates in.
    owners: Vec<String>,
}

impl SearchScope {
    fn load(db: &Transaction<'_>, principal: &Principal) -> Result<Self> {
        let mut owners = vec![principal.user.to_string()];
        let sql = "SELECT DISTINCT s.owner FROM participants p JOIN sessions s ON s.key = p.session \
                   WHERE p.user_id = ?1 AND s.owner <> ?1";
        let mut statement = db.prepare_cached(sql)?;
        for owner in statement.query_map([principal.user.as_str()], |row| row.get(0))? {
            owners.push(owner?);
        }
        Ok(Self { owners })
    }

    fn visibility_condition(&self) -> &'static str {
        // The prefix of another owner covers all sessions of that owner, also those that the
        // user cannot see.
        if self.owners.len() == 1 {
            return "s.owner = ?";
        }
        "EXISTS (SELECT 1 FROM json_each(s.participants) j WHERE j.value = ?)"
    }
}

/// SQL conditions and the values of their parameters.
struct SearchFilter {
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl SearchFilter {
    fn new(condition: &str, value: Value) -> Self {
        Self { conditions: vec![condition.to_owned()], values: vec![value] }
    }

    fn add_condition(&mut self, condition: &str, value: impl Into<Value>) {
        self.conditions.push(condition.to_owned());
        self.values.push(value.into());
    }

    fn add_query_conditions(&mut self, query: &SearchQuery, at: &str) {
        if let Some(session) = &query.session_id {
            self.add_condition("s.id = ?", session.as_str().to_owned());
        }
        if let Some(project) = &query.project_id {
            self.add_condition("s.project_id = ?", project.as_str().to_owned());
        }
        if let Some(from) = query.from {
            self.add_condition(&format!("{at} >= ?"), from.as_millis());
        }
        if let Some(to) = query.to {
            self.add_condition(&format!("{at} < ?"), to.as_millis());
        }
    }
}
