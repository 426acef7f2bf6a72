//! `/api/chat-sessions`: creating, listing, reading, updating and deleting sessions.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::body::JsonBody;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::etag::{EtagHeader, IfMatch, etag_header};
use super::param::{parse_number, parse_param};
use super::path::{PathParams, SessionPath};
use super::query::{QueryParams, RouteQuery};
use crate::clock;
use crate::domain::page::{
    MAX_PAGE_SIZE, PagePosition, Pagination, SessionCursor, SessionQuery, SortField, SortOrder,
};
use crate::domain::principal::AccessLevel;
use crate::domain::search::parse_title_terms;
use crate::domain::session::{JsonObject, MAX_PARTICIPANTS, SessionSettings, SessionStatus};
use crate::domain::title::SessionTitle;
use crate::domain::{FieldError, ProjectId, Session, SessionId, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::json::{deserialize_nullable, deserialize_optional_object, deserialize_present};
use crate::store::{DeleteFilter, DeletionResult, NewSession, SessionPage, SessionUpdate};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

pub(super) type SessionWithEtag = (EtagHeader, Json<Envelope<Session>>);

pub(super) fn respond_with_session(message: &'static str, session: Session) -> SessionWithEtag {
    (etag_header(session.version), ok_response(message, session))
}

/// A new session.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct CreateSessionRequest {
    /// At most 200 characters after trimming. Without it the title is "New Chat" until the first
    /// message names the session.
    #[serde(alias = "name")]
    title: Option<String>,
    /// The project that the session belongs to.
    project_id: Option<String>,
    /// User IDs of participants in addition to the caller, at most 99. They are invited, unless
    /// invitations are switched off.
    participants: Option<Vec<String>>,
    /// Data of the application: an object of up to 16 KiB.
    #[schema(value_type = Object)]
    meta: Option<Box<RawValue>>,
    /// Data about the user: an object of up to 16 KiB, or a string that contains one as JSON.
    #[schema(value_type = Object)]
    user_meta: Option<Box<RawValue>>,
    /// Display settings: an object of up to 16 KiB, or a string that contains one as JSON.
    #[schema(value_type = Object)]
    theme: Option<Box<RawValue>>,
    /// Defaults for the session's turns.
    #[serde(deserialize_with = "deserialize_optional_object")]
    settings: Option<SessionSettings>,
    /// An ID chosen by the client: 1 to 128 characters of `A-Za-z0-9._:-`. If the caller already
    /// owns the session with this ID, that session is returned.
    session_id: Option<String>,
}

/// Create a session.
#[utoipa::path(
    post, path = "/api/chat-sessions", tag = "sessions", request_body = CreateSessionRequest,
    responses(
        (status = 201, description = "Created", body = Envelope<Session>),
        (status = 200, description = "The caller's existing session with this sessionId", body = Envelope<Session>),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn create_session(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    JsonBody(body): JsonBody<CreateSessionRequest>,
) -> ApiResult<(StatusCode, SessionWithEtag)> {
    let users = parse_participants(body.participants.unwrap_or_default())?;
    let (participants, invited) =
        if api.needs_consent { (Vec::new(), users) } else { (users, Vec::new()) };
    let new = NewSession {
        id: body.session_id.map(|id| SessionId::parse("sessionId", &id)).transpose()?,
        title: SessionTitle::from_user(body.title.as_deref())?,
        project_id: body.project_id.map(|id| ProjectId::parse("projectId", &id)).transpose()?,
        participants,
        invited,
        meta: parse_json_object("meta", body.meta)?.unwrap_or_default(),
        user_meta: parse_json_object("userMeta", body.user_meta)?.unwrap_or_default(),
        theme: parse_json_object("theme", body.theme)?.unwrap_or_default(),
        settings: check_settings(&api, body.settings.unwrap_or_default())?,
    };
    let (session, is_new) = api.chat.create_session(&principal, new, clock::now()).await?;
    // 200 tells a client that its retry found the session of the first attempt.
    Ok(if is_new {
        (StatusCode::CREATED, respond_with_session("Session created successfully", session))
    } else {
        (StatusCode::OK, respond_with_session("Session retrieved successfully", session))
    })
}

fn parse_participants(users: Vec<String>) -> Result<Vec<UserId>> {
    // The owner counts, too.
    if users.len() >= MAX_PARTICIPANTS {
        return Err(Error::invalid_field(
            "participants",
            "must be at most 99 users in addition to the owner",
        ));
    }
    users.iter().map(|user| Ok(UserId::parse("participants", user)?)).collect()
}

fn parse_json_object(
    field: &'static str,
    raw: Option<Box<RawValue>>,
) -> Result<Option<JsonObject>, FieldError> {
    raw.map(|raw| JsonObject::parse(field, &raw)).transpose()
}

fn check_settings(api: &ApiState, settings: SessionSettings) -> Result<SessionSettings> {
    settings.validate(api.size_limits.message).map_err(|invalid| invalid.within("settings").into())
}

/// A page of sessions.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionListResponse {
    /// Pinned sessions first, then in the requested order. The field `nodes` is left out.
    sessions: Vec<Session>,
    /// Present if the request did not use a cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pagination: Option<Pagination>,
    /// Pass as `cursor` to get the next page, unaffected by new sessions; `null` on the last page.
    next_cursor: Option<String>,
}

