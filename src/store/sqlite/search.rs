//! Full-text index of messages in SQLite: FTS5 without the texts, filled in the background.
//!
//! Each word is stored with a prefix for the session's owner, so that a search reads nothing of
//! other users' words. Whether a match may be seen is decided by the sessions themselves.

use super::SqliteStore;
use super::filter::SqlFilter;
use super::rows::{SEQ_BITS, SEQ_MASK, message_key, seq_from_key};
use crate::domain::search::{
    SearchCursor, SearchMatch, SearchQuery, SearchTerm, WordLookup, extract_index_words,
};
use crate::domain::tokenizer::WORDS_VERSION;
use crate::domain::{MessageId, Principal, Session, SessionId};
use crate::error::{Error, Result};
use crate::store::rules::fold_title;
use crate::store::{IndexBacklog, MessageWords, SearchStore, SessionWords};
use async_trait::async_trait;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use sha2::{Digest, Sha256};

/// Index pages merged in one step.
const MERGE_PAGES: i64 = 64;

#[async_trait]
impl SearchStore for SqliteStore {
    async fn list_index_backlog(&self) -> Result<Vec<IndexBacklog>> {
        self.run_read(list_backlog).await
    }

    async fn list_outdated_index(&self) -> Result<Vec<SessionId>> {
        self.run_read(list_outdated).await
    }

    async fn index_words(&self, words: Vec<SessionWords>) -> Result<()> {
        let rows: Vec<_> = words.into_iter().map(IndexRows::from_words).collect();
        self.run_background_write(move |db| rows.iter().try_for_each(|rows| rows.add(db))).await
    }

    async fn rebuild_words(&self, words: SessionWords, is_last: bool) -> Result<bool> {
        let rows = IndexRows::from_words(words);
        self.run_background_write(move |db| rows.replace(db, is_last)).await
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

fn list_backlog(db: &Transaction<'_>) -> Result<Vec<IndexBacklog>> {
    let sql = "SELECT id, kept FROM sessions WHERE messages > kept LIMIT 64";
    let mut statement = db.prepare_cached(sql)?;
    let backlog = statement.query_map([], |row| {
        let session_id = SessionId::new_unchecked(row.get::<_, String>(0)?);
        Ok(IndexBacklog { session_id, indexed_seq: row.get(1)? })
    })?;
    backlog.collect::<Result<_, _>>().map_err(Error::from)
}

fn list_outdated(db: &Transaction<'_>) -> Result<Vec<SessionId>> {
    let sql = "SELECT id FROM sessions WHERE words_version < ?1 LIMIT 64";
    let mut statement = db.prepare_cached(sql)?;
    let outdated = statement
        .query_map([WORDS_VERSION], |row| Ok(SessionId::new_unchecked(row.get::<_, String>(0)?)))?;
    outdated.collect::<Result<_, _>>().map_err(Error::from)
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

    /// Adds the words of new messages. Nothing is written if another writer has indexed the session
    /// meanwhile, or if it was deleted and another one has its id.
    fn add(&self, db: &Connection) -> Result<()> {
        let Self { session, after_seq, .. } = self;
        let sql = "SELECT key FROM sessions WHERE id = ?1 AND created_at = ?2 AND kept = ?3";
        let expected = (session.id.as_str(), session.created_at.as_millis(), after_seq);
        let key = db.prepare_cached(sql)?.query_row(expected, |row| row.get(0)).optional()?;
        key.map_or(Ok(()), |key| self.write_words(db, key))
    }

    /// Replaces the words of an outdated session. Returns whether it was outdated.
    fn replace(&self, db: &Connection, is_last: bool) -> Result<bool> {
        let session = &self.session;
        let sql = "SELECT key, title FROM sessions \
                   WHERE id = ?1 AND created_at = ?2 AND words_version < ?3";
        let expected = (session.id.as_str(), session.created_at.as_millis(), WORDS_VERSION);
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?));
        let found = db.prepare_cached(sql)?.query_row(expected, read).optional()?;
        let Some((key, title)) = found else { return Ok(false) };
        self.write_words(db, key)?;
        if is_last {
            update_title_words(db, key, &title)?;
            db.prepare_cached("UPDATE sessions SET words_version = ?2 WHERE key = ?1")?
                .execute((key, WORDS_VERSION))?;
        }
        Ok(true)
    }

    fn write_words(&self, db: &Connection, session: i64) -> Result<()> {
        let mut last = self.after_seq;
        for (message, words) in &self.messages {
            let key = message_key(session, message.seq);
            // Replaces the words of an older version.
            db.prepare_cached(
                "INSERT OR REPLACE INTO message_words (rowid, words) VALUES (?1, ?2)",
            )?
            .execute(params![key, words])?;
            db.prepare_cached("INSERT OR REPLACE INTO kept_words VALUES (?1, ?2, ?3)")?
                .execute(params![key, message.created_at.as_millis(), message.role.as_str()])?;
            last = message.seq;
        }
        db.prepare_cached("UPDATE sessions SET kept = max(kept, ?2) WHERE key = ?1")?
            .execute((session, last))?;
        Ok(())
    }
}

