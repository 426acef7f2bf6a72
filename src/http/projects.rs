//! `/api/projects`: projects created, listed, read, changed, deleted. Their files are in `files.rs`.

use super::ApiState;
use super::body::{JsonBody, LimitedJsonBody};
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::{CurrentUser, NoQueryParams, ProjectPath, parse_if_match};
use super::project_files::{PutFileRequest, build_new_file};
use super::query::QueryParams;
use super::sessions::{DeleteSessionsResponse, SessionListResponse, parse_session_query};
use crate::clock;
use crate::domain::page::{MAX_PAGE_SIZE, Pagination};
use crate::domain::project::{self, GenerationStatus};
use crate::domain::{FieldError, Project, ProjectId};
use crate::error::{Error, Result};
use crate::json::{StrictObject, deserialize_present};
use crate::store::{NewFile, NewProject, ProjectUpdate};
use axum::Json;
use axum::extract::State;
use axum::http::header::{ETAG, HeaderName};
use axum::http::{HeaderMap, StatusCode};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use utoipa::ToSchema;

/// The version of a project, as a header.
pub(super) type EtagHeader = [(HeaderName, String); 1];

type ProjectWithEtag = (EtagHeader, Json<Envelope<Project>>);

pub(super) fn etag_header(version: u32) -> EtagHeader {
    [(ETAG, format!("\"{version}\""))]
}

fn respond_with_project(message: &'static str, project: Project) -> ProjectWithEtag {
    (etag_header(project.version), ok_response(message, project))
}

/// A project to create.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateProjectRequest {
    /// Trimmed, 1 to 200 characters.
    name: String,
    /// What it is about, up to 16 KiB; the model reads it, too.
    description: Option<String>,
    /// What the model is told in the project's sessions.
    system_prompt: Option<String>,
    generation_status: Option<GenerationStatus>,
    /// Each path once.
    #[schema(value_type = Option<Vec<ProjectFileInput>>)]
    files: Option<Vec<StrictObject<ProjectFileInput>>>,
}

/// A file of a project to create.
#[derive(Deserialize, ToSchema)]
pub(super) struct ProjectFileInput {
    /// Where it lies in the project: relative, without `..`, at most 512 bytes.
    path: String,
    /// Its text, at most 1 MiB.
    content: String,
    /// The language it is written in, as code fences name it.
    language: Option<String>,
}

