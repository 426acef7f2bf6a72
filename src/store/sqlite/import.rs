//! Whole sessions into SQLite.

use super::SqliteStore;
use super::append::{Under, append, head, name_after, resolve, save_counters};
use super::messages::{ensure_idle, ensure_open};
use super::paths::by_id;
use super::rows::SessionRow;
use super::sessions::{by_key, find, insert};
use crate::domain::{Principal, SessionId, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::store::{ImportSession, Imported, Parent, TransferStore};
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
        self.write(move |db| import_session(db, &who, &import, now)).await
    }
}

fn import_session(
    db: &Connection,
    who: &Principal,
    import: &ImportSession,
    now: Timestamp,
) -> Result<Imported> {
    let (mut row, was_there) = session(db, who, import)?;
    ensure_idle(&row)?;
    let before = row.session.messages_count;
    let mut last = head(&row);
    for (message, parent) in &import.messages {
        let under = match parent {
            Parent::Root => None,
            Parent::Head => last.take(),
            Parent::Message(_) => {
                resolve(db, &row, parent).map_err(|error| unknown("parentId", parent, error))?
            }
        };
        let at = match by_id(db, row.key, &message.id)? {
            Some(at) => at,
            None => {
                if was_there {
                    ensure_open(&row)?;
                }
                let at = append(db, &mut row, message, under.as_ref())?;
                name_after(db, &mut row, message)?;
                at
            }
        };
        last = Some(Under { id: message.id.clone(), at });
    }
    let added = row.session.messages_count - before;
    if added > 0 {
        let named = import.head_id.clone().map(Parent::Message);
        let head = match &named {
            Some(named) => {
                resolve(db, &row, named).map_err(|error| unknown("headId", named, error))?
            }
            None => last,
        };
        if let Some(head) = head {
            row.session.head_id = Some(head.id);
            row.head = Some(head.at);
        }
        row.session.last_seen = import.last_seen.or(row.session.last_seen);
        save_counters(db, &mut row, now)?;
    }
    Ok(Imported {
        session_id: row.session.id,
        title: row.session.title,
        messages: u64::from(added),
    })
}

/// The session to add to, and whether it was there before. An id that another user has becomes
/// another one, the same each time.
fn session(db: &Connection, who: &Principal, import: &ImportSession) -> Result<(SessionRow, bool)> {
    for id in [&import.id, &import.other_id] {
        match find(db, id)? {
            None => return Ok((create(db, who, id, import)?, false)),
            Some(row) if row.session.owner == who.user => return Ok((row, true)),
            Some(_) => {}
        }
    }
    Err(Error::new(Kind::IdTaken, "this sessionId belongs to another session; choose another"))
}

fn unknown(field: &'static str, named: &Parent, error: Error) -> Error {
    match (error.kind, named) {
        (Kind::MessageNotFound, Parent::Message(id)) => {
            Error::invalid(field, format!("must name a message of the session, {id} does not"))
        }
        _ => error,
    }
}

fn create(
    db: &Connection,
    who: &Principal,
    id: &SessionId,
    import: &ImportSession,
) -> Result<SessionRow> {
    let row = insert(db, &who.user, id, &import.new, import.created_at)?;
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
    by_key(db, row.key)
}
