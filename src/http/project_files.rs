//! `/api/projects/:id/files/*path`: single files of a project. Each change raises the version of
//! the project, which is the `ETag` of these routes.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::body::LimitedJsonBody;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::etag::{EtagHeader, IfMatch, etag_header};
use super::path::{PathParams, ProjectFilePath};
use crate::clock;
use crate::domain::project::{self, FileEntry, FileLanguage, FilePath};
use crate::error::Result;
use crate::memory::tokens;
use crate::store::NewFile;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The content of a project file.
#[derive(Deserialize, ToSchema)]
pub(super) struct PutFileRequest {
    /// The file's text, at most 1 MiB.
    pub(super) content: String,
    /// The language of the file, named as in Markdown code fences.
    pub(super) language: Option<String>,
}

/// Validates a file and counts its tokens.
pub(super) async fn build_new_file(path: &str, body: PutFileRequest) -> Result<NewFile> {
    let path = FilePath::parse(path)?;
    let language = body.language.as_deref().map(FileLanguage::parse).transpose()?;
    let content = project::parse_file_content(body.content)?;
    Ok(NewFile { path, language, tokens: tokens::count_tokens_async(&content).await, content })
}

/// A project file with its content.
#[derive(Serialize, ToSchema)]
pub(super) struct ProjectFileResponse {
    #[serde(flatten)]
    entry: FileEntry,
    /// The file's text.
    content: String,
}

type FileWithEtag = (EtagHeader, Json<Envelope<ProjectFileResponse>>);

/// Get a file of a project.
#[utoipa::path(
    get, path = "/api/projects/{projectId}/files/{*path}", tag = "projects",
    params(ProjectFilePath),
    responses((status = 200, body = Envelope<ProjectFileResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_project_file(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ProjectFilePath { project_id: id, path }): PathParams<ProjectFilePath>,
) -> ApiResult<FileWithEtag> {
    let found = api.store.get_file(&principal, &id, &path).await?;
    let file = ProjectFileResponse { entry: found.entry, content: found.content };
    Ok((etag_header(found.version), ok_response("File retrieved successfully", file)))
}

/// Create or replace a file of a project.
#[utoipa::path(
    put, path = "/api/projects/{projectId}/files/{*path}", tag = "projects",
    params(
        ProjectFilePath,
        IfMatch,
    ),
    request_body = PutFileRequest,
    responses(
        (status = 201, description = "Created", body = Envelope<ProjectFileResponse>),
        (status = 200, description = "Replaced", body = Envelope<ProjectFileResponse>),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn put_project_file(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ProjectFilePath { project_id: id, path }): PathParams<ProjectFilePath>,
    IfMatch(versions): IfMatch,
    // 1 MiB of text can be six times as long in JSON, with each byte written as an escape.
    LimitedJsonBody(body): LimitedJsonBody<8, PutFileRequest>,
) -> ApiResult<(StatusCode, FileWithEtag)> {
    let file = build_new_file(path.as_str(), body).await?;
    // The store takes the file, and the response repeats its content.
    let content = file.content.clone();
    let put = api.store.put_file(&principal, &id, file, versions, clock::now()).await?;
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

/// A deleted file.
#[derive(Serialize, ToSchema)]
pub(super) struct DeleteFileResponse {
    /// Path of the file in the project.
    #[schema(value_type = String)]
    path: FilePath,
}

/// Delete a file of a project.
#[utoipa::path(
    delete, path = "/api/projects/{projectId}/files/{*path}", tag = "projects",
    params(
        ProjectFilePath,
        IfMatch,
    ),
    responses((status = 200, body = Envelope<DeleteFileResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn delete_project_file(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ProjectFilePath { project_id: id, path }): PathParams<ProjectFilePath>,
    IfMatch(versions): IfMatch,
) -> ApiResult<(EtagHeader, Json<Envelope<DeleteFileResponse>>)> {
    // The file is gone, so the ETag is that of the project after the deletion.
    let deletion = api.store.delete_file(&principal, &id, &path, versions, clock::now()).await?;
    Ok((
        etag_header(deletion.version),
        ok_response("File deleted successfully", DeleteFileResponse { path }),
    ))
}
