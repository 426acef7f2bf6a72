//! `/api/import`: whole sessions, read as they arrive, each stored or refused by itself.

use super::ApiState;
use super::body::StreamedJsonBody;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::{CurrentUser, NoQueryParams};
use crate::error::Error;
use crate::transfer::import::{ImportReport, SessionImporter};
use crate::transfer::session_reader::read_sessions;
use crate::transfer::session_record::ImportOptions;
use crate::transfer::session_record::SessionRecord;
use axum::Json;
use axum::extract::State;
use futures::TryStreamExt;
use std::io;
use tokio::runtime::Handle;
use tokio_util::io::{StreamReader, SyncIoBridge};
use utoipa::ToSchema;

/// A file of sessions. Fields are those of sessions and messages as the API gives them. Sessions
/// one after the other, and ChatGPT's `conversations.json`, are taken as well.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body, which is read piece by piece")]
pub(super) struct ImportRequest {
    sessions: Vec<SessionRecord>,
}

/// Import sessions: all of each or none of it. Importing the same file twice changes nothing.
#[utoipa::path(
    post, path = "/api/import", tag = "import", request_body = ImportRequest,
    responses((status = 200, body = Envelope<ImportReport>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn import_sessions(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    _query: NoQueryParams,
    StreamedJsonBody(body): StreamedJsonBody,
) -> ApiResult<Json<Envelope<ImportReport>>> {
    let bytes = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let terms = ImportOptions {
        max_message: api.size_limits.message,
        trusts_participants: who.is_admin || api.auth.is_disabled(),
    };
    let chat = api.chat;
    let mut import = SessionImporter::new(api.store, who, terms, Handle::current())
        .with_progress(move |imported| chat.publish_import(imported));
    let task = tokio::task::spawn_blocking(move || {
        let read =
            read_sessions(SyncIoBridge::new(Box::pin(bytes)), |raw| import.import_session(raw));
        import.finish(read)
    });
    let report = task.await.map_err(Error::internal)??;
    Ok(ok_response("Sessions imported successfully", report))
}
