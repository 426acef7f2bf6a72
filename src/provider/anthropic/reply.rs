//! Parses the events of the Messages API.
//!
//! Nothing is dropped in silence: blocks that cannot be read are reported as
//! [`ProviderEvent::Unsupported`]. A field of an unexpected type counts as absent and never ends
//! the reply.

use crate::domain::Usage;
use crate::domain::message::FinishReason;
use crate::domain::usage::MAX_TOKEN_COUNT;
use crate::json::lenient::{self, RawObject};
use crate::provider::http::{StreamParser, UsageCounts, errors};
use crate::provider::opaque_allowance::OpaqueAllowance;
use crate::provider::{ProviderError, ProviderEvent, push_reasoning, push_text, to_event_index};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::mem;

/// The field of a call's opaque data that holds the blocks between the call before it and itself:
/// thinking, which the API wants back unchanged and in its order, and texts where they matter for
/// that order: <https://platform.claude.com/docs/en/build-with-claude/extended-thinking>.
pub(super) const THINKING: &str = "thinking";

/// Parser state: the usage so far, and the blocks that are function calls.
#[derive(Default)]
pub(super) struct AnthropicStreamParser {
    usage: AnthropicUsage,
    usage_counts: UsageCounts,
    /// Indexes of the blocks, where the API gives them. The place in the list is the number of the
    /// call.
    calls: Vec<Option<u64>>,
    /// Whether the last block is a function call, for deltas without an index.
    is_in_call: bool,
    /// Blocks of thinking and text since the last call, as they must be sent back.
    blocks: Vec<Value>,
    allowance: OpaqueAllowance,
}

/// Token counts. Each event of a stream may repeat some of them; the last value counts.
#[derive(Default)]
struct AnthropicUsage {
    input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    thinking_tokens: Option<u64>,
}

impl AnthropicUsage {
    fn merge(&mut self, newer: &RawObject<'_>, counts: &mut UsageCounts) {
        let mut update = |field: &mut Option<u64>, report: &RawObject<'_>, name: &str| {
            *field = counts.read(report, name).or(*field);
        };
        update(&mut self.input_tokens, newer, "input_tokens");
        update(&mut self.cache_read_input_tokens, newer, "cache_read_input_tokens");
        update(&mut self.cache_creation_input_tokens, newer, "cache_creation_input_tokens");
        update(&mut self.output_tokens, newer, "output_tokens");
        let details = newer.object("output_tokens_details");
        update(&mut self.thinking_tokens, &details, "thinking_tokens");
    }

    /// Converts the counts: the API's `input_tokens` exclude tokens that the cache read or wrote,
    /// ours are those of the whole prompt.
    fn to_usage(&self) -> Usage {
        let read = self.cache_read_input_tokens.unwrap_or(0);
        let written = self.cache_creation_input_tokens.unwrap_or(0);
        Usage {
            prompt_tokens: (self.input_tokens.unwrap_or(0) + read + written).min(MAX_TOKEN_COUNT),
            cached_tokens: read,
            completion_tokens: self.output_tokens.unwrap_or(0),
            reasoning_tokens: self.thinking_tokens.unwrap_or(0),
            ..Usage::default()
        }
    }
}

impl StreamParser for AnthropicStreamParser {
    fn parse_event(
        &mut self,
        name: &[u8],
        data: &[u8],
        key: Option<&str>,
        events: &mut Vec<ProviderEvent>,
    ) -> Result<bool, ProviderError> {
        let data = data.trim_ascii();
        let Some(value) = errors::parse_event_value(name, data, key)? else { return Ok(false) };
        let event = RawObject::from_value(&value);
        if let Some(error) = errors::event_error(&event, name, key) {
            return Err(error);
        }
        // Gateways may leave out the `type`, which repeats the event's name.
        let kind = event.text("type").unwrap_or_else(|| String::from_utf8_lossy(name).into_owned());
        match &*kind {
            "message_start" => self.merge_usage(&event.object("message").object("usage")),
            "content_block_start" => self.push_block(events, &event, "content_block"),
            "content_block_delta" => self.push_block(events, &event, "delta"),
            "content_block_stop" => self.is_in_call = false,
            "message_delta" => {
                // `message_start` has the input tokens, this event the output tokens, so only now
                // is the usage complete.
                self.merge_usage(&event.object("usage"));
                self.push_end(events, &event.object("delta"));
            }
            "message_stop" => return Ok(true),
            _ => {}
        }
        Ok(false)
    }

