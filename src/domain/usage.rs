//! Tokens that a reply cost, and what else models are called for.

use super::as_word;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Tokens of one reply, as the provider reported them or, where it did not, as estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens of the prompt that the provider read from its cache.
    pub cached_tokens: u64,
    /// Tokens of the reply, reasoning included.
    pub completion_tokens: u64,
    /// Tokens of the reply that were reasoning.
    pub reasoning_tokens: u64,
    /// Whether these are our count, because the provider sent none.
    pub estimated: bool,
}

/// What a model was called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// The reply of a turn, all its calls together.
    Reply,
    /// A session's title.
    Title,
    /// A summary of what prompts have no room for.
    Summary,
}

as_word!(CallKind { Reply = "reply", Title = "title", Summary = "summary" });
