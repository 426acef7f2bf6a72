//! `/api/chat-sessions/:id/accept` and `/leave`: invited users join a session or decline, and
//! participants leave it.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::path::{PathParams, SessionPath};
use super::sessions::{SessionWithEtag, respond_with_session};
use crate::clock;
use crate::domain::{Session, SessionId};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// Accept an invitation to a session.
///
/// The caller becomes a participant. Accepting again changes nothing.
#[utoipa::path(
    post, path = "/api/chat-sessions/{sessionId}/accept", tag = "sessions",
    params(SessionPath),
    responses((status = 200, body = Envelope<Session>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn accept_invitation(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: id }): PathParams<SessionPath>,
) -> ApiResult<SessionWithEtag> {
    let session = api.chat.accept_invitation(&principal, &id, clock::now()).await?;
    Ok(respond_with_session("Invitation accepted successfully", session))
}

/// A session that the caller has left.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LeaveSessionResponse {
    #[schema(value_type = String)]
    session_id: SessionId,
}

/// Leave a session, or decline the invitation to it.
///
/// The caller's messages stay. The owner cannot leave.
#[utoipa::path(
    post, path = "/api/chat-sessions/{sessionId}/leave", tag = "sessions",
    params(SessionPath),
    responses((status = 200, body = Envelope<LeaveSessionResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn leave_session(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: id }): PathParams<SessionPath>,
) -> ApiResult<Json<Envelope<LeaveSessionResponse>>> {
    api.chat.leave_session(&principal, &id, clock::now()).await?;
    Ok(ok_response("Session left successfully", LeaveSessionResponse { session_id: id }))
}
