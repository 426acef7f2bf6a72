//! `/api/chat`: a message in, the streamed reply out; and its stop.

use super::Api;
use super::body::{ChatBytes, OptionalJsonBody, parse, present};
use super::envelope::{Answer, Envelope, Failure, ok};
use super::extract::{Caller, SessionPath};
use super::messages::parent;
use super::query::Query;
use super::{sse, ui};
use crate::chat::{NewTurn, Wish};
use crate::domain::memory::MemoryOptions;
use crate::domain::message::{Body, Parts};
use crate::domain::session::Settings;
use crate::domain::{MessageId, MessageType, Principal, ProjectId, Role, SessionId, TurnId};
use crate::error::{Error, Result};
use crate::store::{OnKnownId, SessionTarget};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use utoipa::ToSchema;

/// Longer bodies are read on a thread that may block: useChat sends its whole history.
const SHORT_BODY: usize = 256 << 10;

/// A turn, in either of two shapes: plain (`sessionId`, `message` as text) or as the AI SDK's
/// `useChat` sends it (`id`, `messages` or `message` as UIMessages).
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChatBody<'a> {
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
    messages: Option<LastOf<'a>>,
    #[serde(default)]
    trigger: Trigger,
    /// AI SDK: the message to edit or the reply to make again.
    message_id: Option<String>,
    /// Plain: the message's name, by which a repetition is known.
    client_message_id: Option<String>,
    /// The message that this one follows; null makes it a root, left out it follows the newest.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    parent_id: Option<Option<String>>,
    /// What to do while a reply is running.
    #[serde(default)]
    on_busy: OnBusy,
    /// The project of a session that is created.
    project_id: Option<String>,
    model: Option<String>,
    system_prompt: Option<String>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_output_tokens: Option<u32>,
    memory: Option<MemoryOptions>,
}

/// What a turn is for.
#[derive(Clone, Copy, Default, PartialEq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum Trigger {
    /// A new message.
    #[default]
    SubmitMessage,
    /// Another reply to an earlier one.
    RegenerateMessage,
}

/// What to do while a reply is running.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum OnBusy {
    /// Refuse with 409.
    #[default]
    Reject,
}

/// The last element of a list; the others are passed over without being kept.
struct LastOf<'a>(Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for LastOf<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Last;
        impl<'de> Visitor<'de> for Last {
            type Value = LastOf<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of UIMessages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut last = None;
                while let Some(element) = list.next_element()? {
                    last = Some(element);
                }
                Ok(LastOf(last))
            }
        }
        deserializer.deserialize_seq(Last)
    }
}

/// Send a message and stream the reply, in the AI SDK's UI message stream protocol. The stream
/// opens once the message is durable; whatever the provider does afterwards is an `error` frame.
#[utoipa::path(
    post, path = "/api/chat", tag = "chat", request_body = ChatBody,
    responses(
        (status = 200, description = "Frames `id: <turnId>:<n>`, `data: <json>`, the last `data: [DONE]`", content_type = "text/event-stream", body = String),
        (status = 409, description = "A reply is running: `details {turnId, messageId}`, header `x-should-retry: false`", body = Failure),
        (status = "default", body = Failure),
    )
)]
pub(super) async fn chat(
    State(api): State<Api>,
    Caller(who): Caller,
    ChatBytes(bytes): ChatBytes,
) -> Answer<Response> {
    let turn = if bytes.len() <= SHORT_BODY {
        new_turn(&api, who, parse(&bytes)?)?
    } else {
        let api = api.clone();
        let read = tokio::task::spawn_blocking(move || new_turn(&api, who, parse(&bytes)?));
        read.await.map_err(Error::internal)??
    };
    Ok(sse::stream(api.chat.start_turn(turn).await?, api.heartbeat))
}

fn new_turn(api: &Api, who: Principal, body: ChatBody<'_>) -> Result<NewTurn> {
    let OnBusy::Reject = body.on_busy;
    let settings = Settings {
        model: body.model.clone(),
        system_prompt: body.system_prompt.clone(),
        temperature: body.temperature,
        top_p: body.top_p,
        max_output_tokens: body.max_output_tokens,
        memory: body.memory.unwrap_or_default(),
    }
    .checked(api.limits.message)?;
    let project_id =
        body.project_id.as_deref().map(|id| ProjectId::parse("projectId", id)).transpose()?;
    let is_ai_sdk = body.messages.is_some()
        || body.message.is_some_and(|message| message.get().starts_with('{'));
    let (session, wish) = if is_ai_sdk { ai_sdk(api, body)? } else { plain(api, body)? };
    Ok(NewTurn { who, session, project_id, wish, settings })
}

