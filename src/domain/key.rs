//! API keys: their owner, scope and expiry. Secrets are handled in `auth`.

use super::{FieldError, Timestamp, UserId, string_enum};
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// Maximum length of a key name, in characters.
const MAX_NAME_CHARS: usize = 100;

/// Identifies a key. It is part of the key's text and not secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// Length of an id: lower-case hexadecimal digits.
    pub const HEX_LENGTH: usize = 12;

    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == Self::HEX_LENGTH && text.bytes().all(is_digit))
            .then(|| Self(Arc::from(text)))
    }

    /// Wraps an id that was validated before it was stored.
    pub fn new_unchecked(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The permissions of a set of credentials. Each scope includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthScope {
    /// Read what the user may read; change nothing.
    Read,
    /// Everything the user may do.
    Chat,
    /// Act on every user's sessions and list the server's users.
    Admin,
}

string_enum!(AuthScope { Read = "read", Chat = "chat", Admin = "admin" });

/// An API key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    pub id: KeyId,
    /// The name its owner gave it.
    pub name: Option<String>,
    /// The user that requests with this key act as.
    pub user: UserId,
    pub scope: AuthScope,
    pub created_at: Timestamp,
    /// The key is rejected from this time on; `None` if it never expires.
    pub expires_at: Option<Timestamp>,
    /// The last use. Flushed periodically, so it may lag by about a minute.
    pub last_used_at: Option<Timestamp>,
}

impl ApiKey {
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// Validates a key name: trimmed, 1 to 100 characters, no control characters.
    pub fn parse_name(text: &str) -> Result<String, FieldError> {
        let name = text.trim();
        let is_valid = (1..=MAX_NAME_CHARS).contains(&name.chars().count())
            && !name.chars().any(char::is_control);
        if is_valid {
            return Ok(name.to_owned());
        }
        Err(FieldError::new("name", "must be 1 to 100 characters without control characters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_ordered_and_named() {
        assert!(AuthScope::Read < AuthScope::Chat && AuthScope::Chat < AuthScope::Admin);
        for (word, scope) in AuthScope::NAMES {
            assert_eq!((AuthScope::from_name(word), scope.as_str()), (Some(*scope), *word));
        }
        assert_eq!(AuthScope::from_name("root"), None);
    }
}
