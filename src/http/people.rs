//! `/api/me` and `/api/tickets`: the caller, as the server knows them.

use super::Api;
use super::envelope::{Answer, Envelope, Failure, ok};
use super::extract::{Caller, NoQuery};
use super::gate::Whoever;
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
pub(super) struct Me {
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
    responses((status = 200, body = Envelope<Me>), (status = "default", body = Failure))
)]
pub(super) async fn me(Whoever(identity): Whoever, _query: NoQuery) -> Json<Envelope<Me>> {
    let admin = identity.principal.is_admin;
    let user_id = identity.principal.user;
    ok(
        "User retrieved successfully",
        Me { user_id, email: identity.email, name: identity.name, admin },
    )
}

/// A ticket.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ticket {
    /// To be sent once as `?ticket=`.
    ticket: String,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// Get a ticket for `EventSource`, which cannot send headers: `?ticket=` stands for your credentials
/// once, within 60 s, on `GET /api/events` and `GET /api/chat/{sessionId}/stream`.
#[utoipa::path(
    post, path = "/api/tickets", tag = "people",
    responses((status = 201, description = "Created", body = Envelope<Ticket>), (status = "default", body = Failure))
)]
pub(super) async fn ticket(
    State(api): State<Api>,
    Whoever(identity): Whoever,
    _query: NoQuery,
) -> Answer<(StatusCode, Json<Envelope<Ticket>>)> {
    let (ticket, expires_at) = issue_ticket(&*api.store, &identity, clock::now()).await?;
    let body = ok("Ticket created successfully", Ticket { ticket, expires_at });
    Ok((StatusCode::CREATED, body))
}

/// What is gone.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeletedData {
    deleted_sessions: u64,
    deleted_messages: u64,
    deleted_projects: u64,
}

/// Delete all that is yours: your sessions with all their messages, your projects with their files.
/// Running replies are stopped. What you said in sessions of others stays there.
#[utoipa::path(
    delete, path = "/api/me/data", tag = "people",
    responses((status = 200, body = Envelope<DeletedData>), (status = "default", body = Failure))
)]
pub(super) async fn delete_data(
    State(api): State<Api>,
    Caller(who): Caller,
    _query: NoQuery,
) -> Answer<Json<Envelope<DeletedData>>> {
    let (deleted, deleted_projects) = api.chat.delete_user_data(&who).await?;
    let data = DeletedData {
        deleted_sessions: deleted.sessions,
        deleted_messages: deleted.messages,
        deleted_projects,
    };
    Ok(ok("Data deleted successfully", data))
}
