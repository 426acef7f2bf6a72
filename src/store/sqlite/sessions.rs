//! Sessions in SQLite.

use super::session_rows::{KeyedSession, get_session_by_key};
use super::transaction::{SqliteTransaction, run_ready};
use super::{SqliteStore, search, session_list, session_rows};
use crate::domain::page::SessionQuery;
use crate::domain::principal::AccessLevel;
use crate::domain::session::SessionStatus;
use crate::domain::title::SessionTitle;
use crate::domain::tokenizer::WORDS_VERSION;
use crate::domain::{Principal, Session, SessionId, Timestamp, TurnId, UserId};
use crate::error::Result;
use crate::store::rules::{self, SessionVisibility, activity_time};
use crate::store::stored_values::encode_json;
use crate::store::transaction::{SessionRow, SessionTransaction};
use crate::store::{
    DeleteFilter, DeletionResult, ImportSession, NewSession, SessionMembers, SessionPage,
    SessionStore, SessionUpdate,
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use std::collections::HashMap;

#[async_trait]
impl SessionStore for SqliteStore {
    async fn create_session(
        &self,
        principal: &Principal,
        new: NewSession,
        now: Timestamp,
    ) -> Result<(Session, bool)> {
        let principal = principal.clone();
        self.transact(async move |tx| rules::create_session(tx, &principal, &new, now).await).await
    }

    async fn get_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        access: AccessLevel,
    ) -> Result<Session> {
        let principal = principal.clone();
        let id = id.clone();
        self.run_read(move |db| {
            Ok(get_session(db, &principal, &id, access)?.row.into_session_with_nodes())
        })
        .await
    }

    async fn list_members(
        &self,
        sessions: Vec<SessionId>,
    ) -> Result<HashMap<SessionId, SessionMembers>> {
        self.run_read(move |db| {
            let mut members = HashMap::with_capacity(sessions.len());
            for id in sessions {
                if let Some(found) = session_rows::find_members(db, &id)? {
                    members.insert(id, found);
                }
            }
            Ok(members)
        })
        .await
    }

    async fn list_sessions(
        &self,
        principal: &Principal,
        query: SessionQuery,
    ) -> Result<SessionPage> {
        let user = principal.user.clone();
        self.run_read(move |db| {
            let visibility = if query.is_of_invitations {
                SessionVisibility::Invited(&user)
            } else {
                let is_guest = session_list::is_guest(db, &user)?;
                SessionVisibility::of_user(&user, is_guest)
            };
            session_list::list_sessions(db, visibility, &query)
        })
        .await
    }

    async fn list_all_sessions(
        &self,
        owner: Option<&UserId>,
        query: SessionQuery,
    ) -> Result<SessionPage> {
        let owner = owner.cloned();
        let read = move |db: &Transaction<'_>| {
            let visibility =
                owner.as_ref().map_or(SessionVisibility::Any, SessionVisibility::Owner);
            session_list::list_sessions(db, visibility, &query)
        };
        self.run_read(read).await
    }

    async fn update_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        update: SessionUpdate,
        if_match: Vec<u32>,
        now: Timestamp,
    ) -> Result<Session> {
        let principal = principal.clone();
        let id = id.clone();
        self.transact(async move |tx| {
            rules::update_session(tx, &principal, &id, &update, &if_match, now).await
        })
        .await
    }

    async fn accept_invitation(
        &self,
        principal: &Principal,
        id: &SessionId,
        now: Timestamp,
    ) -> Result<Session> {
        let principal = principal.clone();
        let id = id.clone();
        self.transact(async move |tx| rules::accept_invitation(tx, &principal, &id, now).await)
            .await
    }

    async fn leave_session(
        &self,
        principal: &Principal,
        id: &SessionId,
        now: Timestamp,
    ) -> Result<()> {
        let principal = principal.clone();
        let id = id.clone();
        self.transact(async move |tx| rules::leave_session(tx, &principal, &id, now).await).await
    }

    async fn delete_session(
        &self,
        principal: &Principal,
        id: &SessionId,
    ) -> Result<DeletionResult> {
        let principal = principal.clone();
        let id = id.clone();
        self.transact(async move |tx| rules::delete_session(tx, &principal, &id).await).await
    }

    async fn list_owned_sessions(
        &self,
        principal: &Principal,
        filter: DeleteFilter,
    ) -> Result<Vec<SessionId>> {
        let owner = principal.user.clone();
        self.run_read(move |db| list_owned_sessions(db, &owner, &filter)).await
    }
}

