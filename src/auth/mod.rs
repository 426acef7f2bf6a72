//! Who is asking. At present everyone is the one local user, which is why such a server listens on
//! loopback only and answers only to loopback names.

use crate::domain::{Principal, UserId};

/// How users are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// They are not: everyone is `local`.
    None,
}

impl Auth {
    /// The user who sent a request.
    pub fn principal(self) -> Principal {
        match self {
            Self::None => Principal { user: UserId::trusted("local"), is_admin: false },
        }
    }
}
