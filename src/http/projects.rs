//! `/api/projects`: projects created, listed, read, changed, deleted. Their files are in `files.rs`.

use super::Api;
use super::body::{JsonBody, JsonUpTo};
use super::envelope::{Answer, Envelope, Failure, ok};
use super::extract::{Caller, NoQuery, ProjectPath, if_match};
use super::files::{NewFileBody, new_file};
use super::query::Query;
use super::sessions::{DeletedSessions, SessionList, session_query};
use crate::clock;
use crate::domain::page::{MAX_PAGE_SIZE, Pagination};
use crate::domain::project::{self, GenerationStatus};
use crate::domain::{FieldError, Project, ProjectId};
use crate::error::{Error, Result};
use crate::json::{StrictObject, present};
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
pub(super) type Etag = [(HeaderName, String); 1];

type ProjectAnswer = (Etag, Json<Envelope<Project>>);

pub(super) fn etag(version: u32) -> Etag {
    [(ETAG, format!("\"{version}\""))]
}

fn with_etag(message: &'static str, project: Project) -> ProjectAnswer {
    (etag(project.version), ok(message, project))
}

/// A project to create.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateProject {
    /// Trimmed, 1 to 200 characters.
    name: String,
    /// What it is about, up to 16 KiB; the model reads it, too.
    description: Option<String>,
    /// What the model is told in the project's sessions.
    system_prompt: Option<String>,
    generation_status: Option<GenerationStatus>,
    /// Each path once.
    #[schema(value_type = Option<Vec<ProjectFileBody>>)]
    files: Option<Vec<StrictObject<ProjectFileBody>>>,
}

/// A file of a project to create.
#[derive(Deserialize, ToSchema)]
pub(super) struct ProjectFileBody {
    /// Where it lies in the project: relative, without `..`, at most 512 bytes.
    path: String,
    /// Its text, at most 1 MiB.
    content: String,
    /// The language it is written in, as code fences name it.
    language: Option<String>,
}

/// Create a project, with its files if it has some. Creates no session.
#[utoipa::path(
    post, path = "/api/projects", tag = "projects", request_body = CreateProject,
    responses((status = 201, description = "Created", body = Envelope<Project>), (status = "default", body = Failure))
)]
pub(super) async fn create(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    JsonUpTo(body): JsonUpTo<32, CreateProject>,
) -> Answer<(StatusCode, ProjectAnswer)> {
    let new = NewProject {
        id: ProjectId::generate(),
        name: project::parse_name(&body.name)?,
        description: project::parse_description(body.description.unwrap_or_default())?,
        system_prompt: system_prompt(&api, body.system_prompt)?,
        generation_status: body.generation_status.unwrap_or_default(),
        files: new_files(body.files.unwrap_or_default()).await?,
    };
    let project = api.store.create_project(&who, new, clock::now()).await?;
    Ok((StatusCode::CREATED, with_etag("Project created successfully", project)))
}