impl SessionTransaction for SqliteTransaction<'_> {
    async fn find_session(&mut self, id: &SessionId) -> Result<Option<SessionRow>> {
        let found = session_rows::find_session(self.db, id)?;
        Ok(found.map(|found| self.note_session(found)))
    }

    async fn find_visible_session(
        &mut self,
        principal: &Principal,
        id: &SessionId,
    ) -> Result<Option<SessionRow>> {
        let found = session_rows::find_visible_session(self.db, principal, id)?;
        Ok(found.map(|found| self.note_session(found)))
    }

    async fn insert_session(
        &mut self,
        owner: &UserId,
        id: &SessionId,
        new: &NewSession,
        now: Timestamp,
    ) -> Result<SessionRow> {
        let db = self.db;
        let key = self.take_new_session_key()?;
        let (participants, invited) = rules::initial_members(owner, new);
        db.prepare_cached(
            "INSERT INTO sessions (key, id, owner, participants, project_id, title, title_words, title_source, status, \
             archived, pinned, meta, user_meta, theme, settings, version, messages, nodes, activity_at, created_at, \
             updated_at, words_version, invited) \
             VALUES (?14, ?1, ?2, ?3, ?4, ?5, '', ?6, ?7, 0, 0, ?8, ?9, ?10, ?11, 1, 0, 0, ?12, ?12, ?12, ?13, ?15)",
        )?
        .execute(params![
            id.as_str(),
            owner.as_str(),
            encode_json(&participants)?,
            new.project_id.as_ref().map(|project| project.as_str()),
            new.title.text,
            new.title.source.as_str(),
            SessionStatus::ACTIVE,
            new.meta.as_json(),
            new.user_meta.as_json(),
            new.theme.as_json(),
            encode_json(&new.settings)?,
            now.as_millis(),
            WORDS_VERSION,
            key,
            encode_json(&invited)?,
        ])?;
        search::update_title_words(db, key, &new.title.text)?;
        // Read back, so that the defaults of the table are not repeated here.
        let inserted = get_session_by_key(db, key)?;
        insert_members(db, key, &inserted.row)?;
        Ok(self.note_session(inserted))
    }

    async fn update_session(
        &mut self,
        row: &SessionRow,
        update: SessionUpdate,
        now: Timestamp,
    ) -> Result<()> {
        let db = self.db;
        let key = self.session_key(row)?;
        let old = row.session.clone();
        if let Some(title) = &update.title {
            write_title(db, key, title)?;
        }
        db.prepare_cached(
            "UPDATE sessions SET project_id = ?2, status = ?3, meta = ?4, user_meta = ?5, theme = ?6, \
             settings = ?7, updated_at = ?8, version = version + 1 WHERE key = ?1",
        )?
        .execute(params![
            key,
            update.project_id.unwrap_or(old.project_id).as_ref().map(|project| project.as_str()),
            update.status.unwrap_or(old.status).as_str(),
            update.meta.unwrap_or(old.meta).as_json(),
            update.user_meta.unwrap_or(old.user_meta).as_json(),
            update.theme.unwrap_or(old.theme).as_json(),
            encode_json(&update.settings.unwrap_or(old.settings))?,
            now.as_millis(),
        ])?;
        Ok(())
    }

    async fn save_members(&mut self, row: &SessionRow) -> Result<()> {
        let db = self.db;
        let key = self.session_key(row)?;
        // The row of the session keeps the ordered lists, the table serves lookups by user.
        db.prepare_cached("DELETE FROM participants WHERE session = ?1")?.execute([key])?;
        insert_members(db, key, row)?;
        let owner = &row.session.owner;
        let own = row.placement(owner);
        let mut others = row.placements.clone();
        others.remove(owner.as_str());
        db.prepare_cached(
            "UPDATE sessions SET participants = ?2, invited = ?3, placements = ?4, archived = ?5, \
             pinned = ?6 WHERE key = ?1",
        )?
        .execute(params![
            key,
            encode_json(&row.session.participants)?,
            encode_json(&row.session.invited)?,
            encode_json(&others)?,
            own.archived,
            own.pinned,
        ])?;
        Ok(())
    }

    async fn set_title(&mut self, row: &SessionRow, title: &SessionTitle) -> Result<()> {
        let db = self.db;
        let key = self.session_key(row)?;
        db.prepare_cached("UPDATE sessions SET version = version + 1 WHERE key = ?1")?
            .execute([key])?;
        write_title(db, key, title)
    }

    async fn set_imported_fields(
        &mut self,
        row: &SessionRow,
        import: &ImportSession,
    ) -> Result<()> {
        let db = self.db;
        let key = self.session_key(row)?;
        db.prepare_cached("UPDATE sessions SET status = ?2, last_seen = ?3 WHERE key = ?1")?
            .execute(params![
                key,
                import.status.as_str(),
                import.last_seen.map(Timestamp::as_millis)
            ])?;
        Ok(())
    }

    async fn save_counters(&mut self, row: &SessionRow) -> Result<()> {
        let db = self.db;
        let key = self.session_key(row)?;
        let session = &row.session;
        db.prepare_cached(
            "UPDATE sessions SET messages = ?2, nodes = ?3, head_id = ?4, head_seq = ?5, head_node = ?6, \
             last_message = ?7, last_message_at = ?8, activity_at = ?9, last_seen = ?10, updated_at = ?11 WHERE key = ?1",
        )?
        .execute(params![
            key,
            session.messages_count,
            row.node_count,
            session.head_id.as_ref().map(|id| id.as_str()),
            row.head.map(|head| head.seq),
            row.head.map(|head| head.node),
            session.last_message,
            session.last_message_at.map(Timestamp::as_millis),
            activity_time(session).as_millis(),
            session.last_seen.map(Timestamp::as_millis),
            session.updated_at.as_millis(),
        ])?;
        Ok(())
    }

    async fn save_read_marks(&mut self, row: &SessionRow) -> Result<()> {
        let db = self.db;
        let key = self.session_key(row)?;
        db.prepare_cached("UPDATE sessions SET read_marks = ?2 WHERE key = ?1")?
            .execute((key, encode_json(&row.read_marks)?))?;
        Ok(())
    }

    async fn delete_session(&mut self, row: &SessionRow) -> Result<DeletionResult> {
        let db = self.db;
        let key = self.session_key(row)?;
        // Without its claim, the running turn can store neither its log nor its reply.
        let running: Option<String> = db
            .prepare_cached("DELETE FROM turns WHERE session = ?1 RETURNING turn_id")?
            .query_row([key], |row| row.get(0))
            .optional()?;
        let queued: Vec<String> = db
            .prepare_cached("DELETE FROM queue WHERE session = ?1 RETURNING turn_id")?
            .query_map([key], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        // Without its row, nothing finds the rest of the session. A sweep deletes that in steps.
        for rows in [
            "INSERT INTO drafts VALUES (?1, 0)",
            "DELETE FROM participants WHERE session = ?1",
            "DELETE FROM session_titles WHERE rowid = ?1",
            "DELETE FROM sessions WHERE key = ?1",
        ] {
            db.prepare_cached(rows)?.execute([key])?;
        }
        let turns = queued.into_iter().chain(running).map(TurnId::new_unchecked).collect();
        Ok(DeletionResult {
            sessions: 1,
            messages: row.session.messages_count.into(),
            turns,
            ..DeletionResult::default()
        })
    }
}