    fn parse_body(
        &mut self,
        body: &[u8],
        key: Option<&str>,
    ) -> Result<Vec<ProviderEvent>, ProviderError> {
        let value = lenient::parse_value(body).ok_or_else(errors::unreadable_error)?;
        let message = RawObject::from_value(&value);
        if let Some(error) = errors::event_error(&message, b"", key) {
            return Err(error);
        }
        if message.get("content").is_none() {
            return Err(errors::body_error(&value, key));
        }
        let mut events = Vec::new();
        for block in message.list("content") {
            self.push_content(&mut events, None, block);
        }
        push_text(&mut events, message.text("content"));
        self.merge_usage(&message.object("usage"));
        self.push_end(&mut events, &message);
        Ok(events)
    }
}

impl AnthropicStreamParser {
    fn merge_usage(&mut self, report: &RawObject<'_>) {
        self.usage.merge(report, &mut self.usage_counts);
    }

    fn push_end(&self, events: &mut Vec<ProviderEvent>, object: &RawObject<'_>) {
        if let Some(reason) = object.text("stop_reason") {
            events.push(ProviderEvent::Usage(self.usage.to_usage()));
            events.push(ProviderEvent::Finish(parse_finish_reason(&reason)));
        }
    }

    fn push_block(&mut self, events: &mut Vec<ProviderEvent>, event: &RawObject<'_>, field: &str) {
        if let Some(block) = event.get(field) {
            self.push_content(events, event.count("index"), block);
        }
    }

    /// Adds a block or a delta of one.
    fn push_content(
        &mut self,
        events: &mut Vec<ProviderEvent>,
        index: Option<u64>,
        block: &RawValue,
    ) {
        let content = RawObject::from_value(block);
        let kind = content.text("type").unwrap_or_default();
        match &*kind {
            "text" | "text_delta" => {
                self.push_block_text(&content, &kind);
                push_text(events, content.text("text"));
                push_citations(events, &content.list("citations"));
            }
            "thinking" => {
                self.blocks.push(json!({"type": "thinking", "thinking": "", "signature": ""}));
                self.push_thinking(&content);
                push_reasoning(events, content.text("thinking"));
            }
            "thinking_delta" => {
                self.push_thinking(&content);
                push_reasoning(events, content.text("thinking"));
            }
            // The proof that the thinking is the API's own.
            "signature_delta" => self.push_thinking(&content),
            // Thinking that the API encrypts.
            "redacted_thinking" => {
                let block = content.to_value();
                if self.allowance.take(block.to_string().len()) {
                    self.blocks.push(block);
                }
            }
            "citations_delta" => push_citations(events, &content.list("citation")),
            "tool_use" => self.begin_call(events, index, &content),
            "input_json_delta" => {
                if let (Some(call), Some(delta)) =
                    (self.find_call(index), content.text("partial_json"))
                {
                    events.push(ProviderEvent::ToolInput { index: call, delta });
                }
            }
            // A block of an unknown kind is shown if it has text.
            _ => match content.text("text") {
                Some(text) => push_text(events, Some(text)),
                None if kind.is_empty() => {}
                None => events.push(ProviderEvent::Unsupported(kind)),
            },
        }
    }

    /// Begins a block of text, or appends to it.
    fn push_block_text(&mut self, content: &RawObject<'_>, kind: &str) {
        let Some(text) = content.text("text") else { return };
        let is_open = kind == "text_delta";
        match self.blocks.last_mut().filter(|block| is_open && block["type"] == "text") {
            Some(Value::Object(block)) => {
                if let Some(Value::String(so_far)) = block.get_mut("text") {
                    so_far.push_str(&text);
                }
            }
            _ => self.blocks.push(json!({"type": "text", "text": text})),
        }
    }

    /// Appends text and signature to the last block of thinking.
    fn push_thinking(&mut self, content: &RawObject<'_>) {
        let is_thinking = |block: &&mut Value| block["type"] == "thinking";
        let Some(block) = self.blocks.iter_mut().rev().find(is_thinking) else { return };
        for field in ["thinking", "signature"] {
            if let (Some(Value::String(so_far)), Some(text)) =
                (block.get_mut(field), content.text(field))
                && self.allowance.take(text.len())
            {
                so_far.push_str(&text);
            }
        }
    }

