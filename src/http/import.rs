//! `/api/import`: whole sessions, stored one by one.
//!
//! The body is received completely before an import thread reads it. The parts of a form are
//! received and imported one after another.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::import_body::{
    ByteAllowance, FormError, FormReceiver, ReceivedFile, parse_boundary, receive_file,
};
use super::import_queue::ImportPermit;
use crate::error::{Error, ErrorKind, Result};
use crate::transfer::import::{ImportReport, SessionImporter};
use crate::transfer::import_files::{FileImporter, FileKind, detect_kind, too_many_files};
use crate::transfer::session_record::{ImportOptions, SessionRecord};
use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use std::io::{self, Seek};
use std::ops::ControlFlow;
use tokio::runtime::Handle;
use utoipa::ToSchema;

/// Files of a form. Each takes a moment even if it is empty.
const MAX_FORM_FILES: usize = 1_000;
/// Files of an upload, including those in its archives.
const MAX_FILES: usize = 10_000;

/// Media types of one file. Browsers and tools differ in the name of an archive's.
const FILE_TYPES: &[&str] = &[
    "application/json",
    "application/jsonl",
    "application/x-ndjson",
    "application/zip",
    "application/x-zip-compressed",
];

/// An import file, with the fields of sessions and messages as the API returns them. JSON Lines
/// (one session per line) is accepted, too, and so are the exports of ChatGPT, Claude.ai, Open
/// WebUI, LibreChat, chat-ui and DeepSeek, as JSON or as the ZIP archive that they come in.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body, which is read from a file")]
pub(super) struct ImportRequest {
    sessions: Vec<SessionRecord>,
}

/// Several import files in one form, JSON or ZIP. The names of the fields do not matter.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body, which is read from a file")]
pub(super) struct ImportForm {
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<Vec<u8>>,
}

/// A ZIP archive of import files.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "describes the body, which is read from a file")]
pub(super) struct ImportArchive(Vec<u8>);

/// The body of an import.
pub(super) enum ImportBody {
    File(Body),
    /// A form with its boundary.
    Form(Body, String),
}

impl FromRequest<ApiState> for ImportBody {
    type Rejection = Error;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self> {
        let declared = request.headers().get(CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
        // Refused before any of the body is read.
        if declared.is_some_and(|length: usize| length > api.imports.max_bytes) {
            let error = Error::too_large("body", api.imports.max_bytes);
            return Err(error.with_limit("import_size"));
        }
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if FILE_TYPES.contains(&essence.as_str()) {
            return Ok(Self::File(request.into_body()));
        }
        if essence == "multipart/form-data" {
            let boundary = parse_boundary(&kind)?;
            return Ok(Self::Form(request.into_body(), boundary));
        }
        Err(Error::new(
            ErrorKind::UnsupportedMediaType,
            "the body must be sent as application/json, application/zip or multipart/form-data",
        ))
    }
}

/// Import sessions.
///
/// Each session is imported or skipped with a reason. Invalid values are replaced and listed as
/// `mended`; contents that have no place in a session are listed as `leftOut`. Importing the same
/// file twice changes nothing. Several files can be sent as a form or as a ZIP archive; a file that
/// is not an export does not stop the others.
#[utoipa::path(
    post, path = "/api/import", tag = "import",
    request_body(content(
        (ImportRequest = "application/json"),
        (ImportForm = "multipart/form-data"),
        (ImportArchive = "application/zip"),
    )),
    responses((status = 200, body = Envelope<ImportReport>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn import_sessions(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    body: ImportBody,
) -> ApiResult<Json<Envelope<ImportReport>>> {
    let permit = api.imports.admit(&principal.user)?;
    let options = ImportOptions {
        max_message: api.size_limits.message,
        // Otherwise anyone could put made-up sessions into the lists of other users.
        trusts_participants: principal.is_admin || api.auth.is_disabled(),
        needs_consent: api.needs_consent,
    };
    let chat = api.chat;
    let import = SessionImporter::new(api.store, principal, options, Handle::current())
        .with_progress(move |imported| chat.publish_import(imported))
        .with_pace(permit.pace());
    let allowance = ByteAllowance::new(api.imports.max_bytes);
    let report = match body {
        ImportBody::File(body) => {
            let mut allowance = allowance;
            let file = receive_file(body.into_data_stream(), &mut allowance).await?;
            permit.run(move || import_body(import, file)).await??
        }
        ImportBody::Form(body, boundary) => {
            let form = FormReceiver::new(body.into_data_stream(), boundary, allowance);
            import_form(&permit, import, form).await?
        }
    };
    Ok(ok_response("Sessions imported successfully", report))
}

/// Imports a body that is one file.
fn import_body(mut import: SessionImporter, mut file: ReceivedFile) -> Result<ImportReport> {
    match detect_kind_and_rewind(&mut file) {
        Ok(FileKind::Archive) => {
            let mut import = FileImporter::new(import).with_file_limit(MAX_FILES);
            let _ = import.import_archive(None, file);
            import.finish()
        }
        Ok(_) => {
            let read = import.read_file(file);
            import.finish(read)
        }
        Err(error) => Err(Error::internal(error)),
    }
}

/// Imports the parts of a form, each before the next one is received.
async fn import_form(
    permit: &ImportPermit,
    import: SessionImporter,
    mut form: FormReceiver,
) -> Result<ImportReport> {
    let mut import = FileImporter::new(import).with_file_limit(MAX_FILES);
    let mut count = 0;
    loop {
        match form.next_file().await {
            Ok(Some(_)) if count == MAX_FORM_FILES => {
                return Err(import.fail(too_many_files(MAX_FORM_FILES)));
            }
            Ok(Some((name, file))) => {
                let work = move || {
                    let flow = import_part(&mut import, &name, file);
                    (import, flow)
                };
                let (returned, flow) = permit.run(work).await?;
                import = returned;
                count += 1;
                if flow.is_break() {
                    return import.finish();
                }
            }
            Ok(None) => return import.finish(),
            Err(FormError::Request(error)) => return Err(import.fail(error)),
            Err(FormError::Form(error)) => {
                let _ = import.note_skipped("the form", error.to_string(), true);
                return import.finish();
            }
        }
    }
}

fn import_part(import: &mut FileImporter, name: &str, mut file: ReceivedFile) -> ControlFlow<()> {
    match detect_kind_and_rewind(&mut file) {
        Ok(FileKind::Archive) => import.import_archive(Some(name), file),
        Ok(_) => import.import_file(name, file, true),
        Err(error) => import.skip_file(name, error.to_string(), true),
    }
}

fn detect_kind_and_rewind(file: &mut ReceivedFile) -> io::Result<FileKind> {
    let (kind, _) = detect_kind(&mut *file)?;
    file.rewind()?;
    Ok(kind)
}
