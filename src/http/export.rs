//! `/api/export`: sessions as a file, generated while the client downloads it.

use super::ApiState;
use super::envelope::{ApiResult, ErrorResponse};
use super::extract::CurrentUser;
use super::query::QueryParams;
use crate::clock;
use crate::domain::export_format::ExportFormat;
use crate::domain::{Message, ProjectId, Session, SessionId};
use crate::transfer::export::{ExportScope, SessionExporter};
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

/// An export file.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the response, which is written chunk by chunk")]
pub(super) struct ExportFile {
    /// Always `echoic`.
    format: &'static str,
    /// Version of the file format, currently 1.
    version: u32,
    sessions: Vec<ExportedSession>,
}

/// A session with its messages.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the response, which is written chunk by chunk")]
pub(super) struct ExportedSession {
    #[serde(flatten)]
    session: Session,
    /// All branches in the order stored, parents before children. Fields that are null, or follow
    /// from the message's position, are left out.
    messages: Vec<Message>,
    /// The ID of the last message each user has read, keyed by user ID.
    #[schema(value_type = Object, required = false)]
    read_marks: Option<()>,
}

/// Export sessions: all of the caller's own, those of a project, or one.
///
/// `POST /api/import` accepts the formats `json` and `jsonl`.
#[utoipa::path(
    get, path = "/api/export", tag = "import",
    params(
        ("sessionId" = Option<String>, Query, description = "Only this session"),
        ("projectId" = Option<String>, Query, description = "Only sessions of this project"),
        ("format" = Option<String>, Query, description = "json (default); jsonl, one session per line; or markdown, the active paths as text"),
    ),
    responses(
        (status = 200, description = "The file, without the envelope", content(
            (ExportFile = "application/json"),
            (String = "application/x-ndjson"),
            (String = "text/markdown"),
        )),
        (status = "default", body = ErrorResponse),
    )
)]
pub(super) async fn export_sessions(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    mut query: QueryParams,
) -> ApiResult<Response> {
    let session = query.take_parsed("sessionId", |id| SessionId::parse("sessionId", id));
    let project = query.take_parsed("projectId", |id| ProjectId::parse("projectId", id));
    let format = query.take_choice("format", ExportFormat::NAMES).unwrap_or(ExportFormat::Json);
    if session.is_some() && project.is_some() {
        query.add_error("projectId", "must not be combined with sessionId");
    }
    query.finish()?;
    let scope = match (session, project) {
        (Some(id), _) => ExportScope::Session(id),
        (None, Some(id)) => ExportScope::Project(id),
        (None, None) => ExportScope::All,
    };
    let export = SessionExporter::open(api.store, principal, scope, format).await?;
    let chunks = stream::try_unfold(export, |mut export| async move {
        Ok::<_, crate::error::Error>(
            export.next_chunk().await?.map(|chunk| (Bytes::from(chunk), export)),
        )
    });
    // The status line has been sent by now, so an error can only cut the connection; the missing
    // last chunk tells the client that the file is incomplete.
    let chunks = chunks.inspect_err(
        |error| tracing::warn!(error = %error.chain(), "export failed; closing the connection"),
    );
    Ok(build_file_response(Body::from_stream(chunks), format))
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
    // A private file must not stay in a cache.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let date: String = clock::now().to_string().chars().take(10).collect();
    let name = format!("attachment; filename=\"echoic-{date}.{extension}\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    response
}