/// Filters, order and page of a list of sessions.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListSessionsQuery {
    /// Page number, from 1; a page past the end is empty
    #[serde(deserialize_with = "parse_number::<_, 1, { u32::MAX }>")]
    page: Option<u32>,
    /// Page size, 1 to 100 (default 20)
    #[serde(deserialize_with = "parse_number::<_, 1, MAX_PAGE_SIZE>")]
    limit: Option<u32>,
    /// The nextCursor of the previous page, instead of page
    cursor: Option<String>,
    /// Words of the title, each matched as a prefix, or characters within it in scripts without
    /// spaces; case and accents are ignored
    search: Option<String>,
    /// Only sessions of this project
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    pub(super) project_id: Option<ProjectId>,
    /// Only sessions with this status
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    status: Option<SessionStatus>,
    /// true, false (default) or all
    #[param(value_type = Option<String>)]
    archived: ArchivedFilter,
    /// true for the sessions that the caller is invited to, instead of their own (default false)
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<bool>)]
    pub(super) invited: bool,
    /// lastMessageAt, createdAt, updatedAt or title; - for descending (default -lastMessageAt)
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    sort: SortOrder,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ArchivedFilter {
    True,
    #[default]
    False,
    All,
}

impl RouteQuery for ListSessionsQuery {
    fn check(&self, errors: &mut Vec<FieldError>) {
        errors.extend(self.position().err());
    }
}

impl ListSessionsQuery {
    fn position(&self) -> Result<PagePosition, FieldError> {
        let Some(cursor) = &self.cursor else {
            return Ok(PagePosition::Page(self.page.unwrap_or(1)));
        };
        // A cursor is a position in one order, so it is valid with the same `sort` only.
        let cursor = SessionCursor::decode(cursor, self.sort)?;
        if self.page.is_some() {
            return Err(FieldError::new("cursor", "must not be combined with page"));
        }
        Ok(PagePosition::After(cursor))
    }

    pub(super) fn into_session_query(self) -> Result<SessionQuery> {
        let search = self.search.as_deref().filter(|search| !search.trim().is_empty());
        let position = self.position()?;
        let mut sort = self.sort;
        // Invited users must not learn of activity, so neither from the order nor from a cursor.
        if self.invited && matches!(sort.field, SortField::LastMessageAt | SortField::UpdatedAt) {
            sort.field = SortField::CreatedAt;
        }
        Ok(SessionQuery {
            position,
            limit: self.limit.unwrap_or(20),
            sort,
            is_of_invitations: self.invited,
            search: search.map(parse_title_terms),
            project_id: self.project_id,
            status: self.status,
            archived: match self.archived {
                ArchivedFilter::True => Some(true),
                ArchivedFilter::False => Some(false),
                ArchivedFilter::All => None,
            },
        })
    }
}