/// Create a project, with its files if it has some. Creates no session.
#[utoipa::path(
    post, path = "/api/projects", tag = "projects", request_body = CreateProjectRequest,
    responses((status = 201, description = "Created", body = Envelope<Project>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn create_project(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    LimitedJsonBody(body): LimitedJsonBody<32, CreateProjectRequest>,
) -> ApiResult<(StatusCode, ProjectWithEtag)> {
    let new = NewProject {
        id: ProjectId::generate(),
        name: project::parse_name(&body.name)?,
        description: project::parse_description(body.description.unwrap_or_default())?,
        system_prompt: parse_system_prompt(&api, body.system_prompt)?,
        generation_status: body.generation_status.unwrap_or_default(),
        files: build_new_files(body.files.unwrap_or_default()).await?,
    };
    let project = api.store.create_project(&who, new, clock::now()).await?;
    Ok((StatusCode::CREATED, respond_with_project("Project created successfully", project)))
}

async fn build_new_files(bodies: Vec<StrictObject<ProjectFileInput>>) -> Result<Vec<NewFile>> {
    // Before their tokens are counted, which takes a while.
    project::check_file_sizes(bodies.iter().map(|StrictObject(file)| file.content.len()))?;
    let mut files = Vec::with_capacity(bodies.len());
    let mut paths = HashSet::new();
    for (index, StrictObject(file)) in bodies.into_iter().enumerate() {
        let place = format!("files[{index}]");
        let ProjectFileInput { path, content, language } = file;
        let file = build_new_file(&path, PutFileRequest { content, language })
            .await
            .map_err(|error| error.within(&place))?;
        if !paths.insert(file.path.clone()) {
            return Err(FieldError::new("path", "must not be that of another file")
                .within(place)
                .into());
        }
        files.push(file);
    }
    Ok(files)
}

fn parse_system_prompt(api: &ApiState, text: Option<String>) -> Result<Option<String>, FieldError> {
    text.map_or(Ok(None), |text| project::parse_system_prompt(text, api.size_limits.message))
}

/// A page of projects.
#[derive(Serialize, ToSchema)]
pub(super) struct ProjectListResponse {
    /// The one that changed last comes first.
    projects: Vec<Project>,
    pagination: Pagination,
}

/// List the caller's projects, newest change first.
#[utoipa::path(
    get, path = "/api/projects", tag = "projects",
    params(
        ("page" = Option<u32>, Query, description = "From 1; a page past the end is empty"),
        ("limit" = Option<u32>, Query, description = "From 1 to 100, 20 by default"),
    ),
    responses((status = 200, body = Envelope<ProjectListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_projects(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    mut query: QueryParams,
) -> ApiResult<Json<Envelope<ProjectListResponse>>> {
    let page = query.take_number("page", 1..=u32::MAX).unwrap_or(1);
    let limit = query.take_number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(20);
    query.finish()?;
    let page = api.store.list_projects(&who, page, limit).await?;
    let list = ProjectListResponse { projects: page.projects, pagination: page.pagination };
    Ok(ok_response("Projects retrieved successfully", list))
}

/// Read one project. Creates no session.
#[utoipa::path(
    get, path = "/api/projects/{projectId}", tag = "projects",
    params(("projectId" = String, Path)),
    responses((status = 200, body = Envelope<Project>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_project(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    ProjectPath(id): ProjectPath,
    _query: NoQueryParams,
) -> ApiResult<ProjectWithEtag> {
    let project = api.store.get_project(&who, &id).await?;
    Ok(respond_with_project("Project retrieved successfully", project))
}

/// Fields to replace; those left out stay as they are.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct UpdateProjectRequest {
    /// Trimmed, 1 to 200 characters.
    name: Option<String>,
    /// Null empties it.
    #[serde(deserialize_with = "deserialize_present")]
    description: Option<Option<String>>,
    /// Null takes it away.
    #[serde(deserialize_with = "deserialize_present")]
    system_prompt: Option<Option<String>>,
    generation_status: Option<GenerationStatus>,
    /// Not here: it would be unclear which files go.
    #[schema(ignore)]
    files: Option<IgnoredAny>,
}

/// Change a project's own fields. `If-Match` with the `ETag` guards against overwriting.
#[utoipa::path(
    patch, path = "/api/projects/{projectId}", tag = "projects",
    params(("projectId" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body = UpdateProjectRequest,
    responses((status = 200, body = Envelope<Project>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn update_project(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    ProjectPath(id): ProjectPath,
    headers: HeaderMap,
    JsonBody(body): JsonBody<UpdateProjectRequest>,
) -> ApiResult<ProjectWithEtag> {
    if body.files.is_some() {
        let wants = "must be changed one by one: PUT or DELETE /api/projects/:id/files/PATH";
        return Err(Error::invalid_field("files", wants));
    }
    let description = body.description.map(Option::unwrap_or_default);
    let system_prompt =
        body.system_prompt.map(|text| parse_system_prompt(&api, text)).transpose()?;
    let change = ProjectUpdate {
        name: body.name.as_deref().map(project::parse_name).transpose()?,
        description: description.map(project::parse_description).transpose()?,
        system_prompt,
        generation_status: body.generation_status,
    };
    let versions = parse_if_match(&headers)?;
    let project = api.store.update_project(&who, &id, change, versions, clock::now()).await?;
    Ok(respond_with_project("Project updated successfully", project))
}

/// Delete a project with its files, its sessions and their messages; running replies are stopped.
#[utoipa::path(
    delete, path = "/api/projects/{projectId}", tag = "projects",
    params(("projectId" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Envelope<DeleteSessionsResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete_project(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    ProjectPath(id): ProjectPath,
    headers: HeaderMap,
    _query: NoQueryParams,
) -> ApiResult<Json<Envelope<DeleteSessionsResponse>>> {
    let deleted =
        api.chat.delete_project(&who, &id, parse_if_match(&headers)?, clock::now()).await?;
    Ok(ok_response("Project deleted successfully", deleted.into()))
}

/// List the sessions of a project, as `GET /api/chat-sessions` lists them.
#[utoipa::path(
    get, path = "/api/projects/{projectId}/chat-sessions", tag = "projects",
    params(
        ("projectId" = String, Path),
        ("page" = Option<u32>, Query, description = "From 1; a page past the end is empty"),
        ("limit" = Option<u32>, Query, description = "From 1 to 100, 20 by default"),
        ("cursor" = Option<String>, Query, description = "A nextCursor, in place of page"),
        ("search" = Option<String>, Query, description = "Every word must begin a word of the title; case and accents do not count"),
        ("status" = Option<String>, Query, description = "Only sessions with this status"),
        ("archived" = Option<String>, Query, description = "true, false (default) or all"),
        ("sort" = Option<String>, Query, description = "lastMessageAt, createdAt, updatedAt or title; - in front for descending"),
    ),
    responses((status = 200, body = Envelope<SessionListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_project_sessions(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    ProjectPath(id): ProjectPath,
    query: QueryParams,
) -> ApiResult<Json<Envelope<SessionListResponse>>> {
    let mut query = parse_session_query(query)?;
    if query.project_id.is_some() {
        return Err(Error::invalid_field("projectId", "is not a parameter of this route"));
    }
    let project = api.store.get_project(&who, &id).await?;
    query.project_id = Some(project.id);
    let page = api.store.list_all_sessions(Some(&project.owner), query).await?;
    Ok(ok_response("Sessions retrieved successfully", page.into()))
}
