//! `/api/admin`: users and sessions of the whole server.
//!
//! `auth_middleware.rs` admits admins only and writes an audit line for each request. Titles and
//! messages are neither shown nor searched unless the request says `content=true`.

use super::ApiState;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::param::parse_param;
use super::query::{PageQuery, QueryParams, RouteQuery};
use super::sessions::ListSessionsQuery;
use crate::domain::page::{Pagination, SortField};
use crate::domain::session::SessionStatus;
use crate::domain::{ProjectId, Session, SessionId, Timestamp, UserId};
use crate::error::Error;
use crate::store::UserStats;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A user who owns at least one session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdminUser {
    #[schema(value_type = String)]
    user_id: UserId,
    /// Sessions that the user owns.
    sessions: u64,
    /// Messages in those sessions, all branches included.
    messages: u64,
    /// Time of the latest activity in any of those sessions.
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
    /// Ordered by user ID.
    users: Vec<AdminUser>,
    pagination: Pagination,
}

/// List the users who own sessions.
///
/// Requires an admin.
#[utoipa::path(
    get, path = "/api/admin/users", tag = "admin",
    params(PageQuery),
    responses((status = 200, body = Envelope<UserListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_users(
    State(api): State<ApiState>,
    QueryParams(query): QueryParams<PageQuery>,
) -> ApiResult<Json<Envelope<UserListResponse>>> {
    let page = api.store.list_user_stats(query.page(), query.limit()).await?;
    let users = page.users.into_iter().map(AdminUser::from).collect();
    Ok(ok_response(
        "Users retrieved successfully",
        UserListResponse { users, pagination: page.pagination },
    ))
}

/// A session as admins see it: without its messages.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdminSession {
    #[schema(value_type = String)]
    session_id: SessionId,
    /// The owner.
    #[schema(value_type = String)]
    user_id: UserId,
    #[schema(value_type = Option<String>)]
    project_id: Option<ProjectId>,
    /// User IDs of all participants, the owner included.
    #[schema(value_type = Vec<String>)]
    participants: Vec<UserId>,
    #[schema(value_type = String)]
    status: SessionStatus,
    archived: bool,
    /// Number of messages, all branches included.
    messages_count: u32,
    /// Whether a reply is running.
    is_answering: bool,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_message_at: Option<Timestamp>,
    /// Time of the latest message that the owner sent.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_seen: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Present with `content=true` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// Present with `content=true` only; at most 200 characters.
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
            // Absent rather than null, so that a hidden title cannot be taken for an empty one.
            title: with_content.then_some(session.title),
            last_message: session.last_message.filter(|_| with_content),
        }
    }
}

/// A page of sessions of any users.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdminSessionListResponse {
    /// Pinned sessions first, then in the requested order.
    sessions: Vec<AdminSession>,
    /// Present if the request did not use a cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pagination: Option<Pagination>,
    /// Pass as `cursor` to get the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Owner and content of the listed sessions, in addition to [`ListSessionsQuery`].
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListAllSessionsQuery {
    /// Only sessions owned by this user
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    user: Option<UserId>,
    /// Include titles and last messages, also for search and sort; recorded in the audit log
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<bool>)]
    content: bool,
}

impl RouteQuery for ListAllSessionsQuery {}

/// List the sessions of all users, or of one user.
///
/// Requires an admin. Titles and last messages are shown, and can be searched, only with
/// `content=true`; the audit log records that.
#[utoipa::path(
    get, path = "/api/admin/sessions", tag = "admin",
    params(ListAllSessionsQuery, ListSessionsQuery),
    responses((status = 200, body = Envelope<AdminSessionListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_all_sessions(
    State(api): State<ApiState>,
    QueryParams((scope, list)): QueryParams<(ListAllSessionsQuery, ListSessionsQuery)>,
) -> ApiResult<Json<Envelope<AdminSessionListResponse>>> {
    let ListAllSessionsQuery { user, content: with_content } = scope;
    let query = list.into_session_query()?;
    // Searching or sorting by title would reveal titles that the response leaves out.
    let reveals_titles = query.search.is_some() || query.sort.field == SortField::Title;
    if reveals_titles && !with_content {
        let expected = "must be true to search or sort by title";
        return Err(Error::invalid_field("content", expected));
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
