//! Parses the events of the Messages API, leniently: unknown kinds of events, blocks and deltas are
//! ignored.

use crate::domain::Usage;
use crate::domain::message::FinishReason;
use crate::provider::http::{StreamParser, errors};
use crate::provider::{ProviderError, ProviderErrorKind, ProviderEvent};
use serde::Deserialize;
use serde_json::Value;

/// Parser state: the usage so far, and the indexes of the blocks that are function calls.
#[derive(Default)]
pub(super) struct AnthropicStreamParser {
    usage: AnthropicUsage,
    calls: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum AnthropicStreamEvent {
    MessageStart {
        message: AnthropicMessageStart,
    },
    ContentBlockStart {
        #[serde(default)]
        index: u32,
        content_block: AnthropicContentBlock,
    },
    ContentBlockDelta {
        #[serde(default)]
        index: u32,
        delta: AnthropicContentBlock,
    },
    MessageDelta {
        delta: AnthropicMessageDelta,
        #[serde(default)]
        usage: AnthropicUsage,
    },
    MessageStop,
    /// A whole reply in place of a stream.
    Message {
        content: Vec<AnthropicContentBlock>,
        stop_reason: Option<String>,
        #[serde(default)]
        usage: AnthropicUsage,
    },
    Error {
        error: Value,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct AnthropicMessageStart {
    #[serde(default)]
    usage: AnthropicUsage,
}

#[derive(Deserialize)]
struct AnthropicMessageDelta {
    stop_reason: Option<String>,
}

/// A content block, or a delta of one.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum AnthropicContentBlock {
    #[serde(alias = "text_delta")]
    Text {
        #[serde(default)]
        text: String,
    },
    #[serde(alias = "thinking_delta")]
    Thinking {
        #[serde(default)]
        thinking: String,
    },
    ToolUse {
        id: String,
        name: String,
        /// The arguments in a whole reply; in a stream they follow as deltas.
        #[serde(default)]
        input: Value,
    },
    InputJsonDelta {
        #[serde(default)]
        partial_json: String,
    },
    #[serde(other)]
    Other,
}

/// Token counts. Each event of a stream may repeat some of them; the last value counts.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AnthropicUsage {
    input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<AnthropicOutputDetails>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AnthropicOutputDetails {
    thinking_tokens: Option<u64>,
}

impl AnthropicUsage {
    fn merge(&mut self, newer: Self) {
        let Self { input_tokens, cache_read_input_tokens, .. } = newer;
        self.input_tokens = input_tokens.or(self.input_tokens);
        self.cache_read_input_tokens = cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens =
            newer.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.output_tokens = newer.output_tokens.or(self.output_tokens);
        self.output_tokens_details =
            newer.output_tokens_details.or(self.output_tokens_details.take());
    }

    /// Converts the counts: the API's `input_tokens` exclude tokens that the cache read or wrote,
    /// ours are those of the whole prompt.
    fn to_usage(&self) -> Usage {
        let read = self.cache_read_input_tokens.unwrap_or(0);
        let written = self.cache_creation_input_tokens.unwrap_or(0);
        let thinking =
            self.output_tokens_details.as_ref().and_then(|details| details.thinking_tokens);
        Usage {
            prompt_tokens: self.input_tokens.unwrap_or(0) + read + written,
            cached_tokens: read,
            completion_tokens: self.output_tokens.unwrap_or(0),
            reasoning_tokens: thinking.unwrap_or(0),
            ..Usage::default()
        }
    }
}

impl StreamParser for AnthropicStreamParser {
    fn parse_event(
        &mut self,
        _: &[u8],
        data: &[u8],
        key: Option<&str>,
        events: &mut Vec<ProviderEvent>,
    ) -> Result<bool, ProviderError> {
        match parse_stream_event(data, key)? {
            AnthropicStreamEvent::MessageStart { message } => self.usage.merge(message.usage),
            AnthropicStreamEvent::ContentBlockStart { index, content_block: block }
            | AnthropicStreamEvent::ContentBlockDelta { index, delta: block } => {
                self.push_block(events, index, block)
            }
            AnthropicStreamEvent::MessageDelta { delta, usage } => {
                // `message_start` has the input tokens, this event the output tokens, so only now
                // is the usage complete.
                self.usage.merge(usage);
                if let Some(reason) = delta.stop_reason {
                    events.push(ProviderEvent::Usage(self.usage.to_usage()));
                    events.push(ProviderEvent::Finish(parse_finish_reason(&reason)));
                }
            }
            AnthropicStreamEvent::MessageStop => return Ok(true),
            AnthropicStreamEvent::Error { error } => return Err(errors::object_error(&error, key)),
            AnthropicStreamEvent::Message { .. } | AnthropicStreamEvent::Other => {}
        }
        Ok(false)
    }

    fn parse_body(
        &mut self,
        body: &[u8],
        key: Option<&str>,
    ) -> Result<Vec<ProviderEvent>, ProviderError> {
        let (content, stop_reason, usage) = match parse_stream_event(body, key)? {
            AnthropicStreamEvent::Message { content, stop_reason, usage } => {
                (content, stop_reason, usage)
            }
            AnthropicStreamEvent::Error { error } => return Err(errors::object_error(&error, key)),
            _ => return Err(unreadable_error()),
        };
        let mut events = Vec::new();
        (0..).zip(content).for_each(|(index, block)| self.push_block(&mut events, index, block));
        events.push(ProviderEvent::Usage(usage.to_usage()));
        events
            .extend(stop_reason.map(|reason| ProviderEvent::Finish(parse_finish_reason(&reason))));
        Ok(events)
    }
}

impl AnthropicStreamParser {
    /// Adds a block or a delta. Deltas that arrive together become one event.
    fn push_block(
        &mut self,
        events: &mut Vec<ProviderEvent>,
        index: u32,
        block: AnthropicContentBlock,
    ) {
        match (events.last_mut(), block) {
            (_, AnthropicContentBlock::Other) => {}
            (
                _,
                AnthropicContentBlock::Text { text }
                | AnthropicContentBlock::Thinking { thinking: text },
            ) if text.is_empty() => {}
            (Some(ProviderEvent::Text(so_far)), AnthropicContentBlock::Text { text }) => {
                so_far.push_str(&text)
            }
            (
                Some(ProviderEvent::Reasoning(so_far)),
                AnthropicContentBlock::Thinking { thinking },
            ) => {
                so_far.push_str(&thinking);
            }
            (_, AnthropicContentBlock::Text { text }) => events.push(ProviderEvent::Text(text)),
            (_, AnthropicContentBlock::Thinking { thinking }) => {
                events.push(ProviderEvent::Reasoning(thinking))
            }
            (_, AnthropicContentBlock::ToolUse { id, name, input }) => {
                self.calls.push(index);
                events.push(ProviderEvent::ToolCall { index, id, name });
                // In a stream this is an empty object, and the arguments follow as deltas.
                if input.as_object().is_some_and(|input| !input.is_empty()) {
                    events.push(ProviderEvent::ToolInput { index, delta: input.to_string() });
                }
            }
            (_, AnthropicContentBlock::InputJsonDelta { partial_json: delta }) => {
                // Tools that the API runs itself have argument deltas, too; their blocks are
                // ignored.
                if !delta.is_empty() && self.calls.contains(&index) {
                    events.push(ProviderEvent::ToolInput { index, delta });
                }
            }
        }
    }
}

/// Parses an event. Some gateways send errors without a `type`.
fn parse_stream_event(
    data: &[u8],
    key: Option<&str>,
) -> Result<AnthropicStreamEvent, ProviderError> {
    serde_json::from_slice(data).map_err(|_| {
        let object: Value = serde_json::from_slice(data).unwrap_or_default();
        match object.get("error") {
            Some(error) => errors::object_error(error, key),
            None => unreadable_error(),
        }
    })
}

fn parse_finish_reason(word: &str) -> FinishReason {
    match word {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "refusal" => FinishReason::ContentFilter,
        "tool_use" => FinishReason::ToolCalls,
        _ => FinishReason::Other,
    }
}

fn unreadable_error() -> ProviderError {
    ProviderError::new(
        ProviderErrorKind::BadResponse,
        "the provider's response could not be parsed",
    )
}
