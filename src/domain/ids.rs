//! Identifiers. An id is validated once, where it enters the server, and trusted from there on.
//!
//! Ids generated here are UUIDv7, so they sort by creation time.

use super::FieldError;
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// Maximum length of a client-chosen id, in characters.
pub const MAX_ID_CHARS: usize = 128;
/// Maximum length of a user id, in characters.
pub const MAX_USER_ID_CHARS: usize = 256;

fn is_valid_id(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
    (1..=MAX_ID_CHARS).contains(&text.len()) && text.bytes().all(allowed)
}

macro_rules! define_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Generates a new UUIDv7.
            pub fn generate() -> Self {
                Self(Arc::from(Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer()) as &str))
            }

            /// Parses an id sent by a client; `field` names it in the error.
            pub fn parse(field: &'static str, text: &str) -> Result<Self, FieldError> {
                if matches!(text, "." | "..") {
                    let message = "must not be . or .., because a URL cannot address it";
                    return Err(FieldError::new(field, message));
                }
                if is_valid_id(text) {
                    return Ok(Self(Arc::from(text)));
                }
                Err(FieldError::new(field, "must be 1 to 128 characters of A-Z a-z 0-9 . _ : -"))
            }
        }

        impl_id!($name);
    )*};
}

macro_rules! impl_id {
    ($name:ident) => {
        impl $name {
            /// Wraps an id that was validated before it was stored.
            pub fn new_unchecked(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

define_ids! {
    /// Identifies a session.
    SessionId,
    /// Identifies a message within its session.
    MessageId,
    /// Identifies a turn.
    TurnId,
    /// Identifies a project.
    ProjectId,
}

/// Identifies a user, or the sender of an imported message: 1 to 256 characters, not blank, no
/// control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Arc<str>);

impl_id!(UserId);

impl UserId {
    /// Parses a user id sent by a client; `field` names it in the error.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, FieldError> {
        // Any other character is allowed: ids of users come from other systems, often as email
        // addresses.
        let is_valid = !text.trim().is_empty()
            && text.chars().count() <= MAX_USER_ID_CHARS
            && !text.chars().any(char::is_control);
        if is_valid {
            return Ok(Self(Arc::from(text)));
        }
        Err(FieldError::new(
            field,
            "must be 1 to 256 characters, not blank, without control characters",
        ))
    }

    /// The sender id of every model reply. No user may have it.
    pub fn assistant() -> Self {
        Self(Arc::from("assistant"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_id_accepts_1_to_128_allowed_characters() {
        for good in ["a", "...", ".a", "s_1763614351136", "A.b:c-d_9", &"x".repeat(128)] {
            assert_eq!(SessionId::parse("sessionId", good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", "a\0", &"x".repeat(129)] {
            assert_eq!(
                SessionId::parse("sessionId", bad).unwrap_err().field,
                "sessionId",
                "{bad:?}"
            );
        }
    }

    #[test]
    fn generated_ids_sort_by_creation_order() {
        let made: Vec<_> = (0..1000).map(|_| MessageId::generate()).collect();
        assert!(made.is_sorted());
    }
}
