//! Memory options of a request or session: a strategy and its limits.

use super::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the messages of a prompt are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemoryStrategy {
    /// The newest messages verbatim, a summary of older ones, and older messages relevant to the
    /// new message, together within `maxTokens`.
    #[default]
    Auto,
    /// The whole active path, up to the model's context window. When the window is full, the older
    /// half is dropped.
    Buffer,
    /// The last `lastMessages` messages, as far as they fit.
    Window,
    /// The newest messages within `maxTokens`. When they fill it, the older half is dropped.
    Token,
    /// Like `token`, preceded by a summary of the messages that were dropped.
    Summary,
    /// Older messages relevant to the new message, in addition to the newest ones.
    Recall,
}

/// The strategies by their wire name.
pub const STRATEGY_NAMES: [(&str, MemoryStrategy); 6] = [
    ("auto", MemoryStrategy::Auto),
    ("buffer", MemoryStrategy::Buffer),
    ("window", MemoryStrategy::Window),
    ("token", MemoryStrategy::Token),
    ("summary", MemoryStrategy::Summary),
    ("recall", MemoryStrategy::Recall),
];

/// Memory options of a request or of a session's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryOptions {
    /// Strategy; the server's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<MemoryStrategy>,
    /// Messages that the strategy `window` includes, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_messages: Option<u32>,
    /// Maximum tokens of history in the prompt, not counting the system prompt and the new message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Maximum tokens of recalled messages, as part of `maxTokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall_tokens: Option<u32>,
}

impl MemoryOptions {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn validate(self) -> Result<Self, FieldError> {
        if self.last_messages == Some(0) {
            return Err(FieldError::new(
                "memory.lastMessages",
                "must be a whole number of at least 1",
            ));
        }
        Ok(self)
    }

    /// These options, with the unset ones taken from `under`.
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
