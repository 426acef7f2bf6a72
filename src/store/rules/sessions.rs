//! Sessions: access, creation, updates, titles and deletion.

use super::members::{place_in_lists, set_members};
use crate::domain::principal::{AccessDecision, AccessLevel};
use crate::domain::title::{SessionTitle, TitleSource};
use crate::domain::tokenizer::fold_text;
use crate::domain::{Principal, Session, SessionId, Timestamp, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::transaction::{SessionRow, StoreTransaction};
use crate::store::{DeletionResult, NewSession, SessionUpdate};

/// Returns the session if `principal` has the required access. Errors:
/// `session_not_found`, `forbidden`.
pub(in crate::store) async fn get_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
    access: AccessLevel,
) -> Result<SessionRow> {
    let found = tx.find_visible_session(principal, id).await?;
    authorize_access(found.ok_or_else(Error::session_not_found)?, principal, access)
}

/// Checks the access to a session and returns it as the principal sees it. A session that the
/// principal may not even see is reported as missing. Invited users are strangers until they
/// accept.
pub(super) fn authorize_access(
    row: SessionRow,
    principal: &Principal,
    access: AccessLevel,
) -> Result<SessionRow> {
    match principal.authorize(access, &row.session.owner, &row.session.participants) {
        AccessDecision::Allowed => Ok(row.for_viewer(&principal.user)),
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
        // A retry gets the session that the first attempt has created.
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
    update: &SessionUpdate,
    if_match: &[u32],
    now: Timestamp,
) -> Result<Session> {
    let mut row = get_session(tx, principal, id, update.required_access()).await?;
    if !if_match.is_empty() && !if_match.contains(&row.session.version) {
        return Err(version_conflict(row.session.version));
    }
    // An update without content must not invalidate the versions that clients hold.
    if update.is_empty() {
        return Ok(row.into_session_with_nodes());
    }
    if let Some(users) = &update.participants {
        set_members(&mut row, users, update.needs_consent);
    }
    if update.changes_placement() {
        place_in_lists(&mut row, principal, update);
    }
    if update.participants.is_some() || update.changes_placement() {
        tx.save_members(&row).await?;
    }
    // A participant's own placement must not change the version that others hold. Alone in a
    // session, the owner has only one version to tell changes by.
    if update.changes_shared_fields() || row.session.participants.len() == 1 {
        tx.update_session(&row, update.clone(), now).await?;
    }
    // Read back as stored. The access was checked above, and no update takes it away.
    Ok(get_session(tx, principal, id, AccessLevel::Participant).await?.into_session_with_nodes())
}

pub(in crate::store) async fn delete_session(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    id: &SessionId,
) -> Result<DeletionResult> {
    let row = get_session(tx, principal, id, AccessLevel::Owner).await?;
    let deleted = tx.delete_session(&row).await?;
    Ok(DeletionResult { audience: audience_of(row), ..deleted })
}

/// Deletes a session without activity since a time, unless a reply is running in it.
pub(in crate::store) async fn delete_if_inactive(
    tx: &mut impl StoreTransaction,
    id: &SessionId,
    since: Timestamp,
) -> Result<Option<DeletionResult>> {
    let Some(row) = tx.find_session(id).await? else { return Ok(None) };
    // The session was selected by an earlier read and may have been used since.
    if activity_time(&row.session) >= since || row.session.active_turn.is_some() {
        return Ok(None);
    }
    let deleted = tx.delete_session(&row).await?;
    Ok(Some(DeletionResult { audience: audience_of(row), ..deleted }))
}

/// Users who learn of the session's deletion.
fn audience_of(row: SessionRow) -> Vec<UserId> {
    let Session { participants, invited, .. } = row.session;
    participants.into_iter().chain(invited).collect()
}

/// Sets a title generated by a model, unless the user has set one.
pub(in crate::store) async fn set_generated_title(
    tx: &mut impl StoreTransaction,
    id: &SessionId,
    title: &SessionTitle,
) -> Result<bool> {
    match tx.find_session(id).await? {
        // The user may have set a title while the model was generating one.
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
    Error::new(ErrorKind::VersionConflict, "the session has changed in the meantime; read it again")
        .with_details(serde_json::json!({ "version": version }))
}

/// The time that lists sort by and retention counts from. An empty session is active since its
/// creation.
pub(in crate::store) fn activity_time(session: &Session) -> Timestamp {
    session.last_message_at.unwrap_or(session.created_at)
}

/// Folds a title into the words that lists sort by. A run of a script without spaces is whole in
/// it, which a search checks after it found the run's pairs in the index.
pub(in crate::store) fn fold_title(title: &str) -> String {
    fold_text(title)
}
