//! `/api/projects/:id/files/*path`: the files of a project, one at a time. The version they count
//! in is the project's.

use super::ApiState;
use super::body::LimitedJsonBody;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::{CurrentUser, NoQueryParams, ProjectFilePath, parse_if_match};
use super::projects::{EtagHeader, etag_header};
use crate::clock;
use crate::domain::project::{self, FileEntry, FileLanguage, FilePath};
use crate::error::Result;
use crate::memory::tokens;
use crate::store::NewFile;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A file to store.
#[derive(Deserialize, ToSchema)]
pub(super) struct PutFileRequest {
    /// Its text, at most 1 MiB.
    pub(super) content: String,
    /// The language it is written in, as code fences name it.
    pub(super) language: Option<String>,
}

/// Checks a file and counts its tokens.
pub(super) async fn build_new_file(path: &str, body: PutFileRequest) -> Result<NewFile> {
    let path = FilePath::parse(path)?;
    let language = body.language.as_deref().map(FileLanguage::parse).transpose()?;
    let content = project::parse_file_content(body.content)?;
    Ok(NewFile { path, language, tokens: tokens::count_tokens_async(&content).await, content })
}

/// A file with its content.
#[derive(Serialize, ToSchema)]
pub(super) struct ProjectFileResponse {
    #[serde(flatten)]
    entry: FileEntry,
    /// Its text.
    content: String,
}

type FileWithEtag = (EtagHeader, Json<Envelope<ProjectFileResponse>>);

/// Read one file.
#[utoipa::path(
    get, path = "/api/projects/{projectId}/files/{*path}", tag = "projects",
    params(("projectId" = String, Path), ("path" = String, Path, description = "Names with slashes between them")),
    responses((status = 200, body = Envelope<ProjectFileResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_project_file(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    ProjectFilePath(id, path): ProjectFilePath,
    _query: NoQueryParams,
) -> ApiResult<FileWithEtag> {
    let found = api.store.get_file(&who, &id, &path).await?;
    let file = ProjectFileResponse { entry: found.entry, content: found.content };
    Ok((etag_header(found.version), ok_response("File retrieved successfully", file)))
}

/// Store a file, new or in another's place. `If-Match` with the project's `ETag` guards against
/// overwriting.
#[utoipa::path(
    put, path = "/api/projects/{projectId}/files/{*path}", tag = "projects",
    params(
        ("projectId" = String, Path),
        ("path" = String, Path, description = "Relative, names with slashes between them, without .., at most 512 bytes"),
        ("If-Match" = Option<String>, Header),
    ),
    request_body = PutFileRequest,
    responses(
        (status = 201, description = "It is new", body = Envelope<ProjectFileResponse>),
        (status = 200, description = "It was there before", body = Envelope<ProjectFileResponse>),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn put_project_file(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    ProjectFilePath(id, path): ProjectFilePath,
    headers: HeaderMap,
    LimitedJsonBody(body): LimitedJsonBody<8, PutFileRequest>,
) -> ApiResult<(StatusCode, FileWithEtag)> {
    let file = build_new_file(path.as_str(), body).await?;
    let content = file.content.clone();
    let put = api.store.put_file(&who, &id, file, parse_if_match(&headers)?, clock::now()).await?;
    let (status, message) = match put.is_new {
        true => (StatusCode::CREATED, "File created successfully"),
        false => (StatusCode::OK, "File updated successfully"),
    };
    Ok((
        status,
        (
            etag_header(put.version),
            ok_response(message, ProjectFileResponse { entry: put.entry, content }),
        ),
    ))
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(super) struct DeleteFileResponse {
    #[schema(value_type = String)]
    path: FilePath,
}

/// Delete a file.
#[utoipa::path(
    delete, path = "/api/projects/{projectId}/files/{*path}", tag = "projects",
    params(
        ("projectId" = String, Path),
        ("path" = String, Path),
        ("If-Match" = Option<String>, Header),
    ),
    responses((status = 200, body = Envelope<DeleteFileResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete_project_file(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    ProjectFilePath(id, path): ProjectFilePath,
    headers: HeaderMap,
    _query: NoQueryParams,
) -> ApiResult<(EtagHeader, Json<Envelope<DeleteFileResponse>>)> {
    let versions = parse_if_match(&headers)?;
    let left = api.store.delete_file(&who, &id, &path, versions, clock::now()).await?;
    Ok((
        etag_header(left.version),
        ok_response("File deleted successfully", DeleteFileResponse { path }),
    ))
}
