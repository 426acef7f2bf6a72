//! `/api/import`: whole sessions, parsed while the body arrives and stored one by one.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::body::StreamedJsonBody;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use crate::error::Error;
use crate::transfer::import::{ImportReport, SessionImporter};
use crate::transfer::session_reader::read_sessions;
use crate::transfer::session_record::{ImportOptions, SessionRecord};
use axum::Json;
use axum::extract::State;
use futures::TryStreamExt;
use std::io;
use tokio::runtime::Handle;
use tokio_util::io::{StreamReader, SyncIoBridge};
use utoipa::ToSchema;

/// An import file, with the fields of sessions and messages as the API returns them. JSON Lines
/// (one session per line) and ChatGPT's `conversations.json` are accepted, too.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body, which is parsed as a stream")]
pub(super) struct ImportRequest {
    sessions: Vec<SessionRecord>,
}

/// Import sessions.
///
/// Each session is imported or skipped with a reason. Invalid values are replaced and listed as
/// `mended`; contents that have no place in a session are listed as `leftOut`. Importing the same
/// file twice changes nothing.
#[utoipa::path(
    post, path = "/api/import", tag = "import", request_body = ImportRequest,
    responses((status = 200, body = Envelope<ImportReport>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn import_sessions(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    StreamedJsonBody(body): StreamedJsonBody,
) -> ApiResult<Json<Envelope<ImportReport>>> {
    let bytes = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let options = ImportOptions {
        max_message: api.size_limits.message,
        // Otherwise anyone could put made-up sessions into the lists of other users.
        trusts_participants: principal.is_admin || api.auth.is_disabled(),
    };
    let chat = api.chat;
    let mut import = SessionImporter::new(api.store, principal, options, Handle::current())
        .with_progress(move |imported| chat.publish_import(imported));
    // serde reads from blocking `io::Read` only, so the file is parsed on a blocking thread, which
    // pulls the body at its own pace.
    let task = tokio::task::spawn_blocking(move || {
        let read =
            read_sessions(SyncIoBridge::new(Box::pin(bytes)), |raw| import.import_session(raw));
        import.finish(read)
    });
    let report = task.await.map_err(Error::internal)??;
    Ok(ok_response("Sessions imported successfully", report))
}
