//! `…/head` and `…/fork`: from one branch of a session to another, and out of it.

use super::Api;
use super::body::JsonBody;
use super::envelope::{Answer, Envelope, Failure};
use super::extract::{Caller, NoQuery, SessionPath};
use super::sessions::{SessionAnswer, with_etag};
use crate::clock;
use crate::domain::{FieldError, MessageId, Session};
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

/// A message of the session.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NamedMessage {
    /// Its id, or the one its client gave it.
    message_id: String,
}

impl NamedMessage {
    fn id(&self) -> Result<MessageId, FieldError> {
        MessageId::parse("messageId", &self.message_id)
    }
}

/// Switch to the branch of a message: the newest leaf below it becomes the head.
#[utoipa::path(
    put, path = "/api/chat-sessions/{sessionId}/head", tag = "sessions",
    params(("sessionId" = String, Path)),
    request_body = NamedMessage,
    responses((status = 200, body = Envelope<Session>), (status = "default", body = Failure))
)]
pub(super) async fn set_head(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    SessionPath(id): SessionPath,
    JsonBody(body): JsonBody<NamedMessage>,
) -> Answer<SessionAnswer> {
    let session = api.chat.set_head(&who, &id, &body.id()?, clock::now()).await?;
    Ok(with_etag("Session updated successfully", session))
}

/// Copy the path up to a message into a new session of the caller's.
#[utoipa::path(
    post, path = "/api/chat-sessions/{sessionId}/fork", tag = "sessions",
    params(("sessionId" = String, Path)),
    request_body = NamedMessage,
    responses((status = 201, body = Envelope<Session>), (status = "default", body = Failure))
)]
pub(super) async fn fork(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    SessionPath(id): SessionPath,
    JsonBody(body): JsonBody<NamedMessage>,
) -> Answer<(StatusCode, SessionAnswer)> {
    let session = api.chat.fork_session(&who, &id, &body.id()?, clock::now()).await?;
    Ok((StatusCode::CREATED, with_etag("Session created successfully", session)))
}
