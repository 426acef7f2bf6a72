//! `/api/me` and `/api/tickets`: the caller, as the server knows them.

use super::ApiState;
use super::auth_middleware::CurrentIdentity;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::{CurrentUser, NoQueryParams};
use crate::auth::issue_ticket;
use crate::clock;
use crate::domain::{Timestamp, UserId};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

/// Who is asking.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CurrentUserResponse {
    #[schema(value_type = String)]
    user_id: UserId,
    /// As the caller's token says.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Whether they may act on everybody's sessions.
    admin: bool,
}

/// Who the server takes you for.
#[utoipa::path(
    get, path = "/api/me", tag = "people",
    responses((status = 200, body = Envelope<CurrentUserResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_current_user(
    CurrentIdentity(identity): CurrentIdentity,
    _query: NoQueryParams,
) -> Json<Envelope<CurrentUserResponse>> {
    let admin = identity.principal.is_admin;
    let user_id = identity.principal.user;
    ok_response(
        "User retrieved successfully",
        CurrentUserResponse { user_id, email: identity.email, name: identity.name, admin },
    )
}

/// A ticket.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TicketResponse {
    /// To be sent once as `?ticket=`.
    ticket: String,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// Get a ticket for `EventSource`, which cannot send headers: `?ticket=` stands for your credentials
/// once, within 60 s, on `GET /api/events` and `GET /api/chat/{sessionId}/stream`.
#[utoipa::path(
    post, path = "/api/tickets", tag = "people",
    responses((status = 201, description = "Created", body = Envelope<TicketResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn create_ticket(
    State(api): State<ApiState>,
    CurrentIdentity(identity): CurrentIdentity,
    _query: NoQueryParams,
) -> ApiResult<(StatusCode, Json<Envelope<TicketResponse>>)> {
    let (ticket, expires_at) = issue_ticket(&*api.store, &identity, clock::now()).await?;
    let body = ok_response("Ticket created successfully", TicketResponse { ticket, expires_at });
    Ok((StatusCode::CREATED, body))
}

/// What is gone.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeleteDataResponse {
    deleted_sessions: u64,
    deleted_messages: u64,
    deleted_projects: u64,
}

/// Delete all that is yours: your sessions with all their messages, your projects with their files.
/// Running replies are stopped. What you said in sessions of others stays there.
#[utoipa::path(
    delete, path = "/api/me/data", tag = "people",
    responses((status = 200, body = Envelope<DeleteDataResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete_user_data(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    _query: NoQueryParams,
) -> ApiResult<Json<Envelope<DeleteDataResponse>>> {
    let (deleted, deleted_projects) = api.chat.delete_user_data(&who).await?;
    let data = DeleteDataResponse {
        deleted_sessions: deleted.sessions,
        deleted_messages: deleted.messages,
        deleted_projects,
    };
    Ok(ok_response("Data deleted successfully", data))
}
