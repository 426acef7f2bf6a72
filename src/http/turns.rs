//! `/api/chat/:sessionId/…`: resuming, stopping and regenerating replies.

use super::ApiState;
use super::auth_middleware::{CurrentUser, TurnAdmission};
use super::body::{OptionalJsonBody, parse_json};
use super::chat::{BusyAction, parse_message_id};
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::idempotency::{IdempotencyScope, read_idempotency_key};
use super::path::{PathParams, SessionPath};
use super::query::{QueryParams, RouteQuery};
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
use utoipa::{IntoParams, ToSchema};

/// The position in the stream.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct ResumeReplyQuery {
    /// The same for clients that cannot set the header; the header takes precedence
    last_event_id: Option<String>,
}

impl RouteQuery for ResumeReplyQuery {}

/// Resume the stream of a running reply.
///
/// The frames are the same bytes that other readers get, from the first frame or after
/// `Last-Event-ID`. If no reply is running, a cursor inside a turn that ended less than a minute
/// ago gets the rest of it.
#[utoipa::path(
    get, path = "/api/chat/{sessionId}/stream", tag = "chat",
    params(
        SessionPath,
        ("Last-Event-ID" = Option<String>, Header, description = "ID of the last frame received; with an unknown ID the stream starts from the first frame"),
        ResumeReplyQuery,
    ),
    responses(
        (status = 200, description = "A stream as of `POST /api/chat`", content_type = "text/event-stream", body = String),
        (status = 204, description = "No reply is running, and there are no frames after the cursor"),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn resume_reply(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: session }): PathParams<SessionPath>,
    headers: HeaderMap,
    QueryParams(query): QueryParams<ResumeReplyQuery>,
) -> ApiResult<Response> {
    // A browser sets the header when it reconnects, so it is newer than the query of the URL.
    let header = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let cursor = header.or(query.last_event_id).and_then(|id| StreamCursor::parse(&id));
    // 204 also ends the reconnect loop of an `EventSource`.
    Ok(match api.chat.join_turn(&principal, &session, cursor.as_ref()).await? {
        Some(reader) => sse::stream_turn_reply(reader, api.heartbeat),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// The turn to stop.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct StopReplyRequest {
    /// Stop only this turn. If it has already ended, nothing is stopped.
    turn_id: Option<String>,
}

/// The result of stopping a reply.
#[derive(Serialize, ToSchema)]
pub(super) struct StopReplyResponse {
    /// Whether a running reply was stopped.
    stopped: bool,
}

/// Stop the running reply and drop the queued messages.
///
/// The text so far is kept as a message with status `interrupted`.
#[utoipa::path(
    post, path = "/api/chat/{sessionId}/stop", tag = "chat",
    params(SessionPath),
    request_body(content = Option<StopReplyRequest>),
    responses((status = 200, body = Envelope<StopReplyResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn stop_reply(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: session }): PathParams<SessionPath>,
    OptionalJsonBody(bytes): OptionalJsonBody,
) -> ApiResult<Json<Envelope<StopReplyResponse>>> {
    let body: StopReplyRequest = bytes.as_deref().map(parse_json).transpose()?.unwrap_or_default();
    let turn = body.turn_id.map(|id| TurnId::parse("turnId", &id)).transpose()?;
    let stopped = api.chat.cancel_turns(&principal, &session, turn.as_ref()).await?;
    let message = if stopped { "Reply stopped successfully" } else { "There was nothing to stop" };
    Ok(ok_response(message, StopReplyResponse { stopped }))
}

/// The reply to regenerate, and settings for the new one.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RegenerateReplyRequest {
    /// The reply to regenerate; by default the last one of the active path.
    message_id: Option<String>,
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
    #[serde(deserialize_with = "deserialize_optional_object")]
    memory: Option<MemoryOptions>,
    /// The action to take if a reply is running in the session.
    on_busy: BusyAction,
}

/// Regenerate a reply and stream the new one.
///
/// The new reply becomes a sibling of the old one, which is kept.
#[utoipa::path(
    post, path = "/api/chat/{sessionId}/regenerate", tag = "chat",
    params(
        SessionPath,
        ("Idempotency-Key" = Option<String>, Header, description = "A repeated request joins the running turn or replays its reply, for 24 hours"),
    ),
    request_body(content = Option<RegenerateReplyRequest>),
    responses(
        (status = 200, description = "A stream as of `POST /api/chat`", content_type = "text/event-stream", body = String),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn regenerate_reply(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    TurnAdmission(caller_status): TurnAdmission,
    PathParams(SessionPath { session_id: session }): PathParams<SessionPath>,
    headers: HeaderMap,
    OptionalJsonBody(bytes): OptionalJsonBody,
) -> ApiResult<Response> {
    let body: RegenerateReplyRequest =
        bytes.as_deref().map(parse_json).transpose()?.unwrap_or_default();
    // The session is part of the fingerprint, because the key's scope covers all sessions.
    let content = [session.as_str().as_bytes(), bytes.as_deref().unwrap_or_default()].concat();
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
        principal,
        session: SessionTarget::Existing(session),
        project_id: None,
        preceding: Vec::new(),
        intent: TurnIntent::Regenerate { reply_id: parse_message_id(body.message_id)? },
        settings,
        on_busy: body.on_busy.into(),
        idempotency_key: read_idempotency_key(&headers, IdempotencyScope::Regenerate, &content)?,
        caller_status,
    };
    Ok(sse::stream_turn_reply(api.chat.start_turn(turn).await?, api.heartbeat))
}
