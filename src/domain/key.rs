//! Keys of the API: whose they are, what they allow and until when. Their secrets are in `auth`.

use super::{FieldError, Timestamp, UserId};
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// The longest name of a key, in characters.
const MAX_NAME_CHARS: usize = 100;

/// Names a key. It stands in the key itself and is no secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// Digits and letters of an id: hexadecimal.
    pub const HEX_LENGTH: usize = 12;

    /// An id as somebody spells it.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == Self::HEX_LENGTH && text.bytes().all(is_digit))
            .then(|| Self(Arc::from(text)))
    }

    /// An id that was checked before it was stored.
    pub fn new_unchecked(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The id itself.
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

/// What credentials allow. Each scope holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthScope {
    /// To read what the user may read, and to change nothing.
    Read,
    /// To do all that the user may do.
    Chat,
    /// To act on everybody's sessions and to see who uses the server.
    Admin,
}

impl AuthScope {
    /// The scopes and their words.
    pub const NAMES: &[(&str, Self)] =
        &[("read", Self::Read), ("chat", Self::Chat), ("admin", Self::Admin)];

    /// The scope that a word names.
    pub fn from_name(word: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(own, _)| *own == word).map(|(_, scope)| *scope)
    }

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Chat => "chat",
            Self::Admin => "admin",
        }
    }
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// What its owner calls it.
    pub name: Option<String>,
    /// Who comes with it.
    pub user: UserId,
    /// What it allows.
    pub scope: AuthScope,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is no longer good.
    pub expires_at: Option<Timestamp>,
    /// When somebody last came with it, to the minute or so.
    pub last_used_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it is still good.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// A name as somebody spells it: trimmed, 1 to 100 characters, none of them a control character.
    pub fn parse_name(text: &str) -> Result<String, FieldError> {
        let name = text.trim();
        let is_sane = (1..=MAX_NAME_CHARS).contains(&name.chars().count())
            && !name.chars().any(char::is_control);
        if is_sane {
            return Ok(name.to_owned());
        }
        Err(FieldError::new("name", "must be 1 to 100 characters, none a control character"))
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
