//! A reply as Chat Completions tells it: whole, or in chunks.
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

/// What every object of one reply says.
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

/// Waits for the whole reply.
pub(super) async fn collect_completion(mut hearing: ReplyStream, model: String) -> Result<Value> {
    let mut head = CompletionHeader::new(&hearing.reply_id, model);
    let (mut content, mut reasoning) = (String::new(), String::new());
    let mut calls: Vec<(String, String, String)> = Vec::new();
    while let Some(heard) = hearing.events.next().await {
        let (reason, usage) = match heard {
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
            ReplyEvent::Finished { reason, model, usage } => {
                head.model = model.unwrap_or(head.model);
                (reason, usage)
            }
        };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !reasoning.is_empty() {
            message["reasoning_content"] = reasoning.into();
        }
        if !calls.is_empty() {
            let calls =
                calls.iter().map(|(id, name, arguments)| encode_tool_call(id, name, arguments));
            message["tool_calls"] = calls.collect();
            if content.is_empty() {
                message["content"] = Value::Null;
            }
        }
        let choice = json!({
            "index": 0, "message": message, "logprobs": null, "finish_reason": encode_finish_reason(reason),
        });
        return Ok(json!({
            "id": head.id, "object": "chat.completion", "created": head.created, "model": head.model,
            "choices": [choice], "usage": usage.map(encode_usage),
        }));
    }
    Err(Error::internal("a reply ended without its end"))
}

/// A reply in chunks.
pub(super) struct CompletionChunkStream {
    events: BoxStream<'static, ReplyEvent>,
    pending: VecDeque<Bytes>,
    header: CompletionHeader,
    /// The names of the calls so far.
    call_ids: Vec<String>,
    includes_usage: bool,
    is_done: bool,
}

impl CompletionChunkStream {
    /// Waits for the first word: until then a failure is an answer of its own.
    pub(super) async fn start(
        mut hearing: ReplyStream,
        model: String,
        includes_usage: bool,
    ) -> Result<Self> {
        let first = hearing.events.next().await;
        let mut chunks = Self {
            header: CompletionHeader::new(&hearing.reply_id, model),
            events: hearing.events,
            pending: VecDeque::new(),
            call_ids: Vec::new(),
            includes_usage,
            is_done: false,
        };
        match first {
            Some(ReplyEvent::Stopped) => return Err(stopped_error()),
            Some(ReplyEvent::Failed(error)) => return Err(error),
            None => return Err(Error::internal("a reply ended without its end")),
            Some(first) => {
                chunks.push_delta(json!({"role": "assistant", "content": "", "refusal": null}));
                chunks.push_event(first);
            }
        }
        Ok(chunks)
    }

    fn push_event(&mut self, heard: ReplyEvent) {
        match heard {
            ReplyEvent::Text(text) => self.push_delta(json!({"content": text})),
            ReplyEvent::Reasoning(text) => self.push_delta(json!({"reasoning_content": text})),
            ReplyEvent::ToolCall { id, name } => {
                let mut call = encode_tool_call(&id, &name, "");
                call["index"] = self.call_ids.len().into();
                self.call_ids.push(id);
                self.push_delta(json!({"tool_calls": [call]}));
            }
            ReplyEvent::ToolInput { id, delta } => {
                let index = self.call_ids.iter().rposition(|known| *known == id);
                let more = json!({"index": index, "function": {"arguments": delta}});
                self.push_delta(json!({"tool_calls": [more]}));
            }
            ReplyEvent::Finished { reason, model, usage } => {
                if let Some(model) = model {
                    self.header.model = model;
                }
                let choice = encode_choice(json!({}), encode_finish_reason(reason).into());
                self.push_chunk(json!([choice]), Value::Null);
                if let (true, Some(usage)) = (self.includes_usage, usage) {
                    self.push_chunk(json!([]), encode_usage(usage));
                }
                self.pending.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                self.is_done = true;
            }
            ReplyEvent::Stopped => self.push_error(&stopped_error()),
            ReplyEvent::Failed(error) => self.push_error(&error),
        }
    }

    /// Their libraries raise an error for this, and for a stream that is merely cut off none.
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
            let heard = self.events.next().await?;
            self.push_event(heard);
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

/// OpenAI has no word for other reasons than these.
const fn encode_finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Stop | FinishReason::Error | FinishReason::Other => "stop",
    }
}

fn encode_usage(usage: Usage) -> Value {
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
