//! Authorization: the authenticated user and their access to a session or project.

use super::UserId;
use std::time::Duration;

/// Time between two checks of everyone who reads an open stream. Streams end within a second of the
/// loss of access; the rest of it is for the look-up.
pub const ACCESS_CHECK_INTERVAL: Duration = Duration::from_millis(400);
/// A stream is only continued within this time after a check; the rest of the second is for the
/// way to the client.
pub const MAX_ACCESS_CHECK_AGE: Duration = Duration::from_millis(900);

/// A user authenticated by `auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub user: UserId,
    /// Admins may act on every user's sessions.
    pub is_admin: bool,
}

/// The access that an operation requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLevel {
    /// Read, post, chat, cancel, set the status: granted to every participant.
    Participant,
    /// Rename, delete, change settings or participants, preview memory: granted to the owner.
    Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessDecision {
    Allowed,
    /// The session may be seen, but the operation is not permitted.
    Forbidden,
    /// Reported as not found, so that a user cannot probe for other users' sessions.
    Hidden,
}

impl Principal {
    /// The server itself, with access to everything.
    pub fn server() -> Self {
        Self { user: UserId::new_unchecked(""), is_admin: true }
    }

    /// Decides on access to a session with this owner and these participants.
    pub fn authorize(
        &self,
        access: AccessLevel,
        owner: &UserId,
        participants: &[UserId],
    ) -> AccessDecision {
        if self.is_admin || *owner == self.user {
            return AccessDecision::Allowed;
        }
        match (participants.contains(&self.user), access) {
            (true, AccessLevel::Participant) => AccessDecision::Allowed,
            (true, AccessLevel::Owner) => AccessDecision::Forbidden,
            // Non-participants get the same answer for every operation, so that it does not reveal
            // whether the session exists.
            (false, _) => AccessDecision::Hidden,
        }
    }
}
