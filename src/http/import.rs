//! `/api/import`: whole sessions, parsed while the body arrives and stored one by one.
//!
//! A form with several files is read in the order of its parts. Only ZIP archives are written to a
//! temporary file first, because their directory is at the end.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use crate::error::{Error, ErrorKind, Result};
use crate::transfer::import::{ImportReport, SessionImporter};
use crate::transfer::import_files::{FileImporter, FileKind, detect_kind};
use crate::transfer::session_reader::read_sessions;
use crate::transfer::session_record::{ImportOptions, SessionRecord};
use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request, State};
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use multer::{Field, Multipart};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio_util::io::{StreamReader, SyncIoBridge};
use utoipa::ToSchema;

/// Maximum size of an archive, which is stored temporarily.
const MAX_ARCHIVE_BYTES: u64 = 4 << 30;
/// Bytes of a form between two contents: the head of a part.
const MAX_PART_HEAD_BYTES: u64 = 8 << 20;
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
#[allow(dead_code, reason = "describes the body, which is parsed as a stream")]
pub(super) struct ImportRequest {
    sessions: Vec<SessionRecord>,
}

/// Several import files in one form, JSON or ZIP. The names of the fields do not matter.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body, which is parsed as a stream")]
pub(super) struct ImportForm {
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<Vec<u8>>,
}

/// A ZIP archive of import files.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "describes the body, which is stored as a file")]
pub(super) struct ImportArchive(Vec<u8>);

/// The body of an import.
pub(super) enum ImportBody {
    File(Body),
    /// A form with its boundary.
    Form(Body, String),
}

impl FromRequest<ApiState> for ImportBody {
    type Rejection = Error;

    async fn from_request(request: Request, _: &ApiState) -> Result<Self> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if FILE_TYPES.contains(&essence.as_str()) {
            return Ok(Self::File(request.into_body()));
        }
        if essence == "multipart/form-data" {
            let boundary = multer::parse_boundary(&kind).map_err(|error| {
                Error::invalid_field("content-type", "must have a boundary").with_source(error)
            })?;
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
    let options = ImportOptions {
        max_message: api.size_limits.message,
        // Otherwise anyone could put made-up sessions into the lists of other users.
        trusts_participants: principal.is_admin || api.auth.is_disabled(),
    };
    let chat = api.chat;
    let import = SessionImporter::new(api.store, principal, options, Handle::current())
        .with_progress(move |imported| chat.publish_import(imported));
    // serde reads from blocking `io::Read` only, so the files are parsed on a blocking thread,
    // which pulls the body at its own pace.
    let task = tokio::task::spawn_blocking(move || match body {
        ImportBody::File(body) => {
            let bytes = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
            import_body(import, SyncIoBridge::new(Box::pin(bytes)))
        }
        ImportBody::Form(body, boundary) => import_form(import, body, boundary),
    });
    let report = task.await.map_err(Error::internal)??;
    Ok(ok_response("Sessions imported successfully", report))
}

/// Imports a body that is one file.
fn import_body(mut import: SessionImporter, body: impl Read) -> Result<ImportReport> {
    match detect_kind(body) {
        Ok((FileKind::Archive, archive)) => {
            let mut import = FileImporter::new(import);
            let _ = import_archive(&mut import, None, archive);
            import.finish()
        }
        Ok((_, json)) => {
            let read = read_sessions(json, |entry| import.import_session(entry));
            import.finish(read)
        }
        Err(error) => Err(Error::invalid_field("body", "must be complete").with_source(error)),
    }
}

/// Imports the parts of a form. Runs where blocking is allowed.
fn import_form(import: SessionImporter, body: Body, boundary: String) -> Result<ImportReport> {
    let mut import = FileImporter::new(import);
    let unread = Arc::new(AtomicU64::new(0));
    let body =
        PacedBody { body: body.into_data_stream(), has_yielded: false, unread: unread.clone() };
    let mut form = Multipart::new(body, boundary);
    let runtime = Handle::current();
    loop {
        unread.store(0, Ordering::Relaxed);
        match runtime.block_on(form.next_field()) {
            Ok(Some(part)) => {
                let part = PartReader {
                    part,
                    chunk: Bytes::new(),
                    unread: unread.clone(),
                    runtime: runtime.clone(),
                };
                if import_part(&mut import, part).is_break() {
                    return import.finish();
                }
            }
            Ok(None) => return import.finish(),
            Err(error) => {
                let _ = import.note_skipped("the form", error.to_string(), true);
                return import.finish();
            }
        }
    }
}

fn import_part(import: &mut FileImporter, mut part: PartReader<'_>) -> ControlFlow<()> {
    let name = part.part.file_name().or(part.part.name()).unwrap_or("file").to_owned();
    let flow = match detect_kind(&mut part) {
        Ok((FileKind::Archive, archive)) => import_archive(import, Some(&name), archive),
        Ok((_, file)) => import.import_file(&name, file, true),
        Err(error) => import.skip_file(&name, error.to_string(), true),
    };
    // The rest of a part that could not be read, so that the next one is found.
    let _ = io::copy(&mut part, &mut io::sink());
    flow
}

/// Imports an archive by way of a temporary file, which has no name and vanishes with its handle.
fn import_archive(
    import: &mut FileImporter,
    name: Option<&str>,
    archive: impl Read,
) -> ControlFlow<()> {
    match store_temporarily(archive) {
        Ok(file) => import.import_archive(name, file),
        Err(error) => {
            let reason = format!("the archive could not be stored temporarily: {error}");
            import.skip_file(name.unwrap_or("the archive"), reason, true)
        }
    }
}

fn store_temporarily(archive: impl Read) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    let written = io::copy(&mut archive.take(MAX_ARCHIVE_BYTES + 1), &mut file)?;
    if written > MAX_ARCHIVE_BYTES {
        return Err(io::Error::other(format!("it must be at most {MAX_ARCHIVE_BYTES} bytes")));
    }
    file.rewind()?;
    Ok(file)
}

/// The content of a part, as a blocking reader.
struct PartReader<'a> {
    part: Field<'a>,
    chunk: Bytes,
    unread: Arc<AtomicU64>,
    runtime: Handle,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            self.unread.store(0, Ordering::Relaxed);
            match self.runtime.block_on(self.part.chunk()).map_err(io::Error::other)? {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        buffer[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}

/// A body that gives one chunk at a time: the parser of forms would otherwise buffer as many as
/// there are. Fails if the parser takes more and more without finding anything.
struct PacedBody {
    body: BodyDataStream,
    has_yielded: bool,
    /// Bytes since the parser last gave something.
    unread: Arc<AtomicU64>,
}

impl Stream for PacedBody {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.has_yielded) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = Pin::new(&mut self.body).poll_next(cx);
        let Poll::Ready(Some(Ok(chunk))) = &next else {
            return next.map(|next| next.map(|chunk| chunk.map_err(io::Error::other)));
        };
        self.has_yielded = true;
        let length = chunk.len() as u64;
        let unread = self.unread.fetch_add(length, Ordering::Relaxed);
        if unread > MAX_PART_HEAD_BYTES {
            return Poll::Ready(Some(Err(io::Error::other("the head of a part is too long"))));
        }
        next.map(|next| next.map(|chunk| chunk.map_err(io::Error::other)))
    }
}
