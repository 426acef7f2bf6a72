//! Import of whole sessions: created, or completed with the messages they lack.

use super::append::{append_message, apply_auto_title, resolve_parent, save_session};
use super::posts::{ensure_idle, ensure_open};
use super::sessions::id_conflict;
use crate::domain::session::ListPlacement;
use crate::domain::{MessageId, Principal, SessionId, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::store::transaction::{LocatedMessage, SessionRow, StoreTransaction};
use crate::store::{ImportOutcome, ImportSession, ImportTarget, MessageParent, NewMessage};

pub(in crate::store) async fn import_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    import: &ImportSession,
    now: Timestamp,
) -> Result<ImportOutcome> {
    let (mut row, existed) = find_or_create_session(tx, principal, import).await?;
    ensure_idle(&row)?;
    let count_before = row.session.messages_count;
    tx.preload_messages(&row, mentioned_ids(&import.messages, &import.head_id)).await?;
    let last = import_messages(tx, &mut row, import, existed).await?;
    let added = row.session.messages_count - count_before;
    if added > 0 {
        set_imported_head(tx, &mut row, import, last).await?;
        // A new session takes the time from the file; that of an existing one must not go back.
        row.session.last_seen = if existed {
            row.session.last_seen.max(import.last_seen)
        } else {
            import.last_seen.or(row.session.last_seen)
        };
        save_session(tx, &mut row, now).await?;
    }
    Ok(ImportOutcome {
        session_id: row.session.id,
        title: row.session.title,
        added_messages: u64::from(added),
    })
}