/// `{"sessionId"?, "message": "text", "parts"?, …}`
fn plain(api: &Api, body: ChatBody<'_>) -> Result<(SessionTarget, Wish)> {
    let session = match body.session_id {
        Some(id) => SessionTarget::Existing(SessionId::parse("sessionId", &id)?),
        None => SessionTarget::New(SessionId::generate()),
    };
    if body.trigger == Trigger::RegenerateMessage {
        return Ok((session, Wish::Again { reply: message_id(body.message_id)? }));
    }
    let message = body.message.ok_or_else(|| Error::invalid("message", "is missing"))?;
    let wants_text = |_| Error::invalid("message", "must be a string, or an AI SDK UIMessage");
    let text: String = serde_json::from_str(message.get()).map_err(wants_text)?;
    let parts =
        body.parts.map(|parts| Parts::parse("parts", parts)).transpose()?.unwrap_or_default();
    let wish = Wish::Say {
        body: Body::parse("message", text, parts, MessageType::Text, api.limits.message)?,
        client_message_id: body
            .client_message_id
            .map(|id| MessageId::parse("clientMessageId", &id))
            .transpose()?,
        parent: parent(body.parent_id)?,
        on_known: OnKnownId::Refuse,
    };
    Ok((session, wish))
}

/// `{"id": session, "messages": [UIMessage…] or "message": UIMessage, "trigger", "messageId"?, …}`
fn ai_sdk(api: &Api, body: ChatBody<'_>) -> Result<(SessionTarget, Wish)> {
    let id = body.id.or(body.session_id).ok_or_else(|| Error::invalid("id", "is missing"))?;
    let session = SessionTarget::Ensure(SessionId::parse("id", &id)?);
    let last = match (body.message, body.messages) {
        (Some(message), _) => Some(ui::read("message", message)?),
        (None, Some(LastOf(last))) => last.map(|last| ui::read("messages", last)).transpose()?,
        (None, None) => None,
    };
    if body.trigger == Trigger::RegenerateMessage {
        // Without an id it is the reply to the last message of the array.
        let reply = message_id(body.message_id)?.or(last.map(|last| last.id));
        return Ok((session, Wish::Again { reply }));
    }
    let last = last.ok_or_else(|| Error::invalid("messages", "must hold at least one message"))?;
    if last.role != Role::User {
        return Err(Error::invalid("messages", "must end with a message of the role user"));
    }
    let wish = Wish::Say {
        body: Body::parse(
            "messages",
            last.content,
            last.parts,
            MessageType::Text,
            api.limits.message,
        )?,
        client_message_id: Some(last.id),
        parent: parent(body.parent_id)?,
        on_known: OnKnownId::Edit,
    };
    Ok((session, wish))
}

fn message_id(id: Option<String>) -> Result<Option<MessageId>> {
    Ok(id.map(|id| MessageId::parse("messageId", &id)).transpose()?)
}

/// Which turn to stop.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StopBody {
    /// Only this turn; a stale one stops nothing.
    turn_id: Option<String>,
}

/// Whether a turn was stopped.
#[derive(Serialize, ToSchema)]
pub(super) struct Stopped {
    stopped: bool,
}

/// Stop the running reply. What it said so far is kept as `interrupted`.
#[utoipa::path(
    post, path = "/api/chat/{sessionId}/stop", tag = "chat",
    params(("sessionId" = String, Path)),
    request_body(content = Option<StopBody>),
    responses((status = 200, body = Envelope<Stopped>), (status = "default", body = Failure))
)]
pub(super) async fn stop(
    State(api): State<Api>,
    Caller(who): Caller,
    SessionPath(session): SessionPath,
    OptionalJsonBody(body): OptionalJsonBody<StopBody>,
) -> Answer<Json<Envelope<Stopped>>> {
    let turn = body.turn_id.map(|id| TurnId::parse("turnId", &id)).transpose()?;
    let stopped = api.chat.stop(&who, &session, turn.as_ref()).await?;
    Ok(ok(
        if stopped { "Reply stopped successfully" } else { "No reply is running" },
        Stopped { stopped },
    ))
}

/// Which reply to make again.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RegenerateBody {
    /// The reply; the last one if left out.
    message_id: Option<String>,
    model: Option<String>,
    system_prompt: Option<String>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_output_tokens: Option<u32>,
    memory: MemoryOptions,
}

/// Make a reply again: the new one becomes a sibling of the old one.
#[utoipa::path(
    post, path = "/api/chat/{sessionId}/regenerate", tag = "chat",
    params(("sessionId" = String, Path)),
    request_body(content = Option<RegenerateBody>),
    responses(
        (status = 200, description = "As of `POST /api/chat`", content_type = "text/event-stream", body = String),
        (status = "default", body = Failure),
    )
)]
pub(super) async fn regenerate(
    State(api): State<Api>,
    Caller(who): Caller,
    SessionPath(session): SessionPath,
    query: Query,
    OptionalJsonBody(body): OptionalJsonBody<RegenerateBody>,
) -> Answer<Response> {
    query.finish()?;
    let settings = Settings {
        model: body.model,
        system_prompt: body.system_prompt,
        temperature: body.temperature,
        top_p: body.top_p,
        max_output_tokens: body.max_output_tokens,
        memory: body.memory,
    }
    .checked(api.limits.message)?;
    let turn = NewTurn {
        who,
        session: SessionTarget::Existing(session),
        project_id: None,
        wish: Wish::Again { reply: message_id(body.message_id)? },
        settings,
    };
    Ok(sse::stream(api.chat.start_turn(turn).await?, api.heartbeat))
}
