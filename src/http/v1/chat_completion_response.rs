//! Replies in the format of Chat Completions, as one object or as a stream of chunks.
//! Shapes: <https://platform.openai.com/docs/api-reference/chat/object>,
//! <https://platform.openai.com/docs/api-reference/chat-streaming>.

use super::errors;
use crate::chat::{ReplyEvent, ReplyStream, stopped_error};
use crate::clock;
use crate::domain::message::FinishReason;
use crate::domain::{MessageId, Usage};
use crate::error::{Error, Result};
use crate::http::sse::SseSource;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// Fields that are the same in every chunk of a reply.
struct CompletionHeader {
    id: String,
    created: i64,
    model: String,
}

impl CompletionHeader {
    fn new(id: &MessageId, model: String) -> Self {
        Self { id: format!("chatcmpl-{id}"), created: clock::now().as_millis() / 1000, model }
    }
}

/// Waits for the end of a reply and encodes it as one object.
pub(super) async fn collect_completion(mut reply: ReplyStream, model: String) -> Result<Value> {
    let mut header = CompletionHeader::new(&reply.reply_id, model);
    let mut content = String::new();
    let mut reasoning = String::new();
    // ID, name and arguments of each call.
    let mut calls: Vec<(String, String, String)> = Vec::new();
    while let Some(event) = reply.events.next().await {
        let (reason, usage) = match event {
            ReplyEvent::Text(text) => {
                content.push_str(&text);
                continue;
            }
            ReplyEvent::Reasoning(text) => {
                reasoning.push_str(&text);
                continue;
            }
            ReplyEvent::ToolCall { id, name } => {
                calls.push((id, name, String::new()));
                continue;
            }
            ReplyEvent::ToolInput { id, delta } => {
                let call = calls.iter_mut().rfind(|(known, ..)| *known == id);
                call.into_iter().for_each(|(.., arguments)| arguments.push_str(&delta));
                continue;
            }
            ReplyEvent::Stopped => return Err(stopped_error()),
            ReplyEvent::Failed(error) => return Err(error),
            ReplyEvent::Finished { reason, model, usage, .. } => {
                header.model = model.unwrap_or(header.model);
                (reason, usage)
            }
        };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        // Not a field of OpenAI's; DeepSeek introduced it, and other servers and clients follow.
        if !reasoning.is_empty() {
            message["reasoning_content"] = reasoning.into();
        }
        if !calls.is_empty() {
            let calls =
                calls.iter().map(|(id, name, arguments)| encode_tool_call(id, name, arguments));
            message["tool_calls"] = calls.collect();
            // As OpenAI does for a reply that only calls tools.
            if content.is_empty() {
                message["content"] = Value::Null;
            }
        }
        let choice = json!({
            "index": 0, "message": message, "logprobs": null, "finish_reason": encode_finish_reason(reason),
        });
        return Ok(json!({
            "id": header.id, "object": "chat.completion", "created": header.created, "model": header.model,
            "choices": [choice], "usage": usage.map(encode_completion_usage),
        }));
    }
    Err(Error::internal("the reply stream ended without a final event"))
}

/// A reply as server-sent chunks.
pub(super) struct CompletionChunkStream {
    events: BoxStream<'static, ReplyEvent>,
    pending: VecDeque<Bytes>,
    header: CompletionHeader,
    /// IDs of the tool calls so far; the position of a call is its `index` in the chunks.
    call_ids: Vec<String>,
    includes_usage: bool,
    is_done: bool,
}

impl CompletionChunkStream {
    /// Waits for the first event, because a failure before it can still be an HTTP error.
    pub(super) async fn start(
        mut reply: ReplyStream,
        model: String,
        includes_usage: bool,
    ) -> Result<Self> {
        let first = reply.events.next().await;
        let mut chunks = Self {
            header: CompletionHeader::new(&reply.reply_id, model),
            events: reply.events,
            pending: VecDeque::new(),
            call_ids: Vec::new(),
            includes_usage,
            is_done: false,
        };
        match first {
            Some(ReplyEvent::Stopped) => return Err(stopped_error()),
            Some(ReplyEvent::Failed(error)) => return Err(error),
            None => {
                return Err(Error::internal("the reply stream ended without a final event"));
            }
            Some(first) => {
                // OpenAI's first chunk carries the role and an empty text.
                chunks.push_delta(json!({"role": "assistant", "content": "", "refusal": null}));
                chunks.push_event(first);
            }
        }
        Ok(chunks)
    }

    fn push_event(&mut self, event: ReplyEvent) {
        match event {
            ReplyEvent::Text(text) => self.push_delta(json!({"content": text})),
            ReplyEvent::Reasoning(text) => self.push_delta(json!({"reasoning_content": text})),
            ReplyEvent::ToolCall { id, name } => {
                let mut call = encode_tool_call(&id, &name, "");
                call["index"] = self.call_ids.len().into();
                self.call_ids.push(id);
                self.push_delta(json!({"tool_calls": [call]}));
            }
            // Deltas of parallel calls may be interleaved, so the call is found by its ID.
            ReplyEvent::ToolInput { id, delta } => {
                let index = self.call_ids.iter().rposition(|known| *known == id);
                let more = json!({"index": index, "function": {"arguments": delta}});
                self.push_delta(json!({"tool_calls": [more]}));
            }
            ReplyEvent::Finished { reason, model, usage, .. } => {
                if let Some(model) = model {
                    self.header.model = model;
                }
                let choice = encode_choice(json!({}), encode_finish_reason(reason).into());
                self.push_chunk(json!([choice]), Value::Null);
                if let (true, Some(usage)) = (self.includes_usage, usage) {
                    self.push_chunk(json!([]), encode_completion_usage(usage));
                }
                self.pending.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                self.is_done = true;
            }
            ReplyEvent::Stopped => self.push_error(&stopped_error()),
            ReplyEvent::Failed(error) => self.push_error(&error),
        }
    }

    /// Sends an error in the stream. OpenAI's libraries raise it as an exception; a stream that is
    /// merely cut off they take for a complete one.
    fn push_error(&mut self, error: &Error) {
        self.push_data(&errors::encode_error(error));
        self.is_done = true;
    }

    fn push_delta(&mut self, delta: Value) {
        self.push_chunk(json!([encode_choice(delta, Value::Null)]), Value::Null);
    }

    fn push_chunk(&mut self, choices: Value, usage: Value) {
        let CompletionHeader { id, created, model } = &self.header;
        let mut chunk = json!({
            "id": id, "object": "chat.completion.chunk", "created": created, "model": model,
            "choices": choices,
        });
        // With `include_usage`, each chunk has the field and all but the last have null in it.
        if self.includes_usage {
            chunk["usage"] = usage;
        }
        self.push_data(&chunk);
    }

    fn push_data(&mut self, data: &Value) {
        self.pending.push_back(format!("data: {data}\n\n").into());
    }
}

impl SseSource for CompletionChunkStream {
    async fn next(&mut self) -> Option<Bytes> {
        while self.pending.is_empty() && !self.is_done {
            let event = self.events.next().await?;
            self.push_event(event);
        }
        self.pending.pop_front()
    }
}

fn encode_tool_call(id: &str, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn encode_choice(delta: Value, finish_reason: Value) -> Value {
    json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason})
}

/// Reasons that OpenAI does not define become `stop`.
const fn encode_finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Stop | FinishReason::Error | FinishReason::Other => "stop",
    }
}

fn encode_completion_usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}
