//! Sessions in SQLite: created, read, changed, deleted.

use super::SqliteStore;
use super::list::{self, Whose};
use super::rows::{SELECT_SESSION, message_key, session_row, to_json};
use super::work::{Step, at_once};
use crate::domain::page::SessionQuery;
use crate::domain::principal::AccessLevel;
use crate::domain::session::SessionStatus;
use crate::domain::title::SessionTitle;
use crate::domain::{Principal, Session, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, Result};
use crate::store::rules::{self, title_words, with_owner};
use crate::store::work::SessionRow;
use crate::store::{DeleteFilter, Deleted, NewSession, SessionChange, SessionPage, SessionStore};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

#[async_trait]
impl SessionStore for SqliteStore {
    async fn create_session(
        &self,
        who: &Principal,
        new: NewSession,
        now: Timestamp,
    ) -> Result<(Session, bool)> {
        let who = who.clone();
        self.step(async move |step| rules::create_session(step, &who, &new, now).await).await
    }

    async fn session(
        &self,
        who: &Principal,
        id: &SessionId,
        access: AccessLevel,
    ) -> Result<Session> {
        let (who, id) = (who.clone(), id.clone());
        self.read(move |db| Ok(get(db, &who, &id, access)?.with_nodes())).await
    }

    async fn sessions(&self, who: &Principal, query: SessionQuery) -> Result<SessionPage> {
        let user = who.user.clone();
        self.read(move |db| list::sessions(db, Whose::Participants(&user), &query)).await
    }

    async fn all_sessions(
        &self,
        owner: Option<&UserId>,
        query: SessionQuery,
    ) -> Result<SessionPage> {
        let owner = owner.cloned();
        let read = move |db: &Transaction<'_>| {
            let whose = owner.as_ref().map_or(Whose::Anybodys, Whose::Owners);
            list::sessions(db, whose, &query)
        };
        self.read(read).await
    }

    async fn change_session(
        &self,
        who: &Principal,
        id: &SessionId,
        change: SessionChange,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Session> {
        let (who, id) = (who.clone(), id.clone());
        self.step(async move |step| {
            rules::change_session(step, &who, &id, &change, &if_match, now).await
        })
        .await
    }

    async fn delete_session(&self, who: &Principal, id: &SessionId) -> Result<Deleted> {
        let (who, id) = (who.clone(), id.clone());
        self.step(async move |step| rules::delete_session(step, &who, &id).await).await
    }

    async fn owned_sessions(
        &self,
        who: &Principal,
        filter: DeleteFilter,
    ) -> Result<Vec<SessionId>> {
        let owner = who.user.clone();
        self.read(move |db| owned_sessions(db, &owner, &filter)).await
    }
}

/// The session with this id, whoever asks.
pub(super) fn find(db: &Connection, id: &SessionId) -> Result<Option<SessionRow>> {
    let mut statement = db.prepare_cached(&format!("{SELECT_SESSION} WHERE s.id = ?1"))?;
    let mut rows = statement.query([id.as_str()])?;
    rows.next()?.map(session_row).transpose()
}

/// The session with this id, unless it is hidden from `who`: of such a row nothing is read but its
/// owner.
pub(super) fn find_visible(
    db: &Connection,
    who: &Principal,
    id: &SessionId,
) -> Result<Option<SessionRow>> {
    let mut statement = db.prepare_cached(&format!(
        "{SELECT_SESSION} WHERE s.id = ?1 AND (?2 OR s.owner = ?3 OR EXISTS \
         (SELECT 1 FROM participants p WHERE p.user_id = ?3 AND p.session = s.key))"
    ))?;
    let mut rows = statement.query(params![id.as_str(), who.is_admin, who.user.as_str()])?;
    rows.next()?.map(session_row).transpose()
}

/// The session with this id, if `who` may do to it what they want.
pub(super) fn get(
    db: &Connection,
    who: &Principal,
    id: &SessionId,
    access: AccessLevel,
) -> Result<SessionRow> {
    at_once(rules::get(&mut Step(db), who, id, access))
}

/// The session with this key.
pub(super) fn by_key(db: &Connection, key: i64) -> Result<SessionRow> {
    let mut statement = db.prepare_cached(&format!("{SELECT_SESSION} WHERE s.key = ?1"))?;
    let mut rows = statement.query([key])?;
    rows.next()?.map(session_row).transpose()?.ok_or_else(Error::session_not_found)
}

/// Adds a session and gives it back as stored.
pub(super) fn insert(
    db: &Connection,
    owner: &UserId,
    id: &SessionId,
    new: &NewSession,
    now: Timestamp,
) -> Result<SessionRow> {
    let participants = with_owner(owner, &new.participants);
    db.prepare_cached(
        "INSERT INTO sessions (id, owner, participants, project_id, title, title_words, title_source, status, \
         archived, pinned, meta, user_meta, theme, settings, version, messages, nodes, activity_at, created_at, \
         updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, ?9, ?10, ?11, ?12, 1, 0, 0, ?13, ?13, ?13)",
    )?
    .execute(params![
        id.as_str(),
        owner.as_str(),
        to_json(&participants)?,
        new.project_id.as_ref().map(|project| project.as_str()),
        new.title.text,
        title_words(&new.title.text),
        new.title.source.as_str(),
        SessionStatus::ACTIVE,
        new.meta.as_json(),
        new.user_meta.as_json(),
        new.theme.as_json(),
        to_json(&new.settings)?,
        now.as_millis(),
    ])?;
    let key = db.last_insert_rowid();
    index_title(db, key, &new.title.text)?;
    set_guests(db, key, owner, &participants)?;
    by_key(db, key)
}

