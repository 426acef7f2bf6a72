//! Messages posted without a model.

use super::append::{append_message, apply_auto_title, resolve_parent, save_session};
use super::idempotency_keys;
use super::sessions::{authorize_access, get_session};
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, Principal, Role, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::store::PostMessage;
use crate::store::transaction::{MessageLocation, SessionRow, StoreTransaction};

pub(in crate::store) async fn post_message(
    work: &mut impl StoreTransaction,
    who: &Principal,
    post: &PostMessage,
) -> Result<(Message, Session)> {
    let mut row = get_session(work, who, &post.session_id, AccessLevel::Participant).await?;
    let message = &post.message;
    ensure_role_allowed(&row, who, message.role)?;
    if let Some(at) = find_duplicate_post(work, who, &row, post).await? {
        let message = work.read_message(&row, at).await?;
        return Ok((message, row.into_session_with_nodes()));
    }
    ensure_open(&row)?;
    ensure_idle(&row)?;
    let parent = resolve_parent(work, &row, &post.parent).await?;
    let at = append_message(work, &mut row, message, parent.as_ref()).await?;
    apply_auto_title(work, &mut row, message).await?;
    save_session(work, &mut row, post.now).await?;
    if let Some(key) = &post.idempotency_key {
        let led_to = (&post.session_id, &message.id, None);
        idempotency_keys::record_request(work, who, key, led_to, post.now).await?;
    }
    let message = work.read_message(&row, at).await?;
    Ok((message, row.into_session_with_nodes()))
}

/// Where the message lies that this request stored when it came before.
async fn find_duplicate_post(
    work: &mut impl StoreTransaction,
    who: &Principal,
    row: &SessionRow,
    post: &PostMessage,
) -> Result<Option<MessageLocation>> {
    if let Some(key) = &post.idempotency_key
        && let Some(known) = idempotency_keys::find_prior_request(work, who, key, post.now).await?
        && known.session_id == row.session.id
    {
        return Ok(work.find_message(row, &known.message_id).await?.map(|place| place.location));
    }
    match &post.message.client_message_id {
        Some(id) => Ok(work.find_message(row, id).await?.map(|place| place.location)),
        None => Ok(None),
    }
}

/// Roles other than user are the owner's.
pub(super) fn ensure_role_allowed(row: &SessionRow, who: &Principal, role: Role) -> Result<()> {
    if role != Role::User && authorize_access(row.clone(), who, AccessLevel::Owner).is_err() {
        return Err(Error::new(
            ErrorKind::Forbidden,
            "only the session's owner may post in another role than user",
        ));
    }
    Ok(())
}

/// Nothing can be added to a closed session.
pub(super) fn ensure_open(row: &SessionRow) -> Result<()> {
    if row.session.status.is_closed() {
        return Err(Error::new(
            ErrorKind::SessionClosed,
            "the session is closed; set its status to go on",
        ));
    }
    Ok(())
}

/// Invariant: while a turn runs nothing else moves the head.
pub(super) fn ensure_idle(row: &SessionRow) -> Result<()> {
    match &row.session.active_turn {
        None => Ok(()),
        Some(turn) => Err(Error::new(ErrorKind::SessionBusy, "a reply is running in this session")
            .with_details(
                serde_json::json!({ "turnId": turn.turn_id, "messageId": turn.message_id }),
            )),
    }
}
