//! A reply as Chat Completions tells it: whole, or in chunks.
//! Shapes: <https://platform.openai.com/docs/api-reference/chat/object>,
//! <https://platform.openai.com/docs/api-reference/chat-streaming>.

use super::errors;
use crate::chat::{ReplyEvent, ReplyStream, stopped_error};
use crate::clock;
use crate::domain::message::FinishReason;
use crate::domain::{MessageId, Usage};
use crate::error::{Error, Result};
use crate::http::sse::Pieces;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// What every object of one reply says.
struct Head {
    id: String,
    created: i64,
    model: String,
}

impl Head {
    fn new(id: &MessageId, model: String) -> Self {
        Self { id: format!("chatcmpl-{id}"), created: clock::now().as_millis() / 1000, model }
    }
}

/// Waits for the whole reply.
pub(super) async fn whole(mut hearing: ReplyStream, model: String) -> Result<Value> {
    let mut head = Head::new(&hearing.reply_id, model);
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
            let calls = calls.iter().map(|(id, name, arguments)| call(id, name, arguments));
            message["tool_calls"] = calls.collect();
            if content.is_empty() {
                message["content"] = Value::Null;
            }
        }
        let choice = json!({
            "index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason(reason),
        });
        return Ok(json!({
            "id": head.id, "object": "chat.completion", "created": head.created, "model": head.model,
            "choices": [choice], "usage": usage.map(costs),
        }));
    }
    Err(Error::internal("a reply ended without its end"))
}

/// A reply in chunks.
pub(super) struct Chunks {
    heard: BoxStream<'static, ReplyEvent>,
    waiting: VecDeque<Bytes>,
    head: Head,
    /// The names of the calls so far.
    calls: Vec<String>,
    includes_usage: bool,
    is_over: bool,
}

impl Chunks {
    /// Waits for the first word: until then a failure is an answer of its own.
    pub(super) async fn begin(
        mut hearing: ReplyStream,
        model: String,
        includes_usage: bool,
    ) -> Result<Self> {
        let first = hearing.events.next().await;
        let mut chunks = Self {
            head: Head::new(&hearing.reply_id, model),
            heard: hearing.events,
            waiting: VecDeque::new(),
            calls: Vec::new(),
            includes_usage,
            is_over: false,
        };
        match first {
            Some(ReplyEvent::Stopped) => return Err(stopped_error()),
            Some(ReplyEvent::Failed(error)) => return Err(error),
            None => return Err(Error::internal("a reply ended without its end")),
            Some(first) => {
                chunks.delta(json!({"role": "assistant", "content": "", "refusal": null}));
                chunks.take(first);
            }
        }
        Ok(chunks)
    }

    fn take(&mut self, heard: ReplyEvent) {
        match heard {
            ReplyEvent::Text(text) => self.delta(json!({"content": text})),
            ReplyEvent::Reasoning(text) => self.delta(json!({"reasoning_content": text})),
            ReplyEvent::ToolCall { id, name } => {
                let mut call = call(&id, &name, "");
                call["index"] = self.calls.len().into();
                self.calls.push(id);
                self.delta(json!({"tool_calls": [call]}));
            }
            ReplyEvent::ToolInput { id, delta } => {
                let index = self.calls.iter().rposition(|known| *known == id);
                let more = json!({"index": index, "function": {"arguments": delta}});
                self.delta(json!({"tool_calls": [more]}));
            }
            ReplyEvent::Finished { reason, model, usage } => {
                if let Some(model) = model {
                    self.head.model = model;
                }
                let choice = choice(json!({}), finish_reason(reason).into());
                self.chunk(json!([choice]), Value::Null);
                if let (true, Some(usage)) = (self.includes_usage, usage) {
                    self.chunk(json!([]), costs(usage));
                }
                self.waiting.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                self.is_over = true;
            }
            ReplyEvent::Stopped => self.break_off(&stopped_error()),
            ReplyEvent::Failed(error) => self.break_off(&error),
        }
    }

    /// Their libraries raise an error for this, and for a stream that is merely cut off none.
    fn break_off(&mut self, error: &Error) {
        self.data(&errors::body(error));
        self.is_over = true;
    }

    fn delta(&mut self, delta: Value) {
        self.chunk(json!([choice(delta, Value::Null)]), Value::Null);
    }

    fn chunk(&mut self, choices: Value, usage: Value) {
        let Head { id, created, model } = &self.head;
        let mut chunk = json!({
            "id": id, "object": "chat.completion.chunk", "created": created, "model": model,
            "choices": choices,
        });
        if self.includes_usage {
            chunk["usage"] = usage;
        }
        self.data(&chunk);
    }

    fn data(&mut self, data: &Value) {
        self.waiting.push_back(format!("data: {data}\n\n").into());
    }
}

impl Pieces for Chunks {
    async fn next(&mut self) -> Option<Bytes> {
        while self.waiting.is_empty() && !self.is_over {
            let heard = self.heard.next().await?;
            self.take(heard);
        }
        self.waiting.pop_front()
    }
}

fn call(id: &str, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn choice(delta: Value, finish_reason: Value) -> Value {
    json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason})
}

/// OpenAI has no word for other reasons than these.
const fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Stop | FinishReason::Error | FinishReason::Other => "stop",
    }
}

fn costs(usage: Usage) -> Value {
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
