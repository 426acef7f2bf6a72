//! Usage of a model call: tokens, cost and time to first token.

use super::quota::NANOS_PER_UNIT;
use super::string_enum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

/// Maximum of a token count that is believed. No model reads or writes as much, and billions of
/// such counts can be added up in 64 bits.
pub const MAX_TOKEN_COUNT: u64 = 1_000_000_000;

/// Tokens of a reply, as reported by the provider, otherwise estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Prompt tokens, including cached ones.
    pub prompt_tokens: u64,
    /// Prompt tokens read from the provider's cache.
    pub cached_tokens: u64,
    /// Completion tokens, including reasoning.
    pub completion_tokens: u64,
    /// Completion tokens spent on reasoning.
    pub reasoning_tokens: u64,
    /// Whether the counts are the server's estimate because the provider reported none.
    pub estimated: bool,
    /// Cost by the configured prices; omitted if the model has no price.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub cost: Option<Cost>,
    /// Milliseconds from the start of the turn to the provider's first output; omitted if there was
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
}

impl Usage {
    /// Counts above [`MAX_TOKEN_COUNT`] become zero, and the usage an estimate.
    #[must_use]
    pub fn without_absurd_counts(self) -> Self {
        let is_absurd = |count: u64| count > MAX_TOKEN_COUNT;
        let or_zero = |count: u64| if is_absurd(count) { 0 } else { count };
        Self {
            prompt_tokens: or_zero(self.prompt_tokens),
            cached_tokens: or_zero(self.cached_tokens),
            completion_tokens: or_zero(self.completion_tokens),
            reasoning_tokens: or_zero(self.reasoning_tokens),
            estimated: self.estimated
                || is_absurd(self.prompt_tokens)
                || is_absurd(self.completion_tokens),
            ..self
        }
    }

    /// Fills counts that this report lacks with those of an earlier report of the same reply. Zero
    /// means that a count is missing: no reply has an empty prompt.
    pub fn or_earlier(self, earlier: Option<Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        let or = |newer: u64, older: u64| if newer == 0 { older } else { newer };
        Self {
            prompt_tokens: or(self.prompt_tokens, earlier.prompt_tokens),
            cached_tokens: or(self.cached_tokens, earlier.cached_tokens),
            completion_tokens: or(self.completion_tokens, earlier.completion_tokens),
            reasoning_tokens: or(self.reasoning_tokens, earlier.reasoning_tokens),
            ..self
        }
    }

    /// Fills counts that the provider did not report with estimated ones.
    pub fn or_estimate(self, estimate: Self) -> Self {
        let is_missing = |count: u64, estimated: u64| count == 0 && estimated > 0;
        if !is_missing(self.prompt_tokens, estimate.prompt_tokens)
            && !is_missing(self.completion_tokens, estimate.completion_tokens)
        {
            return self;
        }
        Self { estimated: true, ..self.or_earlier(Some(estimate)) }
    }
}

/// An amount of money in billionths of the currency unit. In JSON it is a number of that unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost(pub i64);

impl Serialize for Cost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // An f64 holds amounts below 2^53 billionths, about nine million units, without loss.
        serializer.serialize_f64(self.0 as f64 / NANOS_PER_UNIT)
    }
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(|amount| Self((amount * NANOS_PER_UNIT).round() as i64))
    }
}

/// The purpose of a model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// The reply of a turn. All calls of the turn count together.
    Reply,
    /// A session title.
    Title,
    /// A summary of messages that no longer fit the prompt.
    Summary,
    /// A request without a session, forwarded to the provider.
    Direct,
}

string_enum!(CallKind { Reply = "reply", Title = "title", Summary = "summary", Direct = "direct" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_counts_are_filled() {
        let usage = |prompt_tokens, completion_tokens| Usage {
            prompt_tokens,
            completion_tokens,
            ..Usage::default()
        };
        let estimate = Usage { estimated: true, ..usage(80, 40) };
        assert_eq!(usage(0, 0).or_earlier(Some(usage(90, 60))), usage(90, 60));
        assert_eq!(usage(90, 61).or_earlier(Some(usage(90, 60))), usage(90, 61));
        assert_eq!(usage(90, 60).or_estimate(estimate), usage(90, 60));
        assert_eq!(usage(0, 60).or_estimate(estimate), Usage { estimated: true, ..usage(80, 60) });
        assert_eq!(usage(0, 0).or_estimate(estimate), estimate);
        // A reply without text has no completion tokens.
        assert_eq!(usage(90, 0).or_estimate(usage(80, 0)), usage(90, 0));
    }
}
