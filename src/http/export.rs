//! `/api/export`: sessions as a file, generated while the client downloads it.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::envelope::{ApiResult, ErrorResponse};
use super::param::{ParseParam, parse_name, parse_param};
use super::query::{QueryParams, RouteQuery};
use crate::clock;
use crate::domain::export_format::ExportFormat;
use crate::domain::message::{FinishReason, MessageError};
use crate::domain::{
    FieldError, MessageType, ProjectId, Role, Session, SessionId, Status, Timestamp, Usage,
};
use crate::fair_pool::run_as;
use crate::transfer::export::{ExportScope, SessionExporter};
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Sessions with their messages, as an import accepts them.
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
    /// All branches in the order stored, parents before children.
    messages: Vec<ExportedMessage>,
    /// The ID of the last message each user has read, keyed by user ID.
    #[schema(value_type = Object, required = false)]
    read_marks: Option<()>,
}

/// A message with its parent. Fields without a value are left out.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the response, which is written chunk by chunk")]
pub(super) struct ExportedMessage {
    /// Message id, unique within the session.
    id: String,
    /// Message that this one follows; `null` for a root.
    parent_id: Option<String>,
    role: Role,
    sender_id: String,
    #[serde(rename = "type")]
    kind: MessageType,
    content: String,
    /// Content other than plain text, with the data that providers want back with their calls.
    #[schema(value_type = Vec<Object>, required = false)]
    parts: Vec<()>,
    status: Status,
    seen: bool,
    model: Option<String>,
    finish_reason: Option<FinishReason>,
    client_message_id: Option<String>,
    error: Option<MessageError>,
    usage: Option<Usage>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// The sessions to export, and the format.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportSessionsQuery {
    /// Only this session
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    session_id: Option<SessionId>,
    /// Only sessions of this project
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    project_id: Option<ProjectId>,
    /// json (default); jsonl, one session per line; or markdown, the active paths as text
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    format: Option<ExportFormat>,
}

/// Bytes that an open export holds at least: a chunk as it was read, and as it is written. Longer
/// messages count in addition.
const EXPORT_BYTES: usize = 2 << 20;

impl RouteQuery for ExportSessionsQuery {
    fn check(&self, errors: &mut Vec<FieldError>) {
        if self.session_id.is_some() && self.project_id.is_some() {
            errors.push(FieldError::new("projectId", "must not be combined with sessionId"));
        }
    }
}

impl ParseParam for ExportFormat {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        parse_name(text, Self::NAMES.iter())
    }
}

/// Export sessions: all of the caller's own, those of a project, or one.
///
/// `POST /api/import` accepts the formats `json` and `jsonl`.
#[utoipa::path(
    get, path = "/api/export", tag = "import",
    params(ExportSessionsQuery),
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
    QueryParams(query): QueryParams<ExportSessionsQuery>,
) -> ApiResult<Response> {
    let format = query.format.unwrap_or(ExportFormat::Json);
    let scope = match (query.session_id, query.project_id) {
        (Some(id), _) => ExportScope::Session(id),
        (None, Some(id)) => ExportScope::Project(id),
        (None, None) => ExportScope::All,
    };
    let user = principal.user.clone();
    let lease = api.body_budget.lease(user.clone());
    lease.take(EXPORT_BYTES)?;
    let export = SessionExporter::open(api.store, principal, scope, format).await?;
    let budget = api.body_budget;
    // The body is read by the connection, outside of the user's request.
    let chunks = stream::try_unfold((export, budget, user), |state| async move {
        let (mut export, budget, user) = state;
        let chunk = run_as(user.clone(), export.next_chunk()).await?.map(Bytes::from);
        let chunk = chunk.map(|chunk| {
            let lease = budget.lease(user.clone());
            lease.count(chunk.len().saturating_sub(EXPORT_BYTES));
            lease.attach_bytes(chunk)
        });
        Ok::<_, crate::error::Error>(chunk.map(|chunk| (chunk, (export, budget, user))))
    });
    // The status line has been sent by now, so an error can only cut the connection; the missing
    // last chunk tells the client that the file is incomplete.
    let chunks = chunks.inspect_err(
        |error| tracing::warn!(error = %error.chain(), "export failed; closing the connection"),
    );
    Ok(build_file_response(lease.attach(Body::from_stream(chunks)), format))
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
