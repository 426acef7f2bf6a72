//! `/api/projects/:id/files/*path`: the files of a project, one at a time. The version they count
//! in is the project's.

use super::Api;
use super::body::JsonUpTo;
use super::envelope::{Answer, Envelope, Failure, ok};
use super::extract::{Caller, FileOfProject, NoQuery, if_match};
use super::projects::{Etag, etag};
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
pub(super) struct NewFileBody {
    /// Its text, at most 1 MiB.
    pub(super) content: String,
    /// The language it is written in, as code fences name it.
    pub(super) language: Option<String>,
}

/// Checks a file and counts its tokens.
pub(super) async fn new_file(path: &str, body: NewFileBody) -> Result<NewFile> {
    let path = FilePath::parse(path)?;
    let language = body.language.as_deref().map(FileLanguage::parse).transpose()?;
    let content = project::parse_file_content(body.content)?;
    Ok(NewFile { path, language, tokens: tokens::count_tokens_async(&content).await, content })
}

/// A file with its content.
#[derive(Serialize, ToSchema)]
pub(super) struct File {
    #[serde(flatten)]
    entry: FileEntry,
    /// Its text.
    content: String,
}

type FileAnswer = (Etag, Json<Envelope<File>>);

/// Read one file.
#[utoipa::path(
    get, path = "/api/projects/{projectId}/files/{*path}", tag = "projects",
    params(("projectId" = String, Path), ("path" = String, Path, description = "Names with slashes between them")),
    responses((status = 200, body = Envelope<File>), (status = "default", body = Failure))
)]
pub(super) async fn get(
    State(api): State<Api>,
    Caller(who): Caller,
    FileOfProject(id, path): FileOfProject,
    _query: NoQuery,
) -> Answer<FileAnswer> {
    let found = api.store.get_file(&who, &id, &path).await?;
    let file = File { entry: found.entry, content: found.content };
    Ok((etag(found.version), ok("File retrieved successfully", file)))
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
    request_body = NewFileBody,
    responses(
        (status = 201, description = "It is new", body = Envelope<File>),
        (status = 200, description = "It was there before", body = Envelope<File>),
        (status = "default", body = Failure),
    )
)]
pub(super) async fn put(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    FileOfProject(id, path): FileOfProject,
    headers: HeaderMap,
    JsonUpTo(body): JsonUpTo<8, NewFileBody>,
) -> Answer<(StatusCode, FileAnswer)> {
    let file = new_file(path.as_str(), body).await?;
    let content = file.content.clone();
    let put = api.store.put_file(&who, &id, file, if_match(&headers)?, clock::now()).await?;
    let (status, message) = match put.is_new {
        true => (StatusCode::CREATED, "File created successfully"),
        false => (StatusCode::OK, "File updated successfully"),
    };
    Ok((status, (etag(put.version), ok(message, File { entry: put.entry, content }))))
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(super) struct DeletedFile {
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
    responses((status = 200, body = Envelope<DeletedFile>), (status = "default", body = Failure))
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Caller(who): Caller,
    FileOfProject(id, path): FileOfProject,
    headers: HeaderMap,
    _query: NoQuery,
) -> Answer<(Etag, Json<Envelope<DeletedFile>>)> {
    let versions = if_match(&headers)?;
    let left = api.store.delete_file(&who, &id, &path, versions, clock::now()).await?;
    Ok((etag(left.version), ok("File deleted successfully", DeletedFile { path })))
}