async fn new_files(bodies: Vec<StrictObject<ProjectFileBody>>) -> Result<Vec<NewFile>> {
    // Before their tokens are counted, which takes a while.
    project::check_file_sizes(bodies.iter().map(|StrictObject(file)| file.content.len()))?;
    let mut files = Vec::with_capacity(bodies.len());
    let mut paths = HashSet::new();
    for (index, StrictObject(file)) in bodies.into_iter().enumerate() {
        let place = format!("files[{index}]");
        let ProjectFileBody { path, content, language } = file;
        let file = new_file(&path, NewFileBody { content, language })
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

fn system_prompt(api: &Api, text: Option<String>) -> Result<Option<String>, FieldError> {
    text.map_or(Ok(None), |text| project::parse_system_prompt(text, api.limits.message))
}

/// A page of projects.
#[derive(Serialize, ToSchema)]
pub(super) struct ProjectList {
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
    responses((status = 200, body = Envelope<ProjectList>), (status = "default", body = Failure))
)]
pub(super) async fn list(
    State(api): State<Api>,
    Caller(who): Caller,
    mut query: Query,
) -> Answer<Json<Envelope<ProjectList>>> {
    let page = query.number("page", 1..=u32::MAX).unwrap_or(1);
    let limit = query.number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(20);
    query.finish()?;
    let page = api.store.list_projects(&who, page, limit).await?;
    let list = ProjectList { projects: page.projects, pagination: page.pagination };
    Ok(ok("Projects retrieved successfully", list))
}

/// Read one project. Creates no session.
#[utoipa::path(
    get, path = "/api/projects/{projectId}", tag = "projects",
    params(("projectId" = String, Path)),
    responses((status = 200, body = Envelope<Project>), (status = "default", body = Failure))
)]
pub(super) async fn get(
    State(api): State<Api>,
    Caller(who): Caller,
    ProjectPath(id): ProjectPath,
    _query: NoQuery,
) -> Answer<ProjectAnswer> {
    let project = api.store.get_project(&who, &id).await?;
    Ok(with_etag("Project retrieved successfully", project))
}

/// Fields to replace; those left out stay as they are.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ChangeProject {
    /// Trimmed, 1 to 200 characters.
    name: Option<String>,
    /// Null empties it.
    #[serde(deserialize_with = "present")]
    description: Option<Option<String>>,
    /// Null takes it away.
    #[serde(deserialize_with = "present")]
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
    request_body = ChangeProject,
    responses((status = 200, body = Envelope<Project>), (status = "default", body = Failure))
)]
pub(super) async fn change(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    ProjectPath(id): ProjectPath,
    headers: HeaderMap,
    JsonBody(body): JsonBody<ChangeProject>,
) -> Answer<ProjectAnswer> {
    if body.files.is_some() {
        let wants = "must be changed one by one: PUT or DELETE /api/projects/:id/files/PATH";
        return Err(Error::invalid_field("files", wants));
    }
    let description = body.description.map(Option::unwrap_or_default);
    let system_prompt = body.system_prompt.map(|text| system_prompt(&api, text)).transpose()?;
    let change = ProjectUpdate {
        name: body.name.as_deref().map(project::parse_name).transpose()?,
        description: description.map(project::parse_description).transpose()?,
        system_prompt,
        generation_status: body.generation_status,
    };
    let versions = if_match(&headers)?;
    let project = api.store.update_project(&who, &id, change, versions, clock::now()).await?;
    Ok(with_etag("Project updated successfully", project))
}

/// Delete a project with its files, its sessions and their messages; running replies are stopped.
#[utoipa::path(
    delete, path = "/api/projects/{projectId}", tag = "projects",
    params(("projectId" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = Envelope<DeletedSessions>), (status = "default", body = Failure))
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Caller(who): Caller,
    ProjectPath(id): ProjectPath,
    headers: HeaderMap,
    _query: NoQuery,
) -> Answer<Json<Envelope<DeletedSessions>>> {
    let deleted = api.chat.delete_project(&who, &id, if_match(&headers)?, clock::now()).await?;
    Ok(ok("Project deleted successfully", deleted.into()))
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
    responses((status = 200, body = Envelope<SessionList>), (status = "default", body = Failure))
)]
pub(super) async fn sessions(
    State(api): State<Api>,
    Caller(who): Caller,
    ProjectPath(id): ProjectPath,
    query: Query,
) -> Answer<Json<Envelope<SessionList>>> {
    let mut query = session_query(query)?;
    if query.project_id.is_some() {
        return Err(Error::invalid_field("projectId", "is not a parameter of this route"));
    }
    let project = api.store.get_project(&who, &id).await?;
    query.project_id = Some(project.id);
    let page = api.store.list_all_sessions(Some(&project.owner), query).await?;
    Ok(ok("Sessions retrieved successfully", page.into()))
}