/// List the caller's sessions: pinned first, then by latest activity.
#[utoipa::path(
    get, path = "/api/chat-sessions", tag = "sessions",
    params(ListSessionsQuery),
    responses((status = 200, body = Envelope<SessionListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_sessions(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    QueryParams(query): QueryParams<ListSessionsQuery>,
) -> ApiResult<Json<Envelope<SessionListResponse>>> {
    let page = api.store.list_sessions(&principal, query.into_session_query()?).await?;
    Ok(ok_response("Sessions retrieved successfully", page.into()))
}

impl From<SessionPage> for SessionListResponse {
    fn from(page: SessionPage) -> Self {
        Self {
            sessions: page.sessions,
            pagination: page.pagination,
            next_cursor: page.next_cursor.map(|cursor| cursor.encode()),
        }
    }
}

/// Get a session.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}", tag = "sessions",
    params(SessionPath),
    responses((status = 200, body = Envelope<Session>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_session(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: id }): PathParams<SessionPath>,
) -> ApiResult<SessionWithEtag> {
    let session = api.store.get_session(&principal, &id, AccessLevel::Participant).await?;
    Ok(respond_with_session("Session retrieved successfully", session))
}

/// Changes to a session. Fields that are left out are unchanged.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct UpdateSessionRequest {
    /// At most 200 characters after trimming; null or blank resets it to "New Chat".
    #[serde(alias = "name", deserialize_with = "deserialize_present")]
    title: Option<Option<String>>,
    /// `active`; `agent_assigned`, where a person answers instead of the model; `closed`; or
    /// another word of `a-z_`.
    status: Option<String>,
    /// Archived sessions are left out of lists by default. The caller's own value, as is
    /// `pinned`; while others participate, it does not change the version.
    archived: Option<bool>,
    /// Pinned sessions come first in lists.
    pinned: Option<bool>,
    /// Data of the application: an object of up to 16 KiB.
    #[schema(value_type = Object)]
    #[serde(deserialize_with = "deserialize_present")]
    meta: Option<Box<RawValue>>,
    /// Data about the user: an object of up to 16 KiB, or a string that contains one as JSON.
    #[schema(value_type = Object)]
    #[serde(deserialize_with = "deserialize_present")]
    user_meta: Option<Box<RawValue>>,
    /// Display settings: an object of up to 16 KiB, or a string that contains one as JSON.
    #[schema(value_type = Object)]
    #[serde(deserialize_with = "deserialize_present")]
    theme: Option<Box<RawValue>>,
    /// Defaults for the session's turns; replaces all of them.
    #[serde(deserialize_with = "deserialize_optional_object")]
    settings: Option<SessionSettings>,
    /// User IDs of all participants and invited users in addition to the owner. New ones are
    /// invited, unless invitations are switched off.
    participants: Option<Vec<String>>,
    /// The project that the session belongs to; `null` removes it from its project.
    #[serde(deserialize_with = "deserialize_present")]
    project_id: Option<Option<String>>,
}

/// Update fields of a session.
#[utoipa::path(
    patch, path = "/api/chat-sessions/{sessionId}", tag = "sessions",
    params(SessionPath, IfMatch),
    request_body = UpdateSessionRequest,
    responses((status = 200, body = Envelope<Session>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn update_session(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: id }): PathParams<SessionPath>,
    IfMatch(versions): IfMatch,
    JsonBody(body): JsonBody<UpdateSessionRequest>,
) -> ApiResult<SessionWithEtag> {
    // Absent keeps the project, null removes it.
    let project_id = match body.project_id {
        None => None,
        Some(None) => Some(None),
        Some(Some(id)) => Some(Some(ProjectId::parse("projectId", &id)?)),
    };
    let change = SessionUpdate {
        title: body.title.map(|title| SessionTitle::from_user(title.as_deref())).transpose()?,
        status: body.status.map(|status| SessionStatus::parse(&status)).transpose()?,
        archived: body.archived,
        pinned: body.pinned,
        meta: parse_json_object("meta", body.meta)?,
        user_meta: parse_json_object("userMeta", body.user_meta)?,
        theme: parse_json_object("theme", body.theme)?,
        settings: body.settings.map(|settings| check_settings(&api, settings)).transpose()?,
        participants: body.participants.map(parse_participants).transpose()?,
        needs_consent: api.needs_consent,
        project_id,
    };
    let session = api.chat.change_session(&principal, &id, change, versions, clock::now()).await?;
    Ok(respond_with_session("Session updated successfully", session))
}

/// A new title of a session.
#[derive(Deserialize, ToSchema)]
pub(super) struct SetTitleRequest {
    /// At most 200 characters after trimming; null or blank resets it to "New Chat".
    #[serde(alias = "name", deserialize_with = "deserialize_nullable")]
    #[schema(required)]
    title: Option<String>,
}

/// Rename a session.
#[utoipa::path(
    put, path = "/api/chat-sessions/{sessionId}/title", tag = "sessions",
    params(SessionPath, IfMatch),
    request_body = SetTitleRequest,
    responses((status = 200, body = Envelope<Session>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn set_session_title(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: id }): PathParams<SessionPath>,
    IfMatch(versions): IfMatch,
    JsonBody(body): JsonBody<SetTitleRequest>,
) -> ApiResult<SessionWithEtag> {
    let title = SessionTitle::from_user(body.title.as_deref())?;
    let change = SessionUpdate { title: Some(title), ..SessionUpdate::default() };
    let session = api.chat.change_session(&principal, &id, change, versions, clock::now()).await?;
    Ok(respond_with_session("Session updated successfully", session))
}

/// New application data of a session.
#[derive(Deserialize, ToSchema)]
pub(super) struct SetMetaRequest {
    /// An object of up to 16 KiB. It replaces the previous one.
    #[schema(value_type = Object)]
    meta: Box<RawValue>,
}

/// Replace the application data of a session.
#[utoipa::path(
    put, path = "/api/chat-sessions/{sessionId}/meta", tag = "sessions",
    params(SessionPath, IfMatch),
    request_body = SetMetaRequest,
    responses((status = 200, body = Envelope<Session>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn set_session_meta(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: id }): PathParams<SessionPath>,
    IfMatch(versions): IfMatch,
    JsonBody(body): JsonBody<SetMetaRequest>,
) -> ApiResult<SessionWithEtag> {
    let meta = JsonObject::parse("meta", &body.meta)?;
    let change = SessionUpdate { meta: Some(meta), ..SessionUpdate::default() };
    let session = api.chat.change_session(&principal, &id, change, versions, clock::now()).await?;
    Ok(respond_with_session("Session updated successfully", session))
}

/// A deleted session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeleteSessionResponse {
    #[schema(value_type = String)]
    session_id: SessionId,
    /// Number of messages deleted with the session.
    deleted_messages: u64,
}