    fn begin_call(
        &mut self,
        events: &mut Vec<ProviderEvent>,
        index: Option<u64>,
        block: &RawObject<'_>,
    ) {
        let Some(name) = block.text("name") else {
            events.push(ProviderEvent::Unsupported("tool_use".to_owned()));
            return;
        };
        self.calls.push(index);
        self.is_in_call = true;
        let call = to_event_index(self.calls.len() - 1);
        let blocks = take_ordered_blocks(&mut self.blocks, call == 0);
        let is_whole = !blocks.is_empty() && !self.allowance.is_spent();
        let opaque_data = is_whole.then(|| json!({ THINKING: blocks }));
        events.push(ProviderEvent::ToolCall {
            index: call,
            provider_id: block.text("id"),
            name,
            opaque_data,
        });
        // In a stream this is an empty object, and the arguments follow as deltas.
        let input = block.get("input").filter(|input| lenient::is_filled(input));
        if let Some(input) = input.filter(|input| input.get().starts_with('{')) {
            events.push(ProviderEvent::ToolInput { index: call, delta: input.get().to_owned() });
        }
    }

    /// The number of the call that a delta belongs to. Tools that the API runs itself have argument
    /// deltas, too; their blocks are not calls.
    fn find_call(&self, index: Option<u64>) -> Option<u32> {
        let place = match index {
            Some(_) => self.calls.iter().rposition(|call| *call == index)?,
            None => self.calls.len().checked_sub(1).filter(|_| self.is_in_call)?,
        };
        Some(to_event_index(place))
    }
}

/// The blocks before a call, without those that a prompt has in the right place by itself: texts
/// between the thinking of a reply and its first call.
fn take_ordered_blocks(blocks: &mut Vec<Value>, is_first_call: bool) -> Vec<Value> {
    let mut blocks = mem::take(blocks);
    let is_text = |block: &Value| block["type"] == "text";
    blocks.retain(|block| !is_text(block) || block["text"] != "");
    let is_usual = blocks.iter().skip_while(|block| !is_text(block)).all(is_text);
    if is_first_call && is_usual {
        blocks.retain(|block| !is_text(block));
    }
    blocks
}

fn push_citations(events: &mut Vec<ProviderEvent>, citations: &[&RawValue]) {
    for citation in citations {
        let citation = RawObject::from_value(citation);
        let Some(url) = citation.text("url").filter(|url| url.starts_with("http")) else {
            continue;
        };
        events.push(ProviderEvent::Source { url, title: citation.text("title") });
    }
}

/// Reasons without a meaning here are [`FinishReason::Other`], which is not a success.
fn parse_finish_reason(word: &str) -> FinishReason {
    match word {
        "end_turn" | "stop_sequence" | "stop" => FinishReason::Stop,
        "max_tokens" | "model_context_window_exceeded" | "length" => FinishReason::Length,
        "refusal" | "content_filter" => FinishReason::ContentFilter,
        "tool_use" | "tool_calls" => FinishReason::ToolCalls,
        "error" => FinishReason::Error,
        _ => FinishReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::lenient::odd_variants;

    #[test]
    fn odd_field_never_ends_the_reply() {
        let events = [
            r#"{"type":"message_start","message":{"id":"m","role":"assistant","content":[],"usage":{"input_tokens":7,"cache_read_input_tokens":1,"output_tokens":1}}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"text","text":"","citations":null}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"one "}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"citations_delta","citation":{"type":"web_search_result_location","url":"https://e.com","title":"E"}}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"two"}}"#,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"a","name":"look","input":{}}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":9,"output_tokens_details":{"thinking_tokens":3}}}"#,
        ];
        for (place, event) in events.iter().enumerate() {
            for odd in odd_variants(event) {
                let mut parser = AnthropicStreamParser::default();
                let mut text = String::new();
                for (other, data) in events.iter().enumerate() {
                    let data = if other == place { odd.as_str() } else { data };
                    let mut parsed = Vec::new();
                    let outcome = parser.parse_event(b"", data.as_bytes(), None, &mut parsed);
                    assert_eq!(outcome, Ok(false), "{data}");
                    text.extend(parsed.iter().filter_map(|event| match event {
                        ProviderEvent::Text(text) => Some(text.as_str()),
                        _ => None,
                    }));
                }
                assert!(place == 5 || text.contains("one "), "{odd}: {text}");
                assert!(place == 7 || text.ends_with("two"), "{odd}: {text}");
            }
        }
    }
}
