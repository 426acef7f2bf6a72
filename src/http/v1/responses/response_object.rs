//! The response object: what is kept of its request, and how it stands.
//! Shape: <https://platform.openai.com/docs/api-reference/responses/object>.

use super::RESPONSE_PREFIX;
use crate::chat::ReplyStream;
use crate::clock;
use crate::domain::message::{FinishReason, Status};
use crate::domain::tool::{self, ToolCall};
use crate::domain::{Message, MessageId, Usage};
use crate::error::{Error, ErrorKind, Result};
use crate::store::StoredResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What is kept of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredRequest {
    /// The fields that each answer repeats, under their own names.
    pub(super) echo: Map<String, Value>,
    /// How many messages it was asked with.
    pub(super) inputs: usize,
    /// Whether its session was made for it.
    pub(super) is_own_session: bool,
    pub(super) is_background: bool,
    pub(super) is_stream: bool,
}

impl StoredRequest {
    pub(super) fn from_stored(stored: &StoredResponse) -> Result<Self> {
        serde_json::from_str(&stored.request).map_err(Error::store_unavailable)
    }

    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(Error::internal)
    }
}

/// What every telling of one response says.
pub(super) struct ResponseHeader {
    id: String,
    /// Unix seconds.
    created_at: i64,
    echo: Map<String, Value>,
}

impl ResponseHeader {
    /// Of a response that is stored.
    pub(super) fn from_stored(stored: &StoredResponse) -> Result<Self> {
        Ok(Self {
            id: format!("{RESPONSE_PREFIX}{}", stored.turn_id),
            created_at: stored.created_at.as_millis() / 1000,
            echo: StoredRequest::from_stored(stored)?.echo,
        })
    }

    /// Of a response that is not.
    pub(super) fn new(hearing: &ReplyStream, kept: &StoredRequest) -> Self {
        let name = hearing.turn_id.as_ref().map_or(hearing.reply_id.as_str(), |turn| turn.as_str());
        let (id, created_at) =
            (format!("{RESPONSE_PREFIX}{name}"), clock::now().as_millis() / 1000);
        Self { id, created_at, echo: kept.echo.clone() }
    }

    /// The response as it stands.
    pub(super) fn to_response_json(&self, told: ResponseState) -> Value {
        let ResponseState {
            status,
            output,
            usage,
            error,
            incomplete_reason: incomplete,
            completed_at,
            model,
        } = told;
        let mut response = self.echo.clone();
        response.extend([
            ("id".to_owned(), json!(self.id)),
            ("object".to_owned(), json!("response")),
            ("created_at".to_owned(), json!(self.created_at)),
            ("completed_at".to_owned(), json!(completed_at)),
            ("status".to_owned(), json!(status)),
            ("error".to_owned(), json!(error)),
            ("incomplete_details".to_owned(), json!(incomplete.map(|why| json!({"reason": why})))),
            ("output".to_owned(), json!(output)),
            ("usage".to_owned(), json!(usage.map(encode_usage))),
        ]);
        if let Some(model) = model {
            response.insert("model".to_owned(), model.into());
        }
        Value::Object(response)
    }
}

/// How a response stands.
pub(super) struct ResponseState {
    pub(super) status: &'static str,
    pub(super) output: Vec<Value>,
    pub(super) usage: Option<Usage>,
    pub(super) error: Option<Value>,
    pub(super) incomplete_reason: Option<&'static str>,
    /// Unix seconds.
    pub(super) completed_at: Option<i64>,
    pub(super) model: Option<String>,
}

impl ResponseState {
    /// Nothing of it is there yet.
    pub(super) fn started(status: &'static str) -> Self {
        Self {
            status,
            output: Vec::new(),
            usage: None,
            error: None,
            incomplete_reason: None,
            completed_at: None,
            model: None,
        }
    }

    /// The model stopped by itself.
    pub(super) fn finished(
        reason: FinishReason,
        output: Vec<Value>,
        model: Option<String>,
        usage: Option<Usage>,
    ) -> Self {
        let incomplete = match reason {
            FinishReason::Length => Some("max_output_tokens"),
            FinishReason::ContentFilter => Some("content_filter"),
            _ => None,
        };
        let status = if incomplete.is_some() { "incomplete" } else { "completed" };
        Self { output, usage, incomplete_reason: incomplete, model, ..Self::started(status) }
    }

    /// Somebody stopped it, or its server went.
    pub(super) fn stopped(output: Vec<Value>) -> Self {
        Self { output, ..Self::started("cancelled") }
    }

