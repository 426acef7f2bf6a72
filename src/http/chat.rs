//! `POST /api/chat`: a message in, the streamed reply out.

use super::ApiState;
use super::auth_middleware::{TurnAdmission, audit_session};
use super::body::{RawChatBody, parse_json};
use super::envelope::{ApiResult, ErrorResponse};
use super::extract::{CurrentUser, NoQueryParams, read_idempotency_key};
use super::messages::parse_parent;
use super::{sse, ui_message};
use crate::chat::{TurnIntent, TurnRequest};
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
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use utoipa::ToSchema;

/// Longer bodies are read on a thread that may block: useChat sends its whole history.
const INLINE_PARSE_LIMIT: usize = 256 << 10;

/// A turn, in either of two shapes: plain (`sessionId`, `message` as text) or as the AI SDK's
/// `useChat` sends it (`id`, `messages` or `message` as UIMessages).
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChatRequest<'a> {
    /// Plain: the session; without it one is created.
    session_id: Option<String>,
    /// Plain: the text. AI SDK: the last UIMessage alone.
    #[serde(borrow, default)]
    #[schema(value_type = Object)]
    message: Option<&'a RawValue>,
    /// Plain: attachments.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Vec<Object>>)]
    parts: Option<&'a RawValue>,
    /// AI SDK: the session, created if there is none.
    id: Option<String>,
    /// AI SDK: the history, of which only the last message is looked at.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<LastElement<'a>>,
    #[serde(default)]
    trigger: ChatTrigger,
    /// AI SDK: the message to edit or the reply to make again.
    message_id: Option<String>,
    /// Plain: the message's name, by which a repetition is known.
    client_message_id: Option<String>,
    /// The message that this one follows; null makes it a root, left out it follows the newest.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>)]
    parent_id: Option<Option<String>>,
    /// What to do while a reply is running.
    #[serde(default)]
    on_busy: BusyAction,
    /// The project of a session that is created.
    project_id: Option<String>,
    model: Option<String>,
    system_prompt: Option<String>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_output_tokens: Option<u32>,
    #[serde(default, deserialize_with = "deserialize_optional_object")]
    memory: Option<MemoryOptions>,
    /// Functions that the model may call, as Chat Completions has them. The client carries them out.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<&'a RawValue>,
    /// `auto`, `none`, `required` or one of the functions, as Chat Completions has it.
    #[serde(borrow, default)]
    #[schema(value_type = Object)]
    tool_choice: Option<&'a RawValue>,
    /// The form of the reply, as Chat Completions' `response_format` has it.
    #[serde(borrow, default)]
    #[schema(value_type = Object)]
    response_format: Option<&'a RawValue>,
}

/// What a turn is for.
#[derive(Clone, Copy, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum ChatTrigger {
    /// A new message.
    #[default]
    SubmitMessage,
    /// Another reply to an earlier one.
    RegenerateMessage,
}

/// What to do while a reply is running.
#[derive(Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BusyAction {
    /// Refuse with 409.
    #[default]
    Reject,
    /// Wait, safely, until it ends: at most 8 do. The response streams when its turn comes.
    Queue,
    /// Stop it, keep what it said, then answer.
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

/// The last element of a list; the others are passed over without being kept.
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

