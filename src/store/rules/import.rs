//! Whole sessions, added or completed.

use super::append::{append, name_after, resolve, save};
use super::posts::{ensure_idle, ensure_open};
use super::sessions::id_taken;
use crate::domain::{Principal, SessionId, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::store::work::{Place, SessionRow, Work};
use crate::store::{ImportSession, Imported, Parent};

pub(in crate::store) async fn import_session(
    work: &mut impl Work,
    who: &Principal,
    import: &ImportSession,
    now: Timestamp,
) -> Result<Imported> {
    let (mut row, was_there) = session(work, who, import).await?;
    ensure_idle(&row)?;
    let before = row.session.messages_count;
    work.expect_many(&row).await?;
    let mut last = row.head();
    for (index, (message, parent)) in import.messages.iter().enumerate() {
        let under = match parent {
            Parent::Root => None,
            Parent::Head => last.take(),
            Parent::Message(_) => resolve(work, &row, parent)
                .await
                .map_err(|error| unknown(format!("messages[{index}].parentId"), parent, error))?,
        };
        let at = match work.by_id(&row, &message.id).await? {
            Some(place) => place.at,
            None => {
                if was_there {
                    ensure_open(&row)?;
                }
                let at = append(work, &mut row, message, under.as_ref()).await?;
                if !import.keeps_title {
                    name_after(work, &mut row, message).await?;
                }
                at
            }
        };
        last = Some(Place { id: message.id.clone(), at });
    }
    let added = row.session.messages_count - before;
    if added > 0 {
        let named = import.head_id.clone().map(Parent::Message);
        let head = match &named {
            Some(named) => resolve(work, &row, named)
                .await
                .map_err(|error| unknown("headId".to_owned(), named, error))?,
            None => last,
        };
        if let Some(head) = head {
            row.session.head_id = Some(head.id);
            row.head = Some(head.at);
        }
        // A new session is as the file says; one that was there is not taken back.
        row.session.last_seen = if was_there {
            row.session.last_seen.max(import.last_seen)
        } else {
            import.last_seen.or(row.session.last_seen)
        };
        save(work, &mut row, now).await?;
    }
    Ok(Imported {
        session_id: row.session.id,
        title: row.session.title,
        messages: u64::from(added),
    })
}

/// The session to add to, and whether it was there before. An id that another user has becomes
/// another one, the same each time.
async fn session(
    work: &mut impl Work,
    who: &Principal,
    import: &ImportSession,
) -> Result<(SessionRow, bool)> {
    for id in [&import.id, &import.other_id] {
        match work.session(id).await? {
            None => return Ok((create(work, who, id, import).await?, false)),
            Some(row) if row.session.owner == who.user => return Ok((row, true)),
            Some(_) => {}
        }
    }
    Err(id_taken())
}

fn unknown(field: String, named: &Parent, error: Error) -> Error {
    match (error.kind, named) {
        (Kind::MessageNotFound, Parent::Message(id)) => Error::invalid_field(
            field,
            format!("must name a message of the session, {id} does not"),
        ),
        _ => error,
    }
}

async fn create(
    work: &mut impl Work,
    who: &Principal,
    id: &SessionId,
    import: &ImportSession,
) -> Result<SessionRow> {
    let mut row = work.insert_session(&who.user, id, &import.new, import.created_at).await?;
    work.place_imported(&row, import).await?;
    row.session.status = import.status.clone();
    row.session.archived = import.archived;
    row.session.pinned = import.pinned;
    row.session.last_seen = import.last_seen;
    if !import.read_marks.is_empty() {
        row.read_marks.clone_from(&import.read_marks);
        work.save_read_marks(&row).await?;
    }
    Ok(row)
}
