//! The response object, the stored part of its request, and its state.
//! Shape: <https://platform.openai.com/docs/api-reference/responses/object>.

use crate::chat::ReplyStream;
use crate::clock;
use crate::domain::message::{FinishReason, Status};
use crate::domain::principal::AccessLevel;
use crate::domain::tool::{self, ToolCall};
use crate::domain::{Message, Principal, SessionId, Usage};
use crate::error::{Error, ErrorKind, Result};
use crate::http::ApiState;
use crate::http::v1::encrypted_reasoning::{ENCRYPTED_CONTENT, encode_reply_origins};
use crate::http::v1::ids::{ItemType, format_item_id, format_response_id};
use crate::store::StoredResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The part of a request that is stored with its response, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredRequest {
    /// The parameters that the response repeats, by their names.
    pub(super) echo: Map<String, Value>,
    /// Number of input messages.
    pub(super) inputs: usize,
    /// Whether the session was created for this response.
    pub(super) is_own_session: bool,
    pub(super) is_background: bool,
    pub(super) is_stream: bool,
    /// Whether reasoning items have `encrypted_content`.
    #[serde(default)]
    pub(super) includes_encrypted: bool,
}

impl StoredRequest {
    pub(super) fn from_stored(stored: &StoredResponse) -> Result<Self> {
        serde_json::from_str(&stored.request).map_err(Error::store_unavailable)
    }

    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(Error::internal)
    }
}

/// The fields of a response that do not depend on its state.
pub(super) struct ResponseHeader {
    id: String,
    /// Unix time in seconds.
    created_at: i64,
    echo: Map<String, Value>,
    pub(super) includes_encrypted: bool,
}

impl ResponseHeader {
    /// The header of a stored response.
    pub(super) fn from_stored(stored: &StoredResponse) -> Result<Self> {
        let StoredRequest { echo, includes_encrypted, .. } = StoredRequest::from_stored(stored)?;
        Ok(Self {
            id: format_response_id(stored.turn_id.as_str()),
            created_at: stored.created_at.as_millis() / 1000,
            echo,
            includes_encrypted,
        })
    }

    /// The header of a response that is not stored.
    pub(super) fn new(reply: &ReplyStream, request: &StoredRequest) -> Self {
        let name = reply.turn_id.as_ref().map_or(reply.reply_id.as_str(), |turn| turn.as_str());
        Self {
            id: format_response_id(name),
            created_at: clock::now().as_millis() / 1000,
            echo: request.echo.clone(),
            includes_encrypted: request.includes_encrypted,
        }
    }

    /// Encodes the response object in the given state.
    pub(super) fn to_response_json(&self, state: ResponseState) -> Value {
        let ResponseState {
            status,
            output,
            usage,
            error,
            incomplete_reason: incomplete,
            completed_at,
            model,
        } = state;
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
            ("usage".to_owned(), json!(usage.map(encode_response_usage))),
        ]);
        // The model that answered may differ from the requested one, for instance by its version.
        if let Some(model) = model {
            response.insert("model".to_owned(), model.into());
        }
        Value::Object(response)
    }
}

/// The fields of a response that depend on its state.
pub(super) struct ResponseState {
    pub(super) status: &'static str,
    pub(super) output: Vec<Value>,
    pub(super) usage: Option<Usage>,
    pub(super) error: Option<Value>,
    pub(super) incomplete_reason: Option<&'static str>,
    /// Unix time in seconds.
    pub(super) completed_at: Option<i64>,
    pub(super) model: Option<String>,
}

impl ResponseState {
    /// A response without output so far.
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

    /// The model finished the reply. It is `incomplete` if a limit or a filter cut it.
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

    /// The reply was cancelled by a user or interrupted by a shutdown.
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

    /// The turn has ended, but its reply could not be stored.
    pub(super) fn missing_reply() -> Self {
        let error = Error::new(ErrorKind::ProviderError, "the reply could not be stored");
        Self::failed(&error, Vec::new())
    }

    /// The state of a response whose reply is stored.
    pub(super) fn from_reply(reply: &Message, includes_encrypted: bool) -> Self {
        let state = match (reply_error(reply), reply.status) {
            (Some(error), _) => Self::failed(&error, Vec::new()),
            (None, Status::Interrupted) => Self::stopped(Vec::new()),
            (None, _) => {
                let reason = reply.finish_reason.unwrap_or(FinishReason::Other);
                Self::finished(reason, Vec::new(), None, None)
            }
        };
        // OpenAI sets the time of completion for completed responses only.
        let is_completed = state.status == "completed";
        Self {
            output: encode_output(
                reply,
                if is_completed { "completed" } else { "incomplete" },
                includes_encrypted.then(|| encode_reply_origins(reply)),
            ),
            completed_at: is_completed.then(|| reply.created_at.as_millis() / 1000),
            usage: reply.usage,
            model: reply.model.clone(),
            ..state
        }
    }

