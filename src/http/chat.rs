//! `POST /api/chat`: takes a message and streams the reply.

use super::ApiState;
use super::auth_middleware::{CurrentUser, SessionAudit, TurnAdmission};
use super::body::{RawChatBody, check_raw_field, parse_large_body, parse_unbounded_json};
use super::envelope::{ApiResult, ErrorResponse};
use super::idempotency::{IdempotencyScope, read_idempotency_key};
use super::messages::parse_parent;
use super::{sse, ui_message};
use crate::chat::{CallerStatus, TurnIntent, TurnRequest};
use crate::domain::content::MessageBody;
use crate::domain::extra_params::{ExtraParams, check_function_tools};
use crate::domain::memory::MemoryOptions;
use crate::domain::message::MessageParts;
use crate::domain::session::SessionSettings;
use crate::domain::{MessageId, MessageType, Principal, ProjectId, Role, SessionId};
use crate::error::{Error, Result};
use crate::json::{deserialize_optional_object, deserialize_present};
use crate::store::{DuplicateIdPolicy, OnBusy, SessionTarget};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use utoipa::ToSchema;

/// A chat message, in one of two forms: plain (`sessionId` and `message` as text), or as the AI
/// SDK's `useChat` sends it (`id`, and `messages` or `message` as UIMessages).
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChatRequest<'a> {
    /// Plain form: an existing session. Without it a session is created.
    session_id: Option<String>,
    /// Plain form: the text. AI SDK form: the new UIMessage, instead of `messages`.
    #[serde(borrow, default)]
    #[schema(value_type = Object)]
    message: Option<&'a RawValue>,
    /// Plain form: attachments.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Vec<Object>>)]
    parts: Option<&'a RawValue>,
    /// AI SDK form: the session, created if it does not exist.
    id: Option<String>,
    /// AI SDK form: the history. Only its last message is used; the rest is taken from the session.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<LastElement<'a>>,
    /// Whether to send a new message or to regenerate a reply.
    #[serde(default)]
    trigger: ChatTrigger,
    /// The reply to regenerate with `trigger: "regenerate-message"`; ignored otherwise.
    message_id: Option<String>,
    /// Plain form: the client's own ID of the message. A request with the same ID is a retry.
    client_message_id: Option<String>,
    /// The message to reply to (default: the session's head). `null` starts a branch at the root.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>)]
    parent_id: Option<Option<String>>,
    /// The action to take if a reply is running in the session.
    #[serde(default)]
    on_busy: BusyAction,
    /// The project of the session, if the request creates one.
    project_id: Option<String>,
    /// Overrides the session's model for this turn.
    model: Option<String>,
    /// Overrides the session's system prompt for this turn.
    system_prompt: Option<String>,
    /// From 0 to 2. Overrides the session's setting for this turn.
    temperature: Option<f64>,
    /// From 0 to 1. Overrides the session's setting for this turn.
    top_p: Option<f64>,
    /// At least 1. Overrides the session's setting for this turn.
    max_output_tokens: Option<u32>,
    /// Memory options for this turn; those left out keep the session's values.
    #[serde(default, deserialize_with = "deserialize_optional_object")]
    memory: Option<MemoryOptions>,
    /// Functions the model may call, in the format of Chat Completions. The client executes them.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<&'a RawValue>,
    /// `auto`, `none`, `required` or one function, in the format of Chat Completions.
    #[serde(borrow, default)]
    #[schema(value_type = Object)]
    tool_choice: Option<&'a RawValue>,
    /// The output format, as `response_format` of Chat Completions.
    #[serde(borrow, default)]
    #[schema(value_type = Object)]
    response_format: Option<&'a RawValue>,
}

/// The purpose of a chat request.
#[derive(Clone, Copy, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum ChatTrigger {
    /// Send a new message.
    #[default]
    SubmitMessage,
    /// Produce another reply to an earlier message.
    RegenerateMessage,
}

/// The action to take if a reply is running in the session.
#[derive(Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BusyAction {
    /// Refuse the request with 409 `session_busy`.
    #[default]
    Reject,
    /// Store the message in the session's queue (at most 8) and stream its reply when it runs.
    Queue,
    /// Stop the running reply, keep its text, then answer the message.
    Interrupt,
}

