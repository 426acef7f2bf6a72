//! Whole sessions, added or completed.

use super::append::{append_message, apply_auto_title, resolve_parent, save_session};
use super::posts::{ensure_idle, ensure_open};
use super::sessions::id_conflict;
use crate::domain::{Principal, SessionId, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::store::transaction::{LocatedMessage, SessionRow, StoreTransaction};
use crate::store::{ImportOutcome, ImportSession, MessageParent};

pub(in crate::store) async fn import_session(
    work: &mut impl StoreTransaction,
    who: &Principal,
    import: &ImportSession,
    now: Timestamp,
) -> Result<ImportOutcome> {
    let (mut row, was_there) = find_or_create_session(work, who, import).await?;
    ensure_idle(&row)?;
    let before = row.session.messages_count;
    work.preload_message_ids(&row).await?;
    let mut last = row.located_head();
    for (index, (message, parent)) in import.messages.iter().enumerate() {
        let under = match parent {
            MessageParent::Root => None,
            MessageParent::Head => last.take(),
            MessageParent::Message(_) => {
                resolve_parent(work, &row, parent).await.map_err(|error| {
                    unknown_reference(format!("messages[{index}].parentId"), parent, error)
                })?
            }
        };
        let at = match work.find_message_by_id(&row, &message.id).await? {
            Some(place) => place.location,
            None => {
                if was_there {
                    ensure_open(&row)?;
                }
                let at = append_message(work, &mut row, message, under.as_ref()).await?;
                if !import.keep_title {
                    apply_auto_title(work, &mut row, message).await?;
                }
                at
            }
        };
        last = Some(LocatedMessage { id: message.id.clone(), location: at });
    }
    let added = row.session.messages_count - before;
    if added > 0 {
        let named = import.head_id.clone().map(MessageParent::Message);
        let head = match &named {
            Some(named) => resolve_parent(work, &row, named)
                .await
                .map_err(|error| unknown_reference("headId".to_owned(), named, error))?,
            None => last,
        };
        if let Some(head) = head {
            row.session.head_id = Some(head.id);
            row.head = Some(head.location);
        }
        // A new session is as the file says; one that was there is not taken back.
        row.session.last_seen = if was_there {
            row.session.last_seen.max(import.last_seen)
        } else {
            import.last_seen.or(row.session.last_seen)
        };
        save_session(work, &mut row, now).await?;
    }
    Ok(ImportOutcome {
        session_id: row.session.id,
        title: row.session.title,
        added_messages: u64::from(added),
    })
}

/// The session to add to, and whether it was there before. An id that another user has becomes
/// another one, the same each time.
async fn find_or_create_session(
    work: &mut impl StoreTransaction,
    who: &Principal,
    import: &ImportSession,
) -> Result<(SessionRow, bool)> {
    for id in [&import.id, &import.fallback_id] {
        match work.find_session(id).await? {
            None => return Ok((create_imported_session(work, who, id, import).await?, false)),
            Some(row) if row.session.owner == who.user => return Ok((row, true)),
            Some(_) => {}
        }
    }
    Err(id_conflict())
}

fn unknown_reference(field: String, named: &MessageParent, error: Error) -> Error {
    match (error.kind, named) {
        (ErrorKind::MessageNotFound, MessageParent::Message(id)) => Error::invalid_field(
            field,
            format!("must name a message of the session, {id} does not"),
        ),
        _ => error,
    }
}

async fn create_imported_session(
    work: &mut impl StoreTransaction,
    who: &Principal,
    id: &SessionId,
    import: &ImportSession,
) -> Result<SessionRow> {
    let mut row = work.insert_session(&who.user, id, &import.fields, import.created_at).await?;
    work.set_imported_fields(&row, import).await?;
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
