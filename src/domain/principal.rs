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
pub enum Access {
    /// Read, post, chat, stop, set the status: any participant.
    Participate,
    /// Rename, delete, change settings or participants, preview memory: the owner.
    Own,
}

/// What came of asking for [`Access`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
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
        Self { user: UserId::trusted(""), is_admin: true }
    }

    /// Judges access to a session with this owner and these participants.
    pub fn judge(&self, access: Access, owner: &UserId, participants: &[UserId]) -> Verdict {
        if self.is_admin || *owner == self.user {
            return Verdict::Allowed;
        }
        match (participants.contains(&self.user), access) {
            (true, Access::Participate) => Verdict::Allowed,
            (true, Access::Own) => Verdict::Forbidden,
            (false, _) => Verdict::Hidden,
        }
    }
}
