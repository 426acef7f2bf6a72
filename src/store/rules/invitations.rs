//! Invitations: accepting them, declining them, and leaving a session.

use super::sessions::get_session;
use crate::domain::principal::AccessLevel;
use crate::domain::{Principal, Session, SessionId, Timestamp, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::SessionUpdate;
use crate::store::transaction::StoreTransaction;

/// Makes an invited user a participant. A participant who accepts again gets the session as it is.
pub(in crate::store) async fn accept_invitation(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    now: Timestamp,
) -> Result<Session> {
    let user = &principal.user;
    let found = tx.find_visible_session(principal, id).await?;
    let mut row = found.ok_or_else(Error::session_not_found)?;
    if remove_user(&mut row.session.invited, user) {
        row.session.participants.push(user.clone());
        tx.save_members(&row).await?;
        tx.update_session(&row, SessionUpdate::default(), now).await?;
    }
    let row = get_session(tx, principal, id, AccessLevel::Participant).await?;
    if !row.session.participants.contains(user) {
        return Err(Error::new(ErrorKind::Forbidden, "you are not invited to this session"));
    }
    Ok(row.into_session_with_nodes())
}

/// Removes the caller, who participates or is invited. Their messages stay.
pub(in crate::store) async fn leave_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    now: Timestamp,
) -> Result<()> {
    let user = &principal.user;
    let found = tx.find_visible_session(principal, id).await?;
    let mut row = found.ok_or_else(Error::session_not_found)?;
    if row.session.owner == *user {
        return Err(Error::new(
            ErrorKind::Forbidden,
            "the owner cannot leave a session; delete it, or archive it for yourself",
        ));
    }
    let was_participant = remove_user(&mut row.session.participants, user);
    let was_invited = remove_user(&mut row.session.invited, user);
    if !was_participant && !was_invited {
        // Strangers learn nothing. Admins see the session, but are not in it.
        get_session(tx, principal, id, AccessLevel::Participant).await?;
        return Err(Error::new(ErrorKind::Forbidden, "you do not participate in this session"));
    }
    row.placements.remove(user.as_str());
    tx.save_members(&row).await?;
    tx.update_session(&row, SessionUpdate::default(), now).await
}

fn remove_user(users: &mut Vec<UserId>, user: &UserId) -> bool {
    let count = users.len();
    users.retain(|one| one != user);
    users.len() < count
}
