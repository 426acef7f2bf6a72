//! Members of a session: participants, who are in, and invited users, who may accept.
//!
//! Only participants have access. Each of them places the session in their own lists.

use crate::domain::session::ListPlacement;
use crate::domain::{Principal, UserId};
use crate::store::transaction::SessionRow;
use crate::store::{NewSession, SessionUpdate};

/// Replaces the members other than the owner. Those who participate already stay in; with
/// `needs_consent` all others are invited, also those who participated at an earlier time.
pub(super) fn set_members(row: &mut SessionRow, users: &[UserId], needs_consent: bool) {
    let session = &mut row.session;
    let (participants, invited): (Vec<UserId>, Vec<UserId>) = users
        .iter()
        .cloned()
        .partition(|user| !needs_consent || session.participants.contains(user));
    session.participants = participants_with_owner(&session.owner, &participants);
    session.invited = without_participants(&invited, &session.participants);
    let participants = &session.participants;
    row.placements.retain(|user, _| participants.iter().any(|one| one.as_str() == user));
}

/// Sets the caller's own placement. Admins who do not participate set the owner's, which they see.
pub(super) fn place_in_lists(row: &mut SessionRow, principal: &Principal, update: &SessionUpdate) {
    let session = &row.session;
    let participates = session.participants.contains(&principal.user);
    let user = if participates { principal.user.clone() } else { session.owner.clone() };
    let before = row.placement(&user);
    let after = ListPlacement {
        archived: update.archived.unwrap_or(before.archived),
        pinned: update.pinned.unwrap_or(before.pinned),
    };
    row.set_placement(&user, after);
}

/// The participants of a new session, the owner first, and its invited users.
pub(in crate::store) fn initial_members(
    owner: &UserId,
    new: &NewSession,
) -> (Vec<UserId>, Vec<UserId>) {
    let participants = participants_with_owner(owner, &new.participants);
    let invited = without_participants(&new.invited, &participants);
    (participants, invited)
}

/// The owner first, then the other participants, without duplicates.
fn participants_with_owner(owner: &UserId, others: &[UserId]) -> Vec<UserId> {
    let mut all = vec![owner.clone()];
    for user in others {
        if !all.contains(user) {
            all.push(user.clone());
        }
    }
    all
}

/// The invited users who are not in yet, without duplicates.
fn without_participants(invited: &[UserId], participants: &[UserId]) -> Vec<UserId> {
    let mut all: Vec<UserId> = Vec::new();
    for user in invited {
        if !participants.contains(user) && !all.contains(user) {
            all.push(user.clone());
        }
    }
    all
}
