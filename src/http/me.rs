//! `/api/me`: the authenticated user and their data. `/api/tickets`: credentials for `EventSource`.

use super::ApiState;
use super::auth_middleware::{CurrentIdentity, CurrentUser};
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use crate::auth::issue_ticket;
use crate::clock;
use crate::domain::{Timestamp, UserId};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

/// The authenticated user.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CurrentUserResponse {
    #[schema(value_type = String)]
    user_id: UserId,
    /// The `email` claim of the caller's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    /// The `name` claim of the caller's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Whether the user may access sessions of all users.
    admin: bool,
}

/// Get the authenticated user.
#[utoipa::path(
    get, path = "/api/me", tag = "people",
    responses((status = 200, body = Envelope<CurrentUserResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_current_user(
    CurrentIdentity(identity): CurrentIdentity,
) -> Json<Envelope<CurrentUserResponse>> {
    let admin = identity.principal.is_admin;
    let user_id = identity.principal.user;
    ok_response(
        "User retrieved successfully",
        CurrentUserResponse { user_id, email: identity.email, name: identity.name, admin },
    )
}

/// A short-lived replacement for credentials in a URL.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TicketResponse {
    /// Send it as `?ticket=`. It is valid for one request.
    ticket: String,
    /// The ticket must be used before this time.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// Create a ticket for `EventSource`, which cannot send headers.
///
/// `?ticket=` replaces the caller's credentials for one request within 60 s, on `GET /api/events`
/// and `GET /api/chat/{sessionId}/stream`.
#[utoipa::path(
    post, path = "/api/tickets", tag = "people",
    responses((status = 201, description = "Created", body = Envelope<TicketResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn create_ticket(
    State(api): State<ApiState>,
    CurrentIdentity(identity): CurrentIdentity,
) -> ApiResult<(StatusCode, Json<Envelope<TicketResponse>>)> {
    // The ticket has the scope of the credentials: a read-only key gets a read-only ticket.
    let (ticket, expires_at) = issue_ticket(&*api.store, &identity, clock::now()).await?;
    let body = ok_response("Ticket created successfully", TicketResponse { ticket, expires_at });
    Ok((StatusCode::CREATED, body))
}

/// The extent of a deletion.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeleteDataResponse {
    /// Number of sessions deleted.
    deleted_sessions: u64,
    /// Number of messages deleted with them.
    deleted_messages: u64,
    /// Number of projects deleted.
    deleted_projects: u64,
}

/// Delete all data of the caller.
///
/// Deletes the caller's sessions with their messages and projects with their files. Running replies
/// are stopped. Messages in sessions of other users are kept.
#[utoipa::path(
    delete, path = "/api/me/data", tag = "people",
    responses((status = 200, body = Envelope<DeleteDataResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete_user_data(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
) -> ApiResult<Json<Envelope<DeleteDataResponse>>> {
    // Runs to completion even if the client disconnects.
    let (deleted, deleted_projects) = api.chat.delete_user_data(&principal).await?;
    let data = DeleteDataResponse {
        deleted_sessions: deleted.sessions,
        deleted_messages: deleted.messages,
        deleted_projects,
    };
    Ok(ok_response("Data deleted successfully", data))
}