/// Returns the session if `principal` has the required access.
pub(super) fn get_session(
    db: &Connection,
    principal: &Principal,
    id: &SessionId,
    access: AccessLevel,
) -> Result<KeyedSession> {
    let mut tx = SqliteTransaction::new(db);
    let row = run_ready(rules::get_session(&mut tx, principal, id, access))?;
    Ok(KeyedSession { key: tx.session_key(&row)?, row })
}

/// Writes a title to the session's row and to the index of titles.
fn write_title(db: &Connection, key: i64, title: &SessionTitle) -> Result<()> {
    db.prepare_cached("UPDATE sessions SET title = ?2, title_source = ?3 WHERE key = ?1")?
        .execute(params![key, title.text, title.source.as_str()])?;
    search::update_title_words(db, key, &title.text)
}

fn insert_members(db: &Connection, key: i64, row: &SessionRow) -> Result<()> {
    let Session { owner, participants, invited, .. } = &row.session;
    let mut insert = db.prepare_cached(
        "INSERT OR IGNORE INTO participants (user_id, session, invited, archived, pinned) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    // Owners are found by the column `owner`; the table lists only the other users.
    for user in participants.iter().filter(|user| *user != owner) {
        let placement = row.placement(user);
        insert.execute(params![user.as_str(), key, false, placement.archived, placement.pinned])?;
    }
    for user in invited {
        insert.execute(params![user.as_str(), key, true, false, false])?;
    }
    Ok(())
}

fn list_owned_sessions(
    db: &Connection,
    owner: &UserId,
    filter: &DeleteFilter,
) -> Result<Vec<SessionId>> {
    let id = |row: &Row<'_>| Ok(SessionId::new_unchecked(row.get::<_, String>(0)?));
    let ids = match filter {
        DeleteFilter::Project(project) => db
            .prepare_cached("SELECT id FROM sessions WHERE project_id = ?2 AND owner = ?1")?
            .query_map([owner.as_str(), project.as_str()], id)?
            .collect::<Result<_, _>>()?,
        DeleteFilter::InactiveSince(time) => db
            .prepare_cached("SELECT id FROM sessions WHERE owner = ?1 AND activity_at < ?2")?
            .query_map(params![owner.as_str(), time.as_millis()], id)?
            .collect::<Result<_, _>>()?,
    };
    Ok(ids)
}