impl From<BusyAction> for OnBusy {
    fn from(when: BusyAction) -> Self {
        match when {
            BusyAction::Reject => Self::Reject,
            BusyAction::Queue => Self::Queue,
            BusyAction::Interrupt => Self::Interrupt,
        }
    }
}

/// The last element of a JSON array. The others are skipped without being stored.
struct LastElement<'a>(Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for LastElement<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LastElementVisitor;
        impl<'de> Visitor<'de> for LastElementVisitor {
            type Value = LastElement<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of UIMessages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut last = None;
                while let Some(element) = list.next_element()? {
                    last = Some(element);
                }
                Ok(LastElement(last))
            }
        }
        deserializer.deserialize_seq(LastElementVisitor)
    }
}

/// Send a message and stream the reply.
///
/// The stream uses the AI SDK's UI message stream protocol. It opens once the message is durable; a
/// provider failure after that is an `error` frame in the stream.
#[utoipa::path(
    post, path = "/api/chat", tag = "chat", request_body = ChatRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeated request joins the running turn or replays its reply, for 24 hours; so does a repeated clientMessageId")),
    responses(
        (status = 200, description = "SSE frames with `id: <turnId>:<n>` and `data: <json>`, ending with `data: [DONE]`", content_type = "text/event-stream", body = String),
        (status = 409, description = "A reply is running; `details` holds `{turnId, messageId}`, and the header `x-should-retry` is `false`", body = ErrorResponse),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn send_message(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    TurnAdmission(caller_status): TurnAdmission,
    audit: SessionAudit,
    headers: HeaderMap,
    RawChatBody(bytes): RawChatBody,
) -> ApiResult<Response> {
    // The fingerprint is taken of the raw bytes, before anything is parsed.
    let key = read_idempotency_key(&headers, IdempotencyScope::Chat, &bytes)?;
    let parser = api.clone();
    let parse =
        move |bytes: &Bytes| build_turn_request(&parser, principal, parse_unbounded_json(bytes)?);
    let turn = parse_large_body(bytes, parse).await?;
    audit.record(turn.session.id());
    let turn = TurnRequest { idempotency_key: key, caller_status, ..turn };
    Ok(sse::stream_turn_reply(api.chat.start_turn(turn).await?, api.heartbeat))
}

fn build_turn_request(
    api: &ApiState,
    principal: Principal,
    body: ChatRequest<'_>,
) -> Result<TurnRequest> {
    let on_busy = body.on_busy.into();
    let settings = SessionSettings {
        model: body.model.clone(),
        system_prompt: body.system_prompt.clone(),
        temperature: body.temperature,
        top_p: body.top_p,
        max_output_tokens: body.max_output_tokens,
        memory: body.memory.unwrap_or_default(),
        extra_params: collect_extra_params(&body)?,
    }
    .validate(api.size_limits.message)?;
    let project_id =
        body.project_id.as_deref().map(|id| ProjectId::parse("projectId", id)).transpose()?;
    // Both forms may send `message`: as a string it is the plain form, as an object a UIMessage.
    let is_ai_sdk = body.messages.is_some()
        || body.message.is_some_and(|message| message.get().starts_with('{'));
    let (session, intent) =
        if is_ai_sdk { parse_ai_sdk_request(api, body)? } else { parse_plain_request(api, body)? };
    Ok(TurnRequest {
        principal,
        session,
        project_id,
        preceding: Vec::new(),
        intent,
        settings,
        on_busy,
        // The handler sets these two: they come from headers and middleware, not from the body.
        idempotency_key: None,
        caller_status: CallerStatus::default(),
    })
}

/// Parameters that are passed to the provider unchanged.
fn collect_extra_params(body: &ChatRequest<'_>) -> Result<ExtraParams> {
    let fields = [
        ("tools", body.tools),
        ("tool_choice", body.tool_choice),
        ("response_format", body.response_format),
    ];
    for (name, value) in fields {
        value.map_or(Ok(()), |value| check_raw_field(name, value))?;
    }
    check_function_tools("tools", body.tools)?;
    let params = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    // Null means absent here, but a provider may refuse it.
    let params = params.filter(|(_, value)| value.get() != "null");
    Ok(ExtraParams::new(params.map(|(name, value)| (name, value.to_owned())).collect()))
}

/// Parses `{"sessionId"?, "message": "text", "parts"?, …}`.
fn parse_plain_request(
    api: &ApiState,
    body: ChatRequest<'_>,
) -> Result<(SessionTarget, TurnIntent)> {
    let session = match (body.session_id, body.id) {
        // `sessionId` must exist, so that a typo does not start a new conversation. `id` is the AI
        // SDK's name for an ID that the client makes up.
        (Some(id), _) => SessionTarget::Existing(SessionId::parse("sessionId", &id)?),
        (None, Some(id)) => SessionTarget::Ensure(SessionId::parse("id", &id)?),
        (None, None) => SessionTarget::New(SessionId::generate()),
    };
    if body.trigger == ChatTrigger::RegenerateMessage {
        return Ok((
            session,
            TurnIntent::Regenerate { reply_id: parse_message_id(body.message_id)? },
        ));
    }
    let message = body.message.ok_or_else(|| Error::invalid_field("message", "is missing"))?;
    let expected_text =
        |_| Error::invalid_field("message", "must be a string, or an AI SDK UIMessage");
    let text: String = serde_json::from_str(message.get()).map_err(expected_text)?;
    let parts = body
        .parts
        .map(|parts| MessageParts::parse("parts", parts))
        .transpose()?
        .unwrap_or_default();
    let intent = TurnIntent::Send {
        role: Role::User,
        body: MessageBody::parse(
            "message",
            text,
            parts,
            MessageType::Text,
            api.size_limits.message,
        )?,
        client_message_id: body
            .client_message_id
            .map(|id| MessageId::parse("clientMessageId", &id))
            .transpose()?,
        parent: parse_parent(body.parent_id)?,
        on_duplicate_id: DuplicateIdPolicy::Reject,
    };
    Ok((session, intent))
}

/// Parses `{"id", "messages": [UIMessage…] | "message": UIMessage, "trigger"?, "messageId"?, …}`,
/// where `id` is the session.
fn parse_ai_sdk_request(
    api: &ApiState,
    body: ChatRequest<'_>,
) -> Result<(SessionTarget, TurnIntent)> {
    let id = body.id.or(body.session_id).ok_or_else(|| Error::invalid_field("id", "is missing"))?;
    let session = SessionTarget::Ensure(SessionId::parse("id", &id)?);
    let (field, last) = match (body.message, body.messages) {
        (Some(message), _) => ("message", Some(message)),
        (None, Some(LastElement(last))) => ("messages", last),
        (None, None) => ("messages", None),
    };
    let last = last.map(|last| ui_message::parse_ui_message(field, last)).transpose()?;
    if body.trigger == ChatTrigger::RegenerateMessage {
        // Without `messageId`, the reply to the array's last message is regenerated: `useChat` cuts
        // the array before the reply.
        let reply_id = parse_message_id(body.message_id)?.or(last.map(|last| last.id));
        return Ok((session, TurnIntent::Regenerate { reply_id }));
    }
    let last =
        last.ok_or_else(|| Error::invalid_field("messages", "must hold at least one message"))?;
    // `useChat` returns tool outputs inside the assistant message that made the calls.
    if last.role == Role::Assistant && !last.results.is_empty() {
        let intent = TurnIntent::SubmitToolResults {
            results: last.results,
            reply_id: None,
            max_bytes: api.size_limits.message,
        };
        return Ok((session, intent));
    }
    if last.role != Role::User {
        let expected =
            "must end with a user message, or with an assistant message that has tool outputs";
        return Err(Error::invalid_field(field, expected));
    }
    let intent = TurnIntent::Send {
        role: Role::User,
        body: MessageBody::parse(
            field,
            last.content,
            last.parts,
            MessageType::Text,
            api.size_limits.message,
        )?,
        client_message_id: Some(last.id),
        parent: parse_parent(body.parent_id)?,
        // A known id with other content is an edit: `useChat` keeps the id of an edited message.
        on_duplicate_id: DuplicateIdPolicy::Edit,
    };
    Ok((session, intent))
}

pub(super) fn parse_message_id(id: Option<String>) -> Result<Option<MessageId>> {
    Ok(id.map(|id| MessageId::parse("messageId", &id)).transpose()?)
}
