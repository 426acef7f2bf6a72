//! What a reply cost: tokens, money, and the time until it began; and what else models are called for.

use super::quota::NANOS_PER_UNIT;
use super::string_enum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
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
    /// What it cost by the table of prices; left out without a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub cost: Option<Cost>,
    /// Milliseconds from the turn's beginning until the provider sent something; left out if it
    /// never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
}

/// Money, in billionths of the unit that prices are in. In JSON it is a number of that unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost(pub i64);

impl Serialize for Cost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0 as f64 / NANOS_PER_UNIT)
    }
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(|amount| Self((amount * NANOS_PER_UNIT).round() as i64))
    }
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
    /// A request without a session, handed on to the provider.
    Direct,
}

string_enum!(CallKind { Reply = "reply", Title = "title", Summary = "summary", Direct = "direct" });
