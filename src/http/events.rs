//! `/api/events`: changes in the caller's sessions as server-sent events.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::envelope::{ApiResult, ErrorResponse};
use super::param::parse_param;
use super::query::{QueryParams, RouteQuery};
use super::sse::{self, SseSource};
use crate::chat::EventReader;
use crate::domain::SessionId;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use utoipa::IntoParams;

/// The sessions to report events of.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamEventsQuery {
    /// Only events of this session
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    session_id: Option<SessionId>,
}

impl RouteQuery for StreamEventsQuery {}

/// Subscribe to events of all sessions the caller participates in, or of one session.
///
/// `event:` equals `data.type`. The first event is `sync {at}`; then come
/// `session {action: created|changed|deleted, sessionId, session?}`,
/// `message {sessionId, message}`, `turn {action: started|ended, sessionId, turnId, messageId}` and
/// `seen {sessionId, userId, upTo}`.
///
/// Events are not replayed: reload the displayed data after a reconnect, and after any further
/// `sync`. An imported session is a single event, without one per message. The stream ends within a
/// second after its credentials have become invalid.
#[utoipa::path(
    get, path = "/api/events", tag = "events",
    params(StreamEventsQuery),
    responses(
        (status = 200, description = "Events; a comment is sent after 15 s of silence", content_type = "text/event-stream", body = String),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn stream_events(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    QueryParams(query): QueryParams<StreamEventsQuery>,
) -> ApiResult<Response> {
    let events = api.chat.subscribe_events(&principal, query.session_id).await?;
    Ok(sse::stream_with_heartbeat(events, api.heartbeat))
}

impl SseSource for EventReader {
    async fn next(&mut self) -> Option<Bytes> {
        Self::next(self).await
    }
}
