//! Sessions: who may do what to them, created, changed, named.

use crate::domain::principal::{AccessDecision, AccessLevel};
use crate::domain::text::fold_words;
use crate::domain::title::{SessionTitle, TitleSource};
use crate::domain::{Principal, Session, SessionId, Timestamp, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::transaction::{SessionRow, StoreTransaction};
use crate::store::{DeletionResult, NewSession, SessionUpdate};

/// The session with this id, if `who` may do to it what they want.
pub(in crate::store) async fn get_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    access: AccessLevel,
) -> Result<SessionRow> {
    let found = tx.find_visible_session(principal, id).await?;
    authorize_access(found.ok_or_else(Error::session_not_found)?, principal, access)
}

/// The session, if `who` may do to it what they want.
pub(super) fn authorize_access(
    row: SessionRow,
    principal: &Principal,
    access: AccessLevel,
) -> Result<SessionRow> {
    match principal.authorize(access, &row.session.owner, &row.session.participants) {
        AccessDecision::Allowed => Ok(row),
        AccessDecision::Forbidden => {
            Err(Error::new(ErrorKind::Forbidden, "only the session's owner may do this"))
        }
        AccessDecision::Hidden => Err(Error::session_not_found()),
    }
}

pub(in crate::store) async fn create_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    new: &NewSession,
    now: Timestamp,
) -> Result<(Session, bool)> {
    let id = new.id.clone().unwrap_or_else(SessionId::generate);
    match tx.find_session(&id).await? {
        None => Ok((
            tx.insert_session(&principal.user, &id, new, now).await?.into_session_with_nodes(),
            true,
        )),
        Some(row) if row.session.owner == principal.user => {
            Ok((row.into_session_with_nodes(), false))
        }
        Some(_) => Err(id_conflict()),
    }
}

pub(in crate::store) async fn update_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    change: &SessionUpdate,
    if_match: &[u32],
    now: Timestamp,
) -> Result<Session> {
    let row = get_session(tx, principal, id, change.required_access()).await?;
    if !if_match.is_empty() && !if_match.contains(&row.session.version) {
        return Err(version_conflict(row.session.version));
    }
    if change.is_empty() {
        return Ok(row.into_session_with_nodes());
    }
    tx.update_session(&row, change.clone(), now).await?;
    Ok(get_session(tx, principal, id, AccessLevel::Participant).await?.into_session_with_nodes())
}

pub(in crate::store) async fn delete_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
) -> Result<DeletionResult> {
    let row = get_session(tx, principal, id, AccessLevel::Owner).await?;
    let deleted = tx.delete_session(&row).await?;
    Ok(DeletionResult { participants: row.session.participants, ..deleted })
}

/// Deletes a session that nobody has used since a time, unless a reply is running in it.
pub(in crate::store) async fn delete_if_inactive(
    tx: &mut impl StoreTransaction,
    id: &SessionId,
    since: Timestamp,
) -> Result<Option<DeletionResult>> {
    let Some(row) = tx.find_session(id).await? else { return Ok(None) };
    let active_at = row.session.last_message_at.unwrap_or(row.session.created_at);
    if active_at >= since || row.session.active_turn.is_some() {
        return Ok(None);
    }
    let deleted = tx.delete_session(&row).await?;
    Ok(Some(DeletionResult { participants: row.session.participants, ..deleted }))
}

/// Gives a session a title that a model wrote, unless its user has named it.
pub(in crate::store) async fn set_generated_title(
    tx: &mut impl StoreTransaction,
    id: &SessionId,
    title: &SessionTitle,
) -> Result<bool> {
    match tx.find_session(id).await? {
        Some(row) if row.session.title_source != TitleSource::User => {
            tx.set_title(&row, title).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

pub(super) fn id_conflict() -> Error {
    Error::new(ErrorKind::IdConflict, "this sessionId belongs to another session; choose another")
}

fn version_conflict(version: u32) -> Error {
    Error::new(ErrorKind::VersionConflict, "the session was changed meanwhile; read it again")
        .with_details(serde_json::json!({ "version": version }))
}

/// The owner first, then the others, each once.
pub(in crate::store) fn participants_with_owner(owner: &UserId, others: &[UserId]) -> Vec<UserId> {
    let mut all = vec![owner.clone()];
    for user in others {
        if !all.contains(user) {
            all.push(user.clone());
        }
    }
    all
}

/// A title folded: what lists sort and search by.
pub(in crate::store) fn fold_title(title: &str) -> String {
    fold_words(title).join(" ")
}