/// Send a message and stream the reply, in the AI SDK's UI message stream protocol. The stream
/// opens once the message is durable; whatever the provider does afterwards is an `error` frame.
#[utoipa::path(
    post, path = "/api/chat", tag = "chat", request_body = ChatRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition joins the turn or gives its reply, for 24 hours; so does a repeated clientMessageId")),
    responses(
        (status = 200, description = "Frames `id: <turnId>:<n>`, `data: <json>`, the last `data: [DONE]`", content_type = "text/event-stream", body = String),
        (status = 409, description = "A reply is running: `details {turnId, messageId}`, header `x-should-retry: false`", body = ErrorResponse),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn send_message(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    TurnAdmission(standing): TurnAdmission,
    headers: HeaderMap,
    RawChatBody(bytes): RawChatBody,
) -> ApiResult<Response> {
    let key = read_idempotency_key(&headers, "POST /api/chat", &bytes)?;
    let turn = if bytes.len() <= INLINE_PARSE_LIMIT {
        build_turn_request(&api, who, parse_json(&bytes)?)?
    } else {
        let api = api.clone();
        let read =
            tokio::task::spawn_blocking(move || build_turn_request(&api, who, parse_json(&bytes)?));
        read.await.map_err(Error::internal)??
    };
    audit_session(&turn.principal, "/api/chat", turn.session.id());
    let turn = TurnRequest { idempotency_key: key, caller_status: standing, ..turn };
    Ok(sse::stream_turn_reply(api.chat.start_turn(turn).await?, api.heartbeat))
}

fn build_turn_request(
    api: &ApiState,
    who: Principal,
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
    let is_ai_sdk = body.messages.is_some()
        || body.message.is_some_and(|message| message.get().starts_with('{'));
    let (session, wish) =
        if is_ai_sdk { parse_ai_sdk_request(api, body)? } else { parse_plain_request(api, body)? };
    let (idempotency, standing) = Default::default();
    let earlier = Vec::new();
    Ok(TurnRequest {
        principal: who,
        session,
        project_id,
        preceding: earlier,
        intent: wish,
        settings,
        on_busy,
        idempotency_key: idempotency,
        caller_status: standing,
    })
}

/// What goes on to the provider in its own words.
fn collect_extra_params(body: &ChatRequest<'_>) -> Result<ExtraParams> {
    let fields = [
        ("tools", body.tools),
        ("tool_choice", body.tool_choice),
        ("response_format", body.response_format),
    ];
    check_function_tools("tools", body.tools)?;
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let given = given.filter(|(_, value)| value.get() != "null");
    Ok(ExtraParams::new(given.map(|(name, value)| (name, value.to_owned())).collect()))
}

/// `{"sessionId"?, "message": "text", "parts"?, …}`
fn parse_plain_request(
    api: &ApiState,
    body: ChatRequest<'_>,
) -> Result<(SessionTarget, TurnIntent)> {
    let session = match (body.session_id, body.id) {
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
    let wants_text =
        |_| Error::invalid_field("message", "must be a string, or an AI SDK UIMessage");
    let text: String = serde_json::from_str(message.get()).map_err(wants_text)?;
    let parts = body
        .parts
        .map(|parts| MessageParts::parse("parts", parts))
        .transpose()?
        .unwrap_or_default();
    let wish = TurnIntent::Send {
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
    Ok((session, wish))
}

/// `{"id": session, "messages": [UIMessage…] or "message": UIMessage, "trigger", "messageId"?, …}`
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
        // Without an id it is the reply to the last message of the array.
        let reply = parse_message_id(body.message_id)?.or(last.map(|last| last.id));
        return Ok((session, TurnIntent::Regenerate { reply_id: reply }));
    }
    let last =
        last.ok_or_else(|| Error::invalid_field("messages", "must hold at least one message"))?;
    if last.role == Role::Assistant && !last.results.is_empty() {
        let (results, limit) = (last.results, api.size_limits.message);
        return Ok((
            session,
            TurnIntent::SubmitToolResults { results, reply_id: None, max_bytes: limit },
        ));
    }
    if last.role != Role::User {
        let wants =
            "must end with a message of the role user, or with a reply whose calls have outputs";
        return Err(Error::invalid_field(field, wants));
    }
    let wish = TurnIntent::Send {
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
        on_duplicate_id: DuplicateIdPolicy::Edit,
    };
    Ok((session, wish))
}

pub(super) fn parse_message_id(id: Option<String>) -> Result<Option<MessageId>> {
    Ok(id.map(|id| MessageId::parse("messageId", &id)).transpose()?)
}