/// All ids that messages have or refer to, and the head's.
pub(in crate::store) fn mentioned_ids(
    messages: &[(NewMessage, MessageParent)],
    head: &Option<MessageId>,
) -> Vec<MessageId> {
    let mut ids: Vec<_> = head.iter().cloned().collect();
    for (message, parent) in messages {
        ids.push(message.id.clone());
        ids.extend(message.client_message_id.clone());
        if let MessageParent::Message(parent) = parent {
            ids.push(parent.clone());
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Appends the messages that the session lacks. Returns the last one of the file, or the head if
/// the file is empty.
async fn import_messages(
    tx: &mut impl StoreTransaction,
    row: &mut SessionRow,
    import: &ImportSession,
    existed: bool,
) -> Result<Option<LocatedMessage>> {
    let mut last = row.located_head();
    for (index, (message, parent)) in import.messages.iter().enumerate() {
        let parent_message = match parent {
            MessageParent::Root => None,
            // The preceding entry of the file, or the present head for the first one.
            MessageParent::Head => last.take(),
            MessageParent::Message(_) => {
                resolve_parent(tx, row, parent).await.map_err(|error| {
                    unknown_reference(format!("messages[{index}].parentId"), parent, error)
                })?
            }
        };
        let at = match tx.find_message_by_id(row, &message.id).await? {
            // Known from an earlier import: the same file twice adds nothing.
            Some(located) => located.location,
            None => {
                // Checked only when there is something to add, so that an import without news
                // succeeds on a closed session, too.
                if existed {
                    ensure_open(row)?;
                }
                let at = append_message(tx, row, message, parent_message.as_ref()).await?;
                if !import.keep_title {
                    apply_auto_title(tx, row, message).await?;
                }
                at
            }
        };
        last = Some(LocatedMessage { id: message.id.clone(), location: at });
    }
    Ok(last)
}

/// Moves the head to the message that the file names, or else to its last one.
async fn set_imported_head(
    tx: &mut impl StoreTransaction,
    row: &mut SessionRow,
    import: &ImportSession,
    last: Option<LocatedMessage>,
) -> Result<()> {
    let reference = import.head_id.clone().map(MessageParent::Message);
    let head = match &reference {
        Some(reference) => resolve_parent(tx, row, reference)
            .await
            .map_err(|error| unknown_reference("headId".to_owned(), reference, error))?,
        // Each append has moved the head, but the last message of the file may have been known.
        None => last,
    };
    if let Some(head) = head {
        row.session.head_id = Some(head.id);
        row.head = Some(head.location);
    }
    Ok(())
}

/// Finds the session that an import adds to, if the caller has it.
pub(in crate::store) async fn find_import_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    target: &ImportTarget,
) -> Result<Option<SessionRow>> {
    for id in [&target.id, &target.fallback_id] {
        match tx.find_session(id).await? {
            None => return Ok(None),
            Some(row) if row.session.owner == principal.user => {
                ensure_idle(&row)?;
                return Ok(Some(row));
            }
            Some(_) => {}
        }
    }
    Err(id_conflict())
}

/// The id of the session that an import creates.
pub(in crate::store) async fn choose_new_id(
    tx: &mut impl StoreTransaction,
    target: &ImportTarget,
) -> Result<SessionId> {
    for id in [&target.id, &target.fallback_id] {
        if tx.find_session(id).await?.is_none() {
            return Ok(id.clone());
        }
    }
    Err(id_conflict())
}

/// Requires that a session can take new messages.
pub(in crate::store) fn ensure_importable(row: &SessionRow) -> Result<()> {
    ensure_idle(row)?;
    ensure_open(row)
}

/// Requires that the session that an import compared itself with is still there.
pub(in crate::store) async fn ensure_unchanged(
    tx: &mut impl StoreTransaction,
    existing: Option<&(SessionId, Timestamp)>,
) -> Result<()> {
    let Some((id, created_at)) = existing else { return Ok(()) };
    match tx.find_session(id).await? {
        Some(row) if row.session.created_at == *created_at => Ok(()),
        _ => Err(changed_meanwhile()),
    }
}

/// Finds or creates the session to add to, and says whether it existed. An id that belongs to
/// another user is replaced by the fallback id, which is the same on every import.
async fn find_or_create_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    import: &ImportSession,
) -> Result<(SessionRow, bool)> {
    for id in [&import.id, &import.fallback_id] {
        match tx.find_session(id).await? {
            None => return Ok((create_imported_session(tx, principal, id, import).await?, false)),
            Some(row) if row.session.owner == principal.user => return Ok((row, true)),
            Some(_) => {}
        }
    }
    Err(id_conflict())
}

fn unknown_reference(field: String, reference: &MessageParent, error: Error) -> Error {
    match (error.kind, reference) {
        (ErrorKind::MessageNotFound, MessageParent::Message(id)) => Error::invalid_field(
            field,
            format!("must name a message of the session, {id} does not"),
        ),
        _ => error,
    }
}

pub(super) async fn create_imported_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    import: &ImportSession,
) -> Result<SessionRow> {
    let mut row = tx.insert_session(&principal.user, id, &import.fields, import.created_at).await?;
    tx.set_imported_fields(&row, import).await?;
    // Keeps `row` equal to the stored session.
    row.session.status = import.status.clone();
    row.session.last_seen = import.last_seen;
    place_imported(tx, &mut row, import).await?;
    if !import.read_marks.is_empty() {
        row.read_marks.clone_from(&import.read_marks);
        tx.save_read_marks(&row).await?;
    }
    Ok(row)
}

/// The session was used while its import was being written.
pub(in crate::store) fn changed_meanwhile() -> Error {
    Error::new(ErrorKind::SessionBusy, "the session changed during the import; repeat it")
}

/// Takes over where the owner and the participants have placed the session in their lists.
async fn place_imported(
    tx: &mut impl StoreTransaction,
    row: &mut SessionRow,
    import: &ImportSession,
) -> Result<()> {
    let owner = row.session.owner.clone();
    for (user, placement) in &import.placements {
        if *user != owner && row.session.participants.contains(user) {
            row.set_placement(user, *placement);
        }
    }
    let own = ListPlacement { archived: import.archived, pinned: import.pinned };
    row.set_placement(&owner, own);
    row.session.archived = own.archived;
    row.session.pinned = own.pinned;
    if !row.placements.is_empty() {
        tx.save_members(row).await?;
    }
    Ok(())
}
