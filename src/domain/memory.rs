//! What a client may ask of memory: a strategy and its bounds.

use super::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the messages that go into a prompt are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemoryStrategy {
    /// The newest messages verbatim, a summary of those before, and what of them belongs to the new
    /// message, together within `maxTokens`.
    #[default]
    Auto,
    /// All of the path that the model's context window holds; once it is full, its newer half.
    Buffer,
    /// The last `lastMessages` messages, as far as they fit.
    Window,
    /// The newest messages within `maxTokens`; once they fill it, the newer half of them.
    Token,
    /// The same, behind a summary of what came before.
    Summary,
    /// The earlier messages that belong to the new one, beside the newest.
    Recall,
}

/// Each strategy by the word that asks for it.
pub const STRATEGY_NAMES: [(&str, MemoryStrategy); 6] = [
    ("auto", MemoryStrategy::Auto),
    ("buffer", MemoryStrategy::Buffer),
    ("window", MemoryStrategy::Window),
    ("token", MemoryStrategy::Token),
    ("summary", MemoryStrategy::Summary),
    ("recall", MemoryStrategy::Recall),
];

/// What a request or a session's settings ask of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryOptions {
    /// The strategy; the server's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<MemoryStrategy>,
    /// How many messages `window` takes, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_messages: Option<u32>,
    /// Most tokens that memory puts into the prompt; not the system prompt, not the new message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// The part of them that recalled messages may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall_tokens: Option<u32>,
}

impl MemoryOptions {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the bounds.
    pub fn validate(self) -> Result<Self, FieldError> {
        if self.last_messages == Some(0) {
            return Err(FieldError::new(
                "memory.lastMessages",
                "must be a whole number of at least 1",
            ));
        }
        Ok(self)
    }

    /// These options where they say something, else `under`'s.
    #[must_use]
    pub fn with_defaults(self, under: Self) -> Self {
        Self {
            strategy: self.strategy.or(under.strategy),
            last_messages: self.last_messages.or(under.last_messages),
            max_tokens: self.max_tokens.or(under.max_tokens),
            recall_tokens: self.recall_tokens.or(under.recall_tokens),
        }
    }
}