    /// Sets the time of completion to now, for a reply that is not stored.
    pub(super) fn completed_now(self) -> Self {
        let is_completed = self.status == "completed";
        let completed_at = is_completed.then(|| clock::now().as_millis() / 1000);
        Self { completed_at, ..self }
    }
}

/// Loads the response object in its current state.
pub(super) async fn load_response_object(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    stored: &StoredResponse,
) -> Result<Value> {
    let header = ResponseHeader::from_stored(stored)?;
    // The running turn is checked before the reply is read: a turn ends in the same transaction
    // that stores its reply, so the reply of an inactive turn has been stored.
    let active =
        api.store.get_session(principal, session, AccessLevel::Participant).await?.active_turn;
    if active.is_some_and(|active| active.turn_id == stored.turn_id) {
        return Ok(header.to_response_json(ResponseState::started("in_progress")));
    }
    Ok(match api.store.get_message(principal, session, &stored.reply_id).await {
        Ok(reply) => {
            let state = ResponseState::from_reply(&reply, header.includes_encrypted);
            header.to_response_json(state)
        }
        // The reply could not be stored when the turn ended.
        Err(error) if error.kind == ErrorKind::MessageNotFound => {
            header.to_response_json(ResponseState::missing_reply())
        }
        Err(error) => return Err(error),
    })
}

/// The error that a stored reply ended with.
fn reply_error(reply: &Message) -> Option<Error> {
    match (reply.status, &reply.error) {
        (Status::Complete, _) | (Status::Interrupted, None) => None,
        (_, Some(error)) => {
            Some(Error::new(ErrorKind::from_code(&error.code), error.message.clone()))
        }
        (Status::Failed, None) => Some(Error::new(ErrorKind::ProviderError, "the reply failed")),
    }
}

/// Encodes a stored reply as output items. `status` is that of the last item. `encrypted` is the
/// encrypted content of its reasoning, if asked for.
fn encode_output(reply: &Message, status: &str, encrypted: Option<Option<String>>) -> Vec<Value> {
    let text = Some(&reply.content).filter(|text| !text.is_empty());
    let calls = tool::parse_calls(&reply.parts);
    // A reply that was cut off was cut in its last item; the others had ended before.
    let item_status = |is_last| if is_last { status } else { "completed" };
    let reasoning = reply.parts.reasoning().map(|reasoning| {
        let status = item_status(text.is_none() && calls.is_empty());
        encode_reasoning(&format_item_id(ItemType::Reasoning, &reply.id, 0), &reasoning, status)
    });
    let text = text.map(|text| {
        encode_message(
            &format_item_id(ItemType::Message, &reply.id, 0),
            text,
            item_status(calls.is_empty()),
        )
    });
    // Calls with incomplete arguments are not stored.
    let calls = calls.iter().enumerate().map(|(nth, ToolCall { id, name, input, .. })| {
        encode_call(&format_item_id(ItemType::Call, &reply.id, nth), id, name, input, "completed")
    });
    let mut items: Vec<Value> = reasoning.into_iter().chain(text).chain(calls).collect();
    if let Some(content) = encrypted {
        let is_reasoning = |item: &&mut Value| item["type"] == "reasoning";
        match (items.iter_mut().find(is_reasoning), content) {
            (Some(item), content) => item[ENCRYPTED_CONTENT] = content.into(),
            (None, Some(content)) => {
                let id = format_item_id(ItemType::Reasoning, &reply.id, 0);
                items.push(encode_encrypted_reasoning(&id, &content));
            }
            (None, None) => {}
        }
    }
    items
}

/// A reasoning item for data without reasoning that can be shown.
pub(super) fn encode_encrypted_reasoning(id: &str, content: &str) -> Value {
    json!({
        "type": "reasoning", "id": id, "status": "completed", "summary": [],
        ENCRYPTED_CONTENT: content,
    })
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

pub(super) fn encode_call(
    id: &str,
    call_id: &str,
    name: &str,
    arguments: &str,
    status: &str,
) -> Value {
    // Some models write no arguments for a function without parameters; clients parse them as JSON.
    let is_bare = status == "completed" && arguments.trim().is_empty();
    json!({
        "type": "function_call", "id": id, "call_id": call_id, "name": name, "status": status,
        "arguments": if is_bare { "{}" } else { arguments },
    })
}

fn encode_response_usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}
