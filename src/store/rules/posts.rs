//! Messages posted without a model.

use super::append::{append, name_after, resolve, save};
use super::requests;
use super::sessions::{get, judged};
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, Principal, Role, Session};
use crate::error::{Error, Kind, Result};
use crate::store::PostMessage;
use crate::store::work::{Location, SessionRow, Work};

pub(in crate::store) async fn post_message(
    work: &mut impl Work,
    who: &Principal,
    post: &PostMessage,
) -> Result<(Message, Session)> {
    let mut row = get(work, who, &post.session_id, AccessLevel::Participant).await?;
    let message = &post.message;
    ensure_role(&row, who, message.role)?;
    if let Some(at) = known_post(work, who, &row, post).await? {
        let message = work.message(&row, at).await?;
        return Ok((message, row.with_nodes()));
    }
    ensure_open(&row)?;
    ensure_idle(&row)?;
    let parent = resolve(work, &row, &post.parent).await?;
    let at = append(work, &mut row, message, parent.as_ref()).await?;
    name_after(work, &mut row, message).await?;
    save(work, &mut row, post.now).await?;
    if let Some(key) = &post.idempotency {
        let led_to = (&post.session_id, &message.id, None);
        requests::remember(work, who, key, led_to, post.now).await?;
    }
    let message = work.message(&row, at).await?;
    Ok((message, row.with_nodes()))
}

/// Where the message lies that this request stored when it came before.
async fn known_post(
    work: &mut impl Work,
    who: &Principal,
    row: &SessionRow,
    post: &PostMessage,
) -> Result<Option<Location>> {
    if let Some(key) = &post.idempotency
        && let Some(known) = requests::find(work, who, key, post.now).await?
        && known.session == row.session.id
    {
        return Ok(work.locate(row, &known.message_id).await?.map(|place| place.at));
    }
    match &post.message.client_message_id {
        Some(id) => Ok(work.locate(row, id).await?.map(|place| place.at)),
        None => Ok(None),
    }
}

/// Roles other than user are the owner's.
pub(super) fn ensure_role(row: &SessionRow, who: &Principal, role: Role) -> Result<()> {
    if role != Role::User && judged(row.clone(), who, AccessLevel::Owner).is_err() {
        return Err(Error::new(
            Kind::Forbidden,
            "only the session's owner may post in another role than user",
        ));
    }
    Ok(())
}

/// Nothing can be added to a closed session.
pub(super) fn ensure_open(row: &SessionRow) -> Result<()> {
    if row.session.status.is_closed() {
        return Err(Error::new(
            Kind::SessionClosed,
            "the session is closed; set its status to go on",
        ));
    }
    Ok(())
}

/// Invariant: while a turn runs nothing else moves the head.
pub(super) fn ensure_idle(row: &SessionRow) -> Result<()> {
    match &row.session.active_turn {
        None => Ok(()),
        Some(turn) => Err(Error::new(Kind::SessionBusy, "a reply is running in this session")
            .with_details(
                serde_json::json!({ "turnId": turn.turn_id, "messageId": turn.message_id }),
            )),
    }
}
