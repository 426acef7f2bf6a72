//! `/api/projects`: creating, listing, reading, updating and deleting projects. `project_files.rs`
//! serves single files.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::body::{JsonBody, LimitedJsonBody};
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::etag::{EtagHeader, IfMatch, etag_header};
use super::path::{PathParams, ProjectPath};
use super::project_files::{PutFileRequest, build_new_file};
use super::query::{PageQuery, QueryParams, RouteQuery};
use super::sessions::{DeleteSessionsResponse, ListSessionsQuery, SessionListResponse};
use crate::clock;
use crate::domain::page::{Pagination, SessionQuery};
use crate::domain::project::{self, GenerationStatus};
use crate::domain::{FieldError, Project, ProjectId};
use crate::error::{Error, Result};
use crate::json::{StrictObject, deserialize_present};
use crate::store::{NewFile, NewProject, ProjectUpdate};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};

type ProjectWithEtag = (EtagHeader, Json<Envelope<Project>>);

fn respond_with_project(message: &'static str, project: Project) -> ProjectWithEtag {
    (etag_header(project.version), ok_response(message, project))
}

/// A new project.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateProjectRequest {
    /// 1 to 200 characters after trimming.
    name: String,
    /// Up to 16 KiB. Part of the prompt in the project's sessions.
    description: Option<String>,
    /// Instructions for the model in the project's sessions.
    system_prompt: Option<String>,
    /// Progress of generating the project's files, maintained by the client (default `idle`).
    generation_status: Option<GenerationStatus>,
    /// Files of the project; paths must be unique.
    #[schema(value_type = Option<Vec<ProjectFileInput>>)]
    files: Option<Vec<StrictObject<ProjectFileInput>>>,
}

/// A file of a new project.
#[derive(Deserialize, ToSchema)]
pub(super) struct ProjectFileInput {
    /// Path of the file in the project: relative, without `..`, at most 512 bytes.
    path: String,
    /// The file's text, at most 1 MiB.
    content: String,
    /// The language of the file, named as in Markdown code fences.
    language: Option<String>,
}

