//! The events of the Messages API, read leniently: kinds of events, blocks and deltas that nobody
//! has heard of are passed over.

use crate::domain::Usage;
use crate::domain::message::FinishReason;
use crate::provider::remote::{Dialect, failure};
use crate::provider::{Event, Fault, ProviderError};
use serde::Deserialize;
use serde_json::Value;

/// The dialect, what a reply has cost so far, and which of its blocks are calls.
#[derive(Default)]
pub(super) struct Messages {
    cost: Cost,
    calls: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told {
    MessageStart {
        message: Begun,
    },
    ContentBlockStart {
        #[serde(default)]
        index: u32,
        content_block: Block,
    },
    ContentBlockDelta {
        #[serde(default)]
        index: u32,
        delta: Block,
    },
    MessageDelta {
        delta: Ended,
        #[serde(default)]
        usage: Cost,
    },
    MessageStop,
    /// A whole reply, where no stream came.
    Message {
        content: Vec<Block>,
        stop_reason: Option<String>,
        #[serde(default)]
        usage: Cost,
    },
    Error {
        error: Value,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Begun {
    #[serde(default)]
    usage: Cost,
}

#[derive(Deserialize)]
struct Ended {
    stop_reason: Option<String>,
}

/// A block, or more of it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
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
        /// All of it in a whole reply; in a stream the pieces come behind.
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

/// Counts so far; the last one told of each counts.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Cost {
    input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

impl Cost {
    fn update(&mut self, newer: Self) {
        let Self { input_tokens, cache_read_input_tokens, .. } = newer;
        self.input_tokens = input_tokens.or(self.input_tokens);
        self.cache_read_input_tokens = cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens =
            newer.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.output_tokens = newer.output_tokens.or(self.output_tokens);
        self.output_tokens_details =
            newer.output_tokens_details.or(self.output_tokens_details.take());
    }

    /// Their `input_tokens` leave out what the cache gave or took; ours are of the whole prompt.
    fn usage(&self) -> Usage {
        let read = self.cache_read_input_tokens.unwrap_or(0);
        let written = self.cache_creation_input_tokens.unwrap_or(0);
        let thinking = self.output_tokens_details.as_ref().and_then(|told| told.thinking_tokens);
        Usage {
            prompt_tokens: self.input_tokens.unwrap_or(0) + read + written,
            cached_tokens: read,
            completion_tokens: self.output_tokens.unwrap_or(0),
            reasoning_tokens: thinking.unwrap_or(0),
            ..Usage::default()
        }
    }
}

impl Dialect for Messages {
    fn read(
        &mut self,
        _: &[u8],
        data: &[u8],
        key: Option<&str>,
        events: &mut Vec<Event>,
    ) -> Result<bool, ProviderError> {
        match told(data, key)? {
            Told::MessageStart { message } => self.cost.update(message.usage),
            Told::ContentBlockStart { index, content_block: block }
            | Told::ContentBlockDelta { index, delta: block } => self.push(events, index, block),
            Told::MessageDelta { delta, usage } => {
                self.cost.update(usage);
                if let Some(reason) = delta.stop_reason {
                    events.push(Event::Usage(self.cost.usage()));
                    events.push(Event::Finish(finish_reason(&reason)));
                }
            }
            Told::MessageStop => return Ok(true),
            Told::Error { error } => return Err(failure::of_error_object(&error, key)),
            Told::Message { .. } | Told::Other => {}
        }
        Ok(false)
    }

    fn read_whole(&mut self, body: &[u8], key: Option<&str>) -> Result<Vec<Event>, ProviderError> {
        let (content, stop_reason, usage) = match told(body, key)? {
            Told::Message { content, stop_reason, usage } => (content, stop_reason, usage),
            Told::Error { error } => return Err(failure::of_error_object(&error, key)),
            _ => return Err(unreadable()),
        };
        let mut events = Vec::new();
        (0..).zip(content).for_each(|(index, block)| self.push(&mut events, index, block));
        events.push(Event::Usage(usage.usage()));
        events.extend(stop_reason.map(|reason| Event::Finish(finish_reason(&reason))));
        Ok(events)
    }
}

impl Messages {
    /// Deltas that arrive together are one.
    fn push(&mut self, events: &mut Vec<Event>, index: u32, block: Block) {
        match (events.last_mut(), block) {
            (_, Block::Other) => {}
            (_, Block::Text { text } | Block::Thinking { thinking: text }) if text.is_empty() => {}
            (Some(Event::Text(so_far)), Block::Text { text }) => so_far.push_str(&text),
            (Some(Event::Reasoning(so_far)), Block::Thinking { thinking }) => {
                so_far.push_str(&thinking);
            }
            (_, Block::Text { text }) => events.push(Event::Text(text)),
            (_, Block::Thinking { thinking }) => events.push(Event::Reasoning(thinking)),
            (_, Block::ToolUse { id, name, input }) => {
                self.calls.push(index);
                events.push(Event::ToolCall { index, id, name });
                if input.as_object().is_some_and(|input| !input.is_empty()) {
                    events.push(Event::ToolInput { index, delta: input.to_string() });
                }
            }
            (_, Block::InputJsonDelta { partial_json: delta }) => {
                if !delta.is_empty() && self.calls.contains(&index) {
                    events.push(Event::ToolInput { index, delta });
                }
            }
        }
    }
}

/// Gateways send errors without their own `type`.
fn told(data: &[u8], key: Option<&str>) -> Result<Told, ProviderError> {
    serde_json::from_slice(data).map_err(|_| {
        let object: Value = serde_json::from_slice(data).unwrap_or_default();
        match object.get("error") {
            Some(error) => failure::of_error_object(error, key),
            None => unreadable(),
        }
    })
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "refusal" => FinishReason::ContentFilter,
        "tool_use" => FinishReason::ToolCalls,
        _ => FinishReason::Other,
    }
}

fn unreadable() -> ProviderError {
    ProviderError::new(Fault::Refused, "the provider sent something that cannot be read")
}
