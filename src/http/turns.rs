//! `/api/chat/:sessionId/…`: a reply joined, stopped, made again.

use super::ApiState;
use super::auth_middleware::TurnAdmission;
use super::body::{OptionalJsonBody, parse_json};
use super::chat::{BusyAction, parse_message_id};
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::{CurrentUser, NoQueryParams, SessionPath, read_idempotency_key};
use super::query::QueryParams;
use super::sse;
use crate::chat::{StreamCursor, TurnIntent, TurnRequest};
use crate::domain::TurnId;
use crate::domain::memory::MemoryOptions;
use crate::domain::session::SessionSettings;
use crate::json::deserialize_optional_object;
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
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn resume_reply(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    SessionPath(session): SessionPath,
    headers: HeaderMap,
    mut query: QueryParams,
) -> ApiResult<Response> {
    let given = query.take_text("lastEventId");
    query.finish()?;
    let header = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let cursor = header.or(given).and_then(|id| StreamCursor::parse(&id));
    Ok(match api.chat.join_turn(&who, &session, cursor.as_ref()).await? {
        Some(reader) => sse::stream_turn_reply(reader, api.heartbeat),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Which turn to stop.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StopReplyRequest {
    /// Only this turn; a stale one stops nothing.
    turn_id: Option<String>,
}

/// Whether a turn was stopped.
#[derive(Serialize, ToSchema)]
pub(super) struct StopReplyResponse {
    stopped: bool,
}

/// Stop the running reply, and drop the messages that wait for it. What it said so far is kept as
/// `interrupted`.
#[utoipa::path(
    post, path = "/api/chat/{sessionId}/stop", tag = "chat",
    params(("sessionId" = String, Path)),
    request_body(content = Option<StopReplyRequest>),
    responses((status = 200, body = Envelope<StopReplyResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn stop_reply(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    SessionPath(session): SessionPath,
    OptionalJsonBody(bytes): OptionalJsonBody,
) -> ApiResult<Json<Envelope<StopReplyResponse>>> {
    let body: StopReplyRequest = bytes.as_deref().map(parse_json).transpose()?.unwrap_or_default();
    let turn = body.turn_id.map(|id| TurnId::parse("turnId", &id)).transpose()?;
    let stopped = api.chat.cancel_turns(&who, &session, turn.as_ref()).await?;
    let message = if stopped { "Reply stopped successfully" } else { "There was nothing to stop" };
    Ok(ok_response(message, StopReplyResponse { stopped }))
}

/// Which reply to make again.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RegenerateReplyRequest {
    /// The reply; the last one if left out.
    message_id: Option<String>,
    model: Option<String>,
    system_prompt: Option<String>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_output_tokens: Option<u32>,
    #[serde(deserialize_with = "deserialize_optional_object")]
    memory: Option<MemoryOptions>,
    on_busy: BusyAction,
}

/// Make a reply again: the new one becomes a sibling of the old one.
#[utoipa::path(
    post, path = "/api/chat/{sessionId}/regenerate", tag = "chat",
    params(
        ("sessionId" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "A repetition joins the turn or gives its reply, for 24 hours"),
    ),
    request_body(content = Option<RegenerateReplyRequest>),
    responses(
        (status = 200, description = "As of `POST /api/chat`", content_type = "text/event-stream", body = String),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn regenerate_reply(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    TurnAdmission(standing): TurnAdmission,
    SessionPath(session): SessionPath,
    headers: HeaderMap,
    OptionalJsonBody(bytes): OptionalJsonBody,
) -> ApiResult<Response> {
    let body: RegenerateReplyRequest =
        bytes.as_deref().map(parse_json).transpose()?.unwrap_or_default();
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
    .validate(api.size_limits.message)?;
    let turn = TurnRequest {
        principal: who,
        session: SessionTarget::Existing(session),
        project_id: None,
        preceding: Vec::new(),
        intent: TurnIntent::Regenerate { reply_id: parse_message_id(body.message_id)? },
        settings,
        on_busy: body.on_busy.into(),
        idempotency_key: read_idempotency_key(&headers, "POST /api/chat/:id/regenerate", &said)?,
        caller_status: standing,
    };
    Ok(sse::stream_turn_reply(api.chat.start_turn(turn).await?, api.heartbeat))
}
