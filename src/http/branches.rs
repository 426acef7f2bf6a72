//! `/api/chat-sessions/:id/head` and `…/fork`: switching branches, and forking a session.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::body::JsonBody;
use super::envelope::{ApiResult, Envelope, ErrorResponse};
use super::path::{PathParams, SessionPath};
use super::sessions::{SessionWithEtag, respond_with_session};
use crate::clock;
use crate::domain::{FieldError, MessageId, Session};
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

/// A message of the session, as the end of a branch.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BranchRequest {
    /// The message's ID, or the `clientMessageId` it was sent with.
    message_id: String,
}

impl BranchRequest {
    fn parse_message_id(&self) -> Result<MessageId, FieldError> {
        MessageId::parse("messageId", &self.message_id)
    }
}

/// Switch to the branch of a message.
///
/// The newest leaf below the message becomes the session's head. Fails with `session_busy` while a
/// reply is running.
#[utoipa::path(
    put, path = "/api/chat-sessions/{sessionId}/head", tag = "sessions",
    params(SessionPath),
    request_body = BranchRequest,
    responses((status = 200, body = Envelope<Session>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn set_session_head(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: id }): PathParams<SessionPath>,
    JsonBody(body): JsonBody<BranchRequest>,
) -> ApiResult<SessionWithEtag> {
    let session =
        api.chat.set_head(&principal, &id, &body.parse_message_id()?, clock::now()).await?;
    Ok(respond_with_session("Session updated successfully", session))
}

/// Copy the path up to a message into a new session.
///
/// The caller owns the new session. The original is unchanged.
#[utoipa::path(
    post, path = "/api/chat-sessions/{sessionId}/fork", tag = "sessions",
    params(SessionPath),
    request_body = BranchRequest,
    responses((status = 201, body = Envelope<Session>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn fork_session(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: id }): PathParams<SessionPath>,
    JsonBody(body): JsonBody<BranchRequest>,
) -> ApiResult<(StatusCode, SessionWithEtag)> {
    // Access to read is enough: a fork contains nothing that the caller cannot read.
    let session =
        api.chat.fork_session(&principal, &id, &body.parse_message_id()?, clock::now()).await?;
    Ok((StatusCode::CREATED, respond_with_session("Session created successfully", session)))
}