/// Create a project, optionally with files.
#[utoipa::path(
    post, path = "/api/projects", tag = "projects", request_body = CreateProjectRequest,
    responses((status = 201, description = "Created", body = Envelope<Project>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn create_project(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
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
    let project = api.store.create_project(&principal, new, clock::now()).await?;
    Ok((StatusCode::CREATED, respond_with_project("Project created successfully", project)))
}

async fn build_new_files(bodies: Vec<StrictObject<ProjectFileInput>>) -> Result<Vec<NewFile>> {
    // Checked before any file's tokens are counted, which is slow.
    project::check_file_sizes(bodies.iter().map(|StrictObject(file)| file.content.len()))?;
    let mut files = Vec::with_capacity(bodies.len());
    let mut paths = HashSet::new();
    for (index, StrictObject(file)) in bodies.into_iter().enumerate() {
        let position = format!("files[{index}]");
        let ProjectFileInput { path, content, language } = file;
        let file = build_new_file(&path, PutFileRequest { content, language })
            .await
            .map_err(|error| error.within(&position))?;
        if !paths.insert(file.path.clone()) {
            return Err(FieldError::new("path", "must be unique within the project")
                .within(position)
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
    /// Most recently changed first.
    projects: Vec<Project>,
    pagination: Pagination,
}

/// List the caller's projects, most recently changed first.
#[utoipa::path(
    get, path = "/api/projects", tag = "projects",
    params(PageQuery),
    responses((status = 200, body = Envelope<ProjectListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_projects(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    QueryParams(query): QueryParams<PageQuery>,
) -> ApiResult<Json<Envelope<ProjectListResponse>>> {
    let page = api.store.list_projects(&principal, query.page(), query.limit()).await?;
    let list = ProjectListResponse { projects: page.projects, pagination: page.pagination };
    Ok(ok_response("Projects retrieved successfully", list))
}

/// Get a project.
#[utoipa::path(
    get, path = "/api/projects/{projectId}", tag = "projects",
    params(ProjectPath),
    responses((status = 200, body = Envelope<Project>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_project(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ProjectPath { project_id: id }): PathParams<ProjectPath>,
) -> ApiResult<ProjectWithEtag> {
    let project = api.store.get_project(&principal, &id).await?;
    Ok(respond_with_project("Project retrieved successfully", project))
}

/// Changes to a project. Fields that are left out are unchanged.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct UpdateProjectRequest {
    /// 1 to 200 characters after trimming.
    name: Option<String>,
    /// Up to 16 KiB; `null` clears it.
    #[serde(deserialize_with = "deserialize_present")]
    description: Option<Option<String>>,
    /// Instructions for the model in the project's sessions; `null` removes them.
    #[serde(deserialize_with = "deserialize_present")]
    system_prompt: Option<Option<String>>,
    /// Progress of generating the project's files, maintained by the client.
    generation_status: Option<GenerationStatus>,
    // Recognized only to refuse it: a list could mean to add files or to replace all of them.
    #[schema(ignore)]
    files: Option<IgnoredAny>,
}

/// Update fields of a project.
#[utoipa::path(
    patch, path = "/api/projects/{projectId}", tag = "projects",
    params(ProjectPath, IfMatch),
    request_body = UpdateProjectRequest,
    responses((status = 200, body = Envelope<Project>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn update_project(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ProjectPath { project_id: id }): PathParams<ProjectPath>,
    IfMatch(versions): IfMatch,
    JsonBody(body): JsonBody<UpdateProjectRequest>,
) -> ApiResult<ProjectWithEtag> {
    if body.files.is_some() {
        let expected =
            "must be changed one at a time, with PUT or DELETE /api/projects/:id/files/PATH";
        return Err(Error::invalid_field("files", expected));
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
    let project = api.store.update_project(&principal, &id, change, versions, clock::now()).await?;
    Ok(respond_with_project("Project updated successfully", project))
}

/// Delete a project with its files, its sessions and their messages.
///
/// Running replies are stopped.
#[utoipa::path(
    delete, path = "/api/projects/{projectId}", tag = "projects",
    params(ProjectPath, IfMatch),
    responses((status = 200, body = Envelope<DeleteSessionsResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete_project(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ProjectPath { project_id: id }): PathParams<ProjectPath>,
    IfMatch(versions): IfMatch,
) -> ApiResult<Json<Envelope<DeleteSessionsResponse>>> {
    let deleted = api.chat.delete_project(&principal, &id, versions, clock::now()).await?;
    Ok(ok_response("Project deleted successfully", deleted.into()))
}

/// The parameters of a list of sessions, without the project: that is part of the path.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct ListProjectSessionsQuery(ListSessionsQuery);

impl RouteQuery for ListProjectSessionsQuery {
    fn check(&self, errors: &mut Vec<FieldError>) {
        self.0.check(errors);
        if self.0.project_id.is_some() {
            errors.push(FieldError::new("projectId", "is not a parameter of this route"));
        }
        if self.0.invited {
            errors.push(FieldError::new("invited", "is not a parameter of this route"));
        }
    }
}

impl IntoParams for ListProjectSessionsQuery {
    fn into_params(location: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let params = ListSessionsQuery::into_params(location).into_iter();
        params.filter(|param| !matches!(&*param.name, "projectId" | "invited")).collect()
    }
}

/// List the sessions of a project: pinned first, then by latest activity.
#[utoipa::path(
    get, path = "/api/projects/{projectId}/chat-sessions", tag = "projects",
    params(ProjectPath, ListProjectSessionsQuery),
    responses((status = 200, body = Envelope<SessionListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_project_sessions(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ProjectPath { project_id: id }): PathParams<ProjectPath>,
    QueryParams(ListProjectSessionsQuery(query)): QueryParams<ListProjectSessionsQuery>,
) -> ApiResult<Json<Envelope<SessionListResponse>>> {
    // An admin may list another user's project, so the owner is the project's, not the caller.
    let project = api.store.get_project(&principal, &id).await?;
    let query = SessionQuery { project_id: Some(project.id), ..query.into_session_query()? };
    let page = api.store.list_all_sessions(Some(&project.owner), query).await?;
    Ok(ok_response("Sessions retrieved successfully", page.into()))
}
