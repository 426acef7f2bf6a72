//! `/api/admin`: who uses the server, and how much. The gate lets admins in only, and each of their
//! requests leaves a line in the log. What anybody wrote is not shown, nor searched, unless it is
//! asked for in so many words.

use super::ApiState;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::query::QueryParams;
use super::sessions::parse_session_query;
use crate::domain::page::{MAX_PAGE_SIZE, Pagination, SortField};
use crate::domain::session::SessionStatus;
use crate::domain::{ProjectId, Session, SessionId, Timestamp, UserId};
use crate::error::Error;
use crate::store::UserStats;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// A user who owns sessions.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdminUser {
    #[schema(value_type = String)]
    user_id: UserId,
    sessions: u64,
    messages: u64,
    #[schema(value_type = String, format = DateTime)]
    last_active_at: Timestamp,
}

impl From<UserStats> for AdminUser {
    fn from(owner: UserStats) -> Self {
        let UserStats { user, sessions, messages, last_active_at } = owner;
        Self { user_id: user, sessions, messages, last_active_at }
    }
}

/// A page of users.
#[derive(Serialize, ToSchema)]
pub(super) struct UserListResponse {
    /// In the order of their names.
    users: Vec<AdminUser>,
    pagination: Pagination,
}

/// List the users who own sessions. For admins.
#[utoipa::path(
    get, path = "/api/admin/users", tag = "admin",
    params(
        ("page" = Option<u32>, Query, description = "From 1; a page past the end is empty"),
        ("limit" = Option<u32>, Query, description = "From 1 to 100, 20 by default"),
    ),
    responses((status = 200, body = Envelope<UserListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_users(
    State(api): State<ApiState>,
    mut query: QueryParams,
) -> ApiResult<Json<Envelope<UserListResponse>>> {
    let page = query.take_number("page", 1..=u32::MAX).unwrap_or(1);
    let limit = query.take_number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(20);
    query.finish()?;
    let page = api.store.list_user_stats(page, limit).await?;
    let users = page.users.into_iter().map(AdminUser::from).collect();
    Ok(ok_response(
        "Users retrieved successfully",
        UserListResponse { users, pagination: page.pagination },
    ))
}

/// A session, without what anybody wrote.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdminSession {
    #[schema(value_type = String)]
    session_id: SessionId,
    #[schema(value_type = String)]
    user_id: UserId,
    #[schema(value_type = Option<String>)]
    project_id: Option<ProjectId>,
    #[schema(value_type = Vec<String>)]
    participants: Vec<UserId>,
    #[schema(value_type = String)]
    status: SessionStatus,
    archived: bool,
    messages_count: u32,
    is_answering: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_message_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_seen: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// With `content=true` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// With `content=true` only: at most 200 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_message: Option<String>,
}

impl AdminSession {
    fn from_session(session: Session, with_content: bool) -> Self {
        Self {
            session_id: session.id,
            user_id: session.owner,
            project_id: session.project_id,
            participants: session.participants,
            status: session.status,
            archived: session.archived,
            messages_count: session.messages_count,
            is_answering: session.active_turn.is_some(),
            last_message_at: session.last_message_at,
            last_seen: session.last_seen,
            created_at: session.created_at,
            title: with_content.then_some(session.title),
            last_message: session.last_message.filter(|_| with_content),
        }
    }
}

/// A page of sessions.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdminSessionListResponse {
    sessions: Vec<AdminSession>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pagination: Option<Pagination>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// List everybody's sessions, or one user's, without what was written in them. For admins. With
/// `content=true`, which the log notes, titles and last messages are shown and can be searched.
#[utoipa::path(
    get, path = "/api/admin/sessions", tag = "admin",
    params(
        ("user" = Option<String>, Query, description = "Only sessions that this user owns"),
        ("content" = Option<bool>, Query, description = "Show titles and last messages; the log notes it"),
        ("page" = Option<u32>, Query, description = "From 1; a page past the end is empty"),
        ("limit" = Option<u32>, Query, description = "From 1 to 100, 20 by default"),
        ("cursor" = Option<String>, Query, description = "A nextCursor, in place of page"),
        ("search" = Option<String>, Query, description = "With content=true: every word must begin a word of the title"),
        ("projectId" = Option<String>, Query, description = "Only sessions of this project"),
        ("status" = Option<String>, Query, description = "Only sessions with this status"),
        ("archived" = Option<String>, Query, description = "true, false (default) or all"),
        ("sort" = Option<String>, Query, description = "lastMessageAt, createdAt or updatedAt; - in front for descending"),
    ),
    responses((status = 200, body = Envelope<AdminSessionListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_all_sessions(
    State(api): State<ApiState>,
    mut query: QueryParams,
) -> ApiResult<Json<Envelope<AdminSessionListResponse>>> {
    let user = query.take_parsed("user", |user| UserId::parse("user", user));
    let with_content =
        query.take_choice("content", &[("true", true), ("false", false)]).unwrap_or_default();
    let query = parse_session_query(query)?;
    let tells_titles = query.search.is_some() || query.sort.field == SortField::Title;
    if tells_titles && !with_content {
        let wants = "must come with content=true to go by titles";
        return Err(Error::invalid_field("content", wants));
    }
    let page = api.store.list_all_sessions(user.as_ref(), query).await?;
    let sessions = page.sessions.into_iter();
    let lines = AdminSessionListResponse {
        sessions: sessions
            .map(|session| AdminSession::from_session(session, with_content))
            .collect(),
        pagination: page.pagination,
        next_cursor: page.next_cursor.map(|cursor| cursor.encode()),
    };
    Ok(ok_response("Sessions retrieved successfully", lines))
}
