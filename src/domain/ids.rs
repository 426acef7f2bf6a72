//! Names of things. A name is parsed once, at the edge, and trusted from there on.
//!
//! Ids made by the server are UUIDv7, so they sort by the time they were made.

use super::FieldError;
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// The longest id a client may choose, in characters.
pub const MAX_ID_CHARS: usize = 128;
/// The longest name of a user, in characters.
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
            /// A new id of the server's own: a UUIDv7.
            pub fn generate() -> Self {
                Self(Arc::from(Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer()) as &str))
            }

            /// An id as a client spells it; `field` is the name used in the complaint.
            pub fn parse(field: &'static str, text: &str) -> Result<Self, FieldError> {
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
            /// A name that was checked before it was stored.
            pub fn new_unchecked(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The name itself.
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
    /// Names a session.
    SessionId,
    /// Names a message within its session.
    MessageId,
    /// Names a turn.
    TurnId,
    /// Names a project.
    ProjectId,
}

/// Names a person, or the sender of an imported message: 1 to 256 characters, none of them a
/// control character, not blank.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Arc<str>);

impl_id!(UserId);

impl UserId {
    /// A user's name as a client spells it; `field` is the name used in the complaint.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, FieldError> {
        let sane = !text.trim().is_empty()
            && text.chars().count() <= MAX_USER_ID_CHARS
            && !text.chars().any(char::is_control);
        if sane {
            return Ok(Self(Arc::from(text)));
        }
        Err(FieldError::new(
            field,
            "must be 1 to 256 characters, not blank, none a control character",
        ))
    }

    /// The sender of every reply.
    pub fn assistant() -> Self {
        Self(Arc::from("assistant"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_id_accepts_1_to_128_allowed_characters() {
        for good in ["a", "s_1763614351136", "A.b:c-d_9", &"x".repeat(128)] {
            assert_eq!(SessionId::parse("sessionId", good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "ä", "a/b", "a\0", &"x".repeat(129)] {
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