/// Delete a session with all its messages.
///
/// A running reply is stopped.
#[utoipa::path(
    delete, path = "/api/chat-sessions/{sessionId}", tag = "sessions",
    params(SessionPath),
    responses((status = 200, body = Envelope<DeleteSessionResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete_session(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: id }): PathParams<SessionPath>,
) -> ApiResult<Json<Envelope<DeleteSessionResponse>>> {
    let deleted = api.chat.delete_session(&principal, &id).await?;
    let deleted = DeleteSessionResponse { session_id: id, deleted_messages: deleted.messages };
    Ok(ok_response("Session deleted successfully", deleted))
}

/// The extent of a bulk deletion.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeleteSessionsResponse {
    /// Number of sessions deleted.
    deleted_sessions: u64,
    /// Number of messages deleted with them.
    deleted_messages: u64,
}

impl From<DeletionResult> for DeleteSessionsResponse {
    fn from(deleted: DeletionResult) -> Self {
        Self { deleted_sessions: deleted.sessions, deleted_messages: deleted.messages }
    }
}

/// The sessions to delete.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteSessionsQuery {
    /// Delete the sessions of this project
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    project_id: Option<ProjectId>,
    /// Delete the sessions without activity since this time (RFC 3339)
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    before: Option<Timestamp>,
}

impl RouteQuery for DeleteSessionsQuery {}

/// Delete several sessions of the caller.
///
/// Exactly one of `projectId` and `before` must be given.
#[utoipa::path(
    delete, path = "/api/chat-sessions", tag = "sessions",
    params(DeleteSessionsQuery),
    responses((status = 200, body = Envelope<DeleteSessionsResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete_sessions(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    QueryParams(query): QueryParams<DeleteSessionsQuery>,
) -> ApiResult<Json<Envelope<DeleteSessionsResponse>>> {
    let filter = match (query.project_id, query.before) {
        (Some(project), None) => DeleteFilter::Project(project),
        (None, Some(time)) => DeleteFilter::InactiveSince(time),
        // No filter must not mean all sessions: a client that forgot it would lose everything.
        _ => {
            return Err(Error::invalid_field(
                "projectId",
                "or before must be given, and only one of them",
            ));
        }
    };
    let deleted = api.chat.delete_sessions(&principal, filter).await?;
    Ok(ok_response("Sessions deleted successfully", deleted.into()))
}
