//! `/api/export`: sessions as a file, written while it is read.

use super::ApiState;
use super::envelope::{ApiResult, ErrorResponse};
use super::extract::CurrentUser;
use super::query::QueryParams;
use crate::clock;
use crate::domain::{Message, ProjectId, Session, SessionId};
use crate::transfer::export::{ExportFormat, ExportScope, SessionExporter};
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

/// A file of sessions.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the answer, which is written piece by piece")]
pub(super) struct ExportFile {
    /// Always `echoic`.
    format: &'static str,
    /// Version of the file format: 1.
    version: u32,
    sessions: Vec<ExportedSession>,
}

/// A session with its messages in the order in which they were stored, parents before children;
/// what is null or follows from a message's place is left out of them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the answer, which is written piece by piece")]
pub(super) struct ExportedSession {
    #[serde(flatten)]
    session: Session,
    messages: Vec<Message>,
    /// Each user's last message read, by its id.
    #[schema(value_type = Object, required = false)]
    read_marks: Option<()>,
}

/// Export sessions: all of the caller's own, those of a project, or one. `POST /api/import` takes
/// the JSON forms back.
#[utoipa::path(
    get, path = "/api/export", tag = "import",
    params(
        ("sessionId" = Option<String>, Query, description = "Only this session"),
        ("projectId" = Option<String>, Query, description = "Only sessions of this project"),
        ("format" = Option<String>, Query, description = "json (default), jsonl: a session a line, markdown: active paths, for reading"),
    ),
    responses(
        (status = 200, description = "The file, outside the envelope", content(
            (ExportFile = "application/json"),
            (String = "application/x-ndjson"),
            (String = "text/markdown"),
        )),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn export_sessions(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    mut query: QueryParams,
) -> ApiResult<Response> {
    let session = query.take_parsed("sessionId", |id| SessionId::parse("sessionId", id));
    let project = query.take_parsed("projectId", |id| ProjectId::parse("projectId", id));
    let formats = [
        ("json", ExportFormat::Json),
        ("jsonl", ExportFormat::Jsonl),
        ("markdown", ExportFormat::Markdown),
    ];
    let format = query.take_choice("format", &formats).unwrap_or(ExportFormat::Json);
    if session.is_some() && project.is_some() {
        query.add_error("projectId", "must not come with sessionId");
    }
    query.finish()?;
    let which = match (session, project) {
        (Some(id), _) => ExportScope::Session(id),
        (None, Some(id)) => ExportScope::Project(id),
        (None, None) => ExportScope::All,
    };
    let export = SessionExporter::open(api.store, who, which, format).await?;
    let pieces = stream::try_unfold(export, |mut export| async move {
        Ok::<_, crate::error::Error>(
            export.next_chunk().await?.map(|piece| (Bytes::from(piece), export)),
        )
    });
    // The status is out: a file that breaks off is told by the connection that breaks off.
    let pieces =
        pieces.inspect_err(|error| tracing::warn!(error = %error.chain(), "an export was cut off"));
    Ok(build_file_response(Body::from_stream(pieces), format))
}

fn build_file_response(body: Body, format: ExportFormat) -> Response {
    let (kind, extension) = match format {
        ExportFormat::Json => ("application/json", "json"),
        ExportFormat::Jsonl => ("application/x-ndjson", "jsonl"),
        ExportFormat::Markdown => ("text/markdown; charset=utf-8", "md"),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let date: String = clock::now().to_string().chars().take(10).collect();
    let name = format!("attachment; filename=\"echoic-{date}.{extension}\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    response
}