/// Gives a session a title that its user did not give: a change of its own fields like any other.
pub(super) fn name(db: &Connection, key: i64, title: &SessionTitle) -> Result<()> {
    db.prepare_cached("UPDATE sessions SET version = version + 1 WHERE key = ?1")?
        .execute([key])?;
    set_title(db, key, title)
}

/// Gives a session a title, in its row and in the words that search finds.
fn set_title(db: &Connection, key: i64, title: &SessionTitle) -> Result<()> {
    db.prepare_cached(
        "UPDATE sessions SET title = ?2, title_words = ?3, title_source = ?4 WHERE key = ?1",
    )?
    .execute(params![key, title.text, title_words(&title.text), title.source.as_str()])?;
    index_title(db, key, &title.text)
}

fn index_title(db: &Connection, key: i64, title: &str) -> Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO session_titles (rowid, words) VALUES (?1, ?2)")?
        .execute(params![key, title_words(title)])?;
    Ok(())
}

fn set_guests(db: &Connection, key: i64, owner: &UserId, participants: &[UserId]) -> Result<()> {
    let mut insert =
        db.prepare_cached("INSERT OR IGNORE INTO participants (user_id, session) VALUES (?1, ?2)")?;
    for user in participants.iter().filter(|user| *user != owner) {
        insert.execute(params![user.as_str(), key])?;
    }
    Ok(())
}

/// Replaces fields of the session's own.
pub(super) fn change(
    db: &Connection,
    row: &SessionRow,
    change: SessionChange,
    now: Timestamp,
) -> Result<()> {
    let (key, old) = (row.key, row.session.clone());
    if let Some(title) = &change.title {
        set_title(db, key, title)?;
    }
    let participants = match &change.participants {
        None => old.participants,
        Some(others) => {
            db.prepare_cached("DELETE FROM participants WHERE session = ?1")?.execute([key])?;
            let all = with_owner(&old.owner, others);
            set_guests(db, key, &old.owner, &all)?;
            all
        }
    };
    db.prepare_cached(
        "UPDATE sessions SET participants = ?2, project_id = ?3, status = ?4, archived = ?5, pinned = ?6, meta = ?7, \
         user_meta = ?8, theme = ?9, settings = ?10, updated_at = ?11, version = version + 1 WHERE key = ?1",
    )?
    .execute(params![
        key,
        to_json(&participants)?,
        change.project_id.unwrap_or(old.project_id).as_ref().map(|project| project.as_str()),
        change.status.unwrap_or(old.status).as_str(),
        change.archived.unwrap_or(old.archived),
        change.pinned.unwrap_or(old.pinned),
        change.meta.unwrap_or(old.meta).as_json(),
        change.user_meta.unwrap_or(old.user_meta).as_json(),
        change.theme.unwrap_or(old.theme).as_json(),
        to_json(&change.settings.unwrap_or(old.settings))?,
        now.as_millis(),
    ])?;
    Ok(())
}

fn owned_sessions(
    db: &Connection,
    owner: &UserId,
    filter: &DeleteFilter,
) -> Result<Vec<SessionId>> {
    let id = |row: &Row<'_>| Ok(SessionId::trusted(row.get::<_, String>(0)?));
    let ids = match filter {
        DeleteFilter::Project(project) => db
            .prepare_cached("SELECT id FROM sessions WHERE project_id = ?2 AND owner = ?1")?
            .query_map([owner.as_str(), project.as_str()], id)?
            .collect::<Result<_, _>>()?,
        DeleteFilter::Before(time) => db
            .prepare_cached("SELECT id FROM sessions WHERE owner = ?1 AND activity_at < ?2")?
            .query_map(params![owner.as_str(), time.as_millis()], id)?
            .collect::<Result<_, _>>()?,
    };
    Ok(ids)
}

/// Deletes a session and everything that belongs to it.
pub(super) fn delete(db: &Connection, row: &SessionRow) -> Result<Deleted> {
    let key = row.key;
    let running: Option<String> = db
        .prepare_cached("DELETE FROM turns WHERE session = ?1 RETURNING turn_id")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    let messages = db
        .prepare_cached("DELETE FROM messages WHERE key BETWEEN ?1 AND ?2")?
        .execute([message_key(key, 0), message_key(key + 1, 0)])?;
    db.prepare_cached("DELETE FROM embeddings WHERE key BETWEEN ?1 AND ?2")?
        .execute([message_key(key, 0), message_key(key + 1, 0)])?;
    let waiting: Vec<String> = db
        .prepare_cached("DELETE FROM queue WHERE session = ?1 RETURNING turn_id")?
        .query_map([key], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    super::search::forget_words(db, key)?;
    for rows in [
        "DELETE FROM nodes WHERE session = ?1",
        "DELETE FROM summaries WHERE session = ?1",
        "DELETE FROM turn_log WHERE session = ?1",
        "DELETE FROM responses WHERE session = ?1",
        "DELETE FROM participants WHERE session = ?1",
        "DELETE FROM idempotency_keys WHERE session = ?1",
        "DELETE FROM session_titles WHERE rowid = ?1",
        "DELETE FROM sessions WHERE key = ?1",
    ] {
        db.prepare_cached(rows)?.execute([key])?;
    }
    let turns = waiting.into_iter().chain(running).map(TurnId::trusted).collect();
    Ok(Deleted { sessions: 1, messages: messages as u64, turns, ..Deleted::default() })
}
