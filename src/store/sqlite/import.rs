//! Whole sessions into SQLite.

use super::SqliteStore;
use super::append::{Under, append, head, name_after, save_counters};
use super::messages::ensure_idle;
use super::paths::locate;
use super::rows::SessionRow;
use super::sessions::{by_key, find, insert};
use crate::domain::{MessageId, Principal, SessionId, Timestamp};
use crate::error::{Error, Result};
use crate::store::{ImportSession, Imported, NewSession, Parent, TransferStore};
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
    let wanted = import.new.id.clone().unwrap_or_else(SessionId::generate);
    let mut row = match find(db, &wanted)? {
        None => create(db, who, &wanted, import)?,
        Some(row) if row.session.owner == who.user => row,
        Some(_) => create(db, who, &SessionId::generate(), import)?,
    };
    ensure_idle(&row)?;
    let before = row.session.messages_count;
    let mut last = head(&row);
    for (message, parent) in &import.messages {
        let under = match parent {
            Parent::Root => None,
            Parent::Head => last.take(),
            Parent::Message(id) => Some(under(db, &row, id)?),
        };
        last = Some(match locate(db, row.key, &message.id)? {
            Some(at) => Under { id: message.id.clone(), at },
            None => {
                let at = append(db, &mut row, message, under.as_ref())?;
                name_after(db, &mut row, message)?;
                Under { id: message.id.clone(), at }
            }
        });
    }
    let added = row.session.messages_count - before;
    if added > 0 {
        let head = match &import.head_id {
            Some(id) => Some(under(db, &row, id)?),
            None => last,
        };
        if let Some(head) = head {
            row.session.head_id = Some(head.id);
            row.head = Some(head.at);
        }
        if import.last_seen.is_some() {
            row.session.last_seen = import.last_seen;
        }
        save_counters(db, &mut row, now)?;
    }
    Ok(Imported {
        session_id: row.session.id,
        title: row.session.title,
        messages: u64::from(added),
    })
}

fn create(
    db: &Connection,
    who: &Principal,
    id: &SessionId,
    import: &ImportSession,
) -> Result<SessionRow> {
    let new = NewSession { id: None, ..import.new.clone() };
    let row = insert(db, &who.user, id, &new, import.created_at)?;
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

fn under(db: &Connection, row: &SessionRow, id: &MessageId) -> Result<Under> {
    let missing =
        || Error::invalid("parentId", format!("must name a message of the session, {id} does not"));
    let at = locate(db, row.key, id)?.ok_or_else(missing)?;
    Ok(Under { id: id.clone(), at })
}
