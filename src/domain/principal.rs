//! Who is asking, and what that lets them do to a session.

use super::UserId;

/// A known user, as `auth` found them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub user: UserId,
    /// Whether the user may act on everybody's sessions.
    pub is_admin: bool,
}

/// What somebody wants to do to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLevel {
    /// Read, post, chat, stop, set the status: any participant.
    Participant,
    /// Rename, delete, change settings or participants, preview memory: the owner.
    Owner,
}

/// What came of asking for [`AccessLevel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessDecision {
    /// Go ahead.
    Allowed,
    /// The session may be seen, but this may not be done to it.
    Forbidden,
    /// To this user the session does not exist.
    Hidden,
}

impl Principal {
    /// The server itself, which may see everything.
    pub fn server() -> Self {
        Self { user: UserId::new_unchecked(""), is_admin: true }
    }

    /// Judges access to a session with this owner and these participants.
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
            (false, _) => AccessDecision::Hidden,
        }
    }
}