    pub(super) fn failed(error: &Error, output: Vec<Value>) -> Self {
        let code = match error.kind {
            ErrorKind::ContextTooLong => "invalid_prompt",
            ErrorKind::RateLimited | ErrorKind::QuotaExceeded => "rate_limit_exceeded",
            _ => "server_error",
        };
        let error = json!({"code": code, "message": error.message});
        Self { output, error: Some(error), ..Self::started("failed") }
    }

    /// Nothing of it is left.
    pub(super) fn missing_reply() -> Self {
        let error = Error::new(ErrorKind::ProviderError, "the reply could not be stored");
        Self::failed(&error, Vec::new())
    }

    /// As its stored reply says.
    pub(super) fn from_reply(reply: &Message) -> Self {
        let told = match (reply_error(reply), reply.status) {
            (Some(error), _) => Self::failed(&error, Vec::new()),
            (None, Status::Interrupted) => Self::stopped(Vec::new()),
            (None, _) => {
                let reason = reply.finish_reason.unwrap_or(FinishReason::Other);
                Self::finished(reason, Vec::new(), None, None)
            }
        };
        let is_completed = told.status == "completed";
        Self {
            output: encode_output(reply, if is_completed { "completed" } else { "incomplete" }),
            completed_at: is_completed.then(|| reply.created_at.as_millis() / 1000),
            usage: reply.usage,
            model: reply.model.clone(),
            ..told
        }
    }

    /// The same, of a reply that nobody stores and that has just ended.
    pub(super) fn completed_now(self) -> Self {
        let is_completed = self.status == "completed";
        let completed_at = is_completed.then(|| clock::now().as_millis() / 1000);
        Self { completed_at, ..self }
    }
}

/// How a stored reply ended, as far as that is an error.
fn reply_error(reply: &Message) -> Option<Error> {
    match (reply.status, &reply.error) {
        (Status::Complete, _) | (Status::Interrupted, None) => None,
        (_, Some(error)) => {
            Some(Error::new(ErrorKind::from_code(&error.code), error.message.clone()))
        }
        (Status::Failed, None) => Some(Error::new(ErrorKind::ProviderError, "the reply failed")),
    }
}

/// What a stored reply says, as items; the last of them ended as the reply did.
fn encode_output(reply: &Message, status: &str) -> Vec<Value> {
    let text = Some(&reply.content).filter(|text| !text.is_empty());
    let calls = tool::parse_calls(&reply.parts);
    let ended = |is_last| if is_last { status } else { "completed" };
    let thought = reply.parts.reasoning().map(|thought| {
        let status = ended(text.is_none() && calls.is_empty());
        encode_reasoning(&item_id("rs", &reply.id, 0), &thought, status)
    });
    let text = text
        .map(|text| encode_message(&item_id("msg", &reply.id, 0), text, ended(calls.is_empty())));
    // Only whole ones are stored.
    let calls = calls.iter().enumerate().map(|(nth, ToolCall { id, name, input })| {
        encode_call(&item_id("fc", &reply.id, nth), id, name, input, "completed")
    });
    thought.into_iter().chain(text).chain(calls).collect()
}

/// The name of an item, the `nth` of its kind in a reply.
pub(super) fn item_id(kind: &str, reply: &MessageId, nth: usize) -> String {
    match (kind, nth) {
        // As the items of conversations are called.
        ("fc", nth) => format!("fc_{}_{reply}", nth + 1),
        (kind, 0) => format!("{kind}_{reply}"),
        (kind, nth) => format!("{kind}_{reply}_{nth}"),
    }
}

pub(super) fn encode_message(id: &str, text: &str, status: &str) -> Value {
    json!({
        "type": "message", "id": id, "role": "assistant", "status": status,
        "content": [encode_output_text(text)],
    })
}

fn encode_output_text(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

pub(super) fn encode_reasoning(id: &str, text: &str, status: &str) -> Value {
    let summary = json!([{"type": "summary_text", "text": text}]);
    json!({"type": "reasoning", "id": id, "status": status, "summary": summary})
}

/// A call that is whole has arguments.
pub(super) fn encode_call(
    id: &str,
    call_id: &str,
    name: &str,
    arguments: &str,
    status: &str,
) -> Value {
    let is_bare = status == "completed" && arguments.trim().is_empty();
    json!({
        "type": "function_call", "id": id, "call_id": call_id, "name": name, "status": status,
        "arguments": if is_bare { "{}" } else { arguments },
    })
}

fn encode_usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}
