//! `/api/chat/:sessionId/…`: a reply joined, stopped, made again.

use super::Api;
use super::body::{OptionalJson, parse};
use super::chat::{WhenBusy, message_id};
use super::envelope::{Answer, Envelope, Failure, ok};
use super::extract::{Caller, NoQuery, SessionPath, idempotency};
use super::gate::Asked;
use super::query::Query;
use super::sse;
use crate::chat::{StreamCursor, TurnIntent, TurnRequest};
use crate::domain::TurnId;
use crate::domain::memory::MemoryOptions;
use crate::domain::session::SessionSettings;
use crate::json::optional_object;
use crate::store::SessionTarget;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Join the running reply: the same bytes as its first reader got, comments aside, from the first
/// frame or behind `Last-Event-ID`. When nothing runs, the rest of a turn that ended less than a
/// minute ago, for a cursor inside of it.
#[utoipa::path(
    get, path = "/api/chat/{sessionId}/stream", tag = "chat",
    params(
        ("sessionId" = String, Path),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last frame that was read; an unknown one means from the start"),
        ("lastEventId" = Option<String>, Query, description = "The same, for clients that cannot set the header, which wins"),
    ),
    responses(
        (status = 200, description = "As of `POST /api/chat`", content_type = "text/event-stream", body = String),
        (status = 204, description = "Nothing is running, and nothing is left to read"),
        (status = "default", body = Failure),
    )
)]
pub(super) async fn join(
    State(api): State<Api>,
    Caller(who): Caller,
    SessionPath(session): SessionPath,
    headers: HeaderMap,
    mut query: Query,
) -> Answer<Response> {
    let given = query.text("lastEventId");
    query.finish()?;
    let header = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let cursor = header.or(given).and_then(|id| StreamCursor::parse(&id));
    Ok(match api.chat.join_turn(&who, &session, cursor.as_ref()).await? {
        Some(reader) => sse::stream(reader, api.heartbeat),
        None => StatusCode::NO_CONTENT.into_response(),
    })
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

/// Stop the running reply, and drop the messages that wait for it. What it said so far is kept as
/// `interrupted`.
#[utoipa::path(
    post, path = "/api/chat/{sessionId}/stop", tag = "chat",
    params(("sessionId" = String, Path)),
    request_body(content = Option<StopBody>),
    responses((status = 200, body = Envelope<Stopped>), (status = "default", body = Failure))
)]
pub(super) async fn stop(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    SessionPath(session): SessionPath,
    OptionalJson(bytes): OptionalJson,
) -> Answer<Json<Envelope<Stopped>>> {
    let body: StopBody = bytes.as_deref().map(parse).transpose()?.unwrap_or_default();
    let turn = body.turn_id.map(|id| TurnId::parse("turnId", &id)).transpose()?;
    let stopped = api.chat.cancel_turns(&who, &session, turn.as_ref()).await?;
    let message = if stopped { "Reply stopped successfully" } else { "There was nothing to stop" };
    Ok(ok(message, Stopped { stopped }))
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
    #[serde(deserialize_with = "optional_object")]
    memory: Option<MemoryOptions>,
    on_busy: WhenBusy,
}

/// Make a reply again: the new one becomes a sibling of the old one.
#[utoipa::path(
    post, path = "/api/chat/{sessionId}/regenerate", tag = "chat",
    params(
        ("sessionId" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "A repetition joins the turn or gives its reply, for 24 hours"),
    ),
    request_body(content = Option<RegenerateBody>),
    responses(
        (status = 200, description = "As of `POST /api/chat`", content_type = "text/event-stream", body = String),
        (status = "default", body = Failure),
    )
)]
pub(super) async fn regenerate(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    Asked(standing): Asked,
    SessionPath(session): SessionPath,
    headers: HeaderMap,
    OptionalJson(bytes): OptionalJson,
) -> Answer<Response> {
    let body: RegenerateBody = bytes.as_deref().map(parse).transpose()?.unwrap_or_default();
    let said = [session.as_str().as_bytes(), bytes.as_deref().unwrap_or_default()].concat();
    let settings = SessionSettings {
        model: body.model,
        system_prompt: body.system_prompt,
        temperature: body.temperature,
        top_p: body.top_p,
        max_output_tokens: body.max_output_tokens,
        memory: body.memory.unwrap_or_default(),
        ..SessionSettings::default()
    }
    .validate(api.limits.message)?;
    let turn = TurnRequest {
        principal: who,
        session: SessionTarget::Existing(session),
        project_id: None,
        preceding: Vec::new(),
        intent: TurnIntent::Regenerate { reply_id: message_id(body.message_id)? },
        settings,
        on_busy: body.on_busy.into(),
        idempotency_key: idempotency(&headers, "POST /api/chat/:id/regenerate", &said)?,
        caller_status: standing,
    };
    Ok(sse::stream(api.chat.start_turn(turn).await?, api.heartbeat))
}