/// Writes the folded title, by which lists sort, and the words by which the title is found.
pub(super) fn update_title_words(db: &Connection, session: i64, title: &str) -> Result<()> {
    db.prepare_cached("UPDATE sessions SET title_words = ?2 WHERE key = ?1")?
        .execute((session, fold_title(title)))?;
    db.prepare_cached("INSERT OR REPLACE INTO session_titles (rowid, words) VALUES (?1, ?2)")?
        .execute((session, extract_index_words(title).join(" ")))?;
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

/// FTS5 expression for texts with all terms. Folded words contain no quotation marks, so they need
/// no escape inside quotes.
pub(super) fn match_expression(prefix: &str, terms: &[SearchTerm]) -> String {
    let lookup = |WordLookup { word, is_prefix }: &WordLookup| {
        format!("\"{prefix}{word}\"{}", if *is_prefix { "*" } else { "" })
    };
    let lookups: Vec<_> = terms.iter().flat_map(|term| &term.lookups).map(lookup).collect();
    lookups.join(" AND ")
}

/// Adds the condition that a session's title contains all terms.
pub(super) fn add_title_search(filter: &mut SqlFilter, terms: &[SearchTerm]) {
    filter.add_condition(
        "s.key IN (SELECT rowid FROM session_titles WHERE session_titles MATCH ?)",
        [match_expression("", terms).into()],
    );
    // The pairs of a run may also occur in other places of a title.
    for run in terms.iter().filter_map(SearchTerm::unproven_run) {
        filter.add_condition("instr(s.title_words, ?) > 0", [run.to_owned().into()]);
    }
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
    let mut filter = SqlFilter::default();
    filter.add_condition("message_words MATCH ?", [per_owner.join(" OR ").into()]);
    let user = principal.user.as_str().to_owned();
    filter.add_condition(scope.visibility_condition(), [user.into()]);
    add_query_conditions(&mut filter, query, "k.at");
    if let Some(role) = query.role {
        filter.add_condition("k.role = ?", [role.as_str().to_owned().into()]);
    }
    if let Some(SearchCursor { at_millis: at, session, seq }) = &query.after {
        filter.add_condition(
            format!("(k.at, s.id, k.key & {SEQ_MASK}) < (?, ?, ?)"),
            [(*at).into(), session.clone().into(), Value::from(i64::from(*seq))],
        );
    }
    let sql = format!(
        "SELECT k.at, s.id, k.key FROM message_words CROSS JOIN kept_words k ON k.key = message_words.rowid \
         CROSS JOIN sessions s ON s.key = k.key >> {SEQ_BITS} WHERE {} \
         ORDER BY k.at DESC, s.id DESC, k.key DESC LIMIT {}",
        filter.where_clause(),
        u64::from(query.limit) + 1
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(filter.params())?;
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
    let mut filter = SqlFilter::default();
    let expression = match_expression("", &query.terms);
    filter.add_condition("session_titles MATCH ?", [expression.into()]);
    let user = principal.user.as_str().to_owned();
    filter.add_condition(scope.visibility_condition(), [user.into()]);
    add_query_conditions(&mut filter, query, "s.created_at");
    if let Some(SearchCursor { at_millis: at, session, seq }) = &query.after {
        // A title counts as seq 0, so that titles and messages share a cursor.
        filter.add_condition(
            "(s.created_at, s.id, 0) < (?, ?, ?)",
            [(*at).into(), session.clone().into(), Value::from(i64::from(*seq))],
        );
    }
    let sql = format!(
        "SELECT s.created_at, s.id FROM session_titles CROSS JOIN sessions s ON s.key = session_titles.rowid \
         WHERE {} ORDER BY s.created_at DESC, s.id DESC LIMIT {}",
        filter.where_clause(),
        u64::from(query.limit) + 1
    );
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_map(filter.params(), |row| {
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
                   WHERE p.user_id = ?1 AND p.invited = 0 AND s.owner <> ?1";
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

fn add_query_conditions(filter: &mut SqlFilter, query: &SearchQuery, at: &str) {
    if let Some(session) = &query.session_id {
        filter.add_condition("s.id = ?", [session.as_str().to_owned().into()]);
    }
    if let Some(project) = &query.project_id {
        filter.add_condition("s.project_id = ?", [project.as_str().to_owned().into()]);
    }
    if let Some(from) = query.from {
        filter.add_condition(format!("{at} >= ?"), [from.as_millis().into()]);
    }
    if let Some(to) = query.to {
        filter.add_condition(format!("{at} < ?"), [to.as_millis().into()]);
    }
}
