//! Messages posted without asking a model.

use super::append::{append_message, apply_auto_title, resolve_parent, save_session};
use super::idempotency_keys;
use super::sessions::{authorize_access, get_session};
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, Principal, Role, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::store::PostMessage;
use crate::store::transaction::{SessionRow, StoreTransaction};

pub(in crate::store) async fn post_message(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    post: &PostMessage,
) -> Result<(Message, Session)> {
    let mut row = get_session(tx, principal, &post.session_id, AccessLevel::Participant).await?;
    let message = &post.message;
    ensure_role_allowed(&row, principal, message.role)?;
    // Before the checks of the status: a retry gets its first result even if the session has been
    // closed or has become busy meanwhile.
    if let Some(message) = find_duplicate_post(tx, principal, &row, post).await? {
        return Ok((message, row.into_session_with_nodes()));
    }
    ensure_open(&row)?;
    ensure_idle(&row)?;
    let parent = resolve_parent(tx, &row, &post.parent).await?;
    let at = append_message(tx, &mut row, message, parent.as_ref()).await?;
    apply_auto_title(tx, &mut row, message).await?;
    save_session(tx, &mut row, post.now).await?;
    if let Some(key) = &post.idempotency_key {
        let result = (&post.session_id, &message.id, None);
        idempotency_keys::record_request(tx, principal, key, result, post.now).await?;
    }
    let message = tx.read_message(&row, at).await?;
    Ok((message, row.into_session_with_nodes()))
}

/// Finds the message that an earlier attempt of this request has stored. Errors:
/// `idempotency_key_reused` for the id of another sender's message.
async fn find_duplicate_post(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    row: &SessionRow,
    post: &PostMessage,
) -> Result<Option<Message>> {
    if let Some(key) = &post.idempotency_key
        && let Some(prior) =
            idempotency_keys::find_prior_request(tx, principal, key, post.now).await?
        // A key is not bound to a session: in another one it belongs to another request.
        && prior.session_id == row.session.id
    {
        return match tx.find_message(row, &prior.message_id).await? {
            Some(located) => tx.read_message(row, located.location).await.map(Some),
            None => Ok(None),
        };
    }
    let Some(id) = &post.message.client_message_id else { return Ok(None) };
    let Some(located) = tx.find_message(row, id).await? else { return Ok(None) };
    let stored = tx.read_message(row, located.location).await?;
    // A participant may have chosen the same id, or one that another client was going to use.
    // With the stored message as the result, the new one would be lost unnoticed.
    if stored.sender_id != post.message.sender_id {
        return Err(idempotency_keys::key_reused("clientMessageId"));
    }
    Ok(Some(stored))
}

/// Only the owner may post in roles other than user. Errors: `forbidden`.
pub(super) fn ensure_role_allowed(
    row: &SessionRow,
    principal: &Principal,
    role: Role,
) -> Result<()> {
    if role != Role::User && authorize_access(row.clone(), principal, AccessLevel::Owner).is_err() {
        return Err(Error::new(
            ErrorKind::Forbidden,
            "only the session's owner may post in roles other than user",
        ));
    }
    Ok(())
}

/// Nothing can be added to a closed session. Errors: `session_closed`.
pub(super) fn ensure_open(row: &SessionRow) -> Result<()> {
    if row.session.status.is_closed() {
        return Err(Error::new(
            ErrorKind::SessionClosed,
            "the session is closed; change its status to reopen it",
        ));
    }
    Ok(())
}

/// Invariant: while a turn is running, nothing else moves the head. Errors: `session_busy`.
pub(super) fn ensure_idle(row: &SessionRow) -> Result<()> {
    match &row.session.active_turn {
        None => Ok(()),
        Some(turn) => Err(Error::new(ErrorKind::SessionBusy, "a reply is running in this session")
            .with_details(
                serde_json::json!({ "turnId": turn.turn_id, "messageId": turn.message_id }),
            )),
    }
}
