//! The body of an import, written to a temporary file while it arrives. No thread waits for the
//! client.

use super::body::describe_body_error;
use crate::error::{Error, ErrorKind, Result};
use axum::body::BodyDataStream;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use multer::{Field, Multipart};
use parking_lot::Mutex;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

/// Bytes that stay in memory. Longer bodies go to a file in pieces of this size.
const MEMORY_BYTES: usize = 128 << 10;
/// Bytes of a form between two contents: the head of a part.
const MAX_PART_HEAD_BYTES: usize = 64 << 10;

/// A received file. The file on disk has no name and vanishes with its handle.
pub(super) enum ReceivedFile {
    Memory(Cursor<Vec<u8>>),
    File(std::fs::File),
}

impl Read for ReceivedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => bytes.read(buffer),
            Self::File(file) => file.read(buffer),
        }
    }
}

impl Seek for ReceivedFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Memory(bytes) => Seek::seek(bytes, position),
            Self::File(file) => Seek::seek(file, position),
        }
    }
}

/// The bytes that an import may still receive.
pub(super) struct ByteAllowance {
    left: usize,
    limit: usize,
}

impl ByteAllowance {
    pub(super) fn new(limit: usize) -> Self {
        Self { left: limit, limit }
    }

    fn take(&mut self, bytes: usize) -> Result<()> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| Error::too_large("body", self.limit).with_limit("import_size"))?;
        Ok(())
    }
}

/// Collects a file in memory, and on disk if it is long.
#[derive(Default)]
struct FileSpool {
    buffer: Vec<u8>,
    file: Option<tokio::fs::File>,
}

impl FileSpool {
    async fn push(&mut self, chunk: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() > MEMORY_BYTES { self.write_buffer().await } else { Ok(()) }
    }

    async fn write_buffer(&mut self) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = tempfile::tempfile().map_err(storage_error)?;
                self.file.insert(tokio::fs::File::from_std(file))
            }
        };
        file.write_all(&self.buffer).await.map_err(storage_error)?;
        self.buffer.clear();
        Ok(())
    }

    async fn finish(mut self) -> Result<ReceivedFile> {
        if self.file.is_some() {
            self.write_buffer().await?;
        }
        let Some(mut file) = self.file else {
            return Ok(ReceivedFile::Memory(Cursor::new(self.buffer)));
        };
        // Reports errors of the writes before, and waits for them.
        file.flush().await.map_err(storage_error)?;
        file.rewind().await.map_err(storage_error)?;
        Ok(ReceivedFile::File(file.into_std().await))
    }
}

fn storage_error(error: io::Error) -> Error {
    Error::new(ErrorKind::StoreUnavailable, "the import could not be stored temporarily")
        .with_source(error)
}

/// Receives a body that is one file. Errors: `payload_too_large`, `request_timeout`.
pub(super) async fn receive_file(
    mut body: BodyDataStream,
    allowance: &mut ByteAllowance,
) -> Result<ReceivedFile> {
    let mut spool = FileSpool::default();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(describe_body_error)?;
        allowance.take(chunk.len())?;
        spool.push(&chunk).await?;
    }
    spool.finish().await
}

/// The text between the parts of a form.
pub(super) fn parse_boundary(content_type: &str) -> Result<String> {
    multer::parse_boundary(content_type).map_err(|error| {
        Error::invalid_field("content-type", "must have a boundary").with_source(error)
    })
}

/// The parts of a form, received one by one.
pub(super) struct FormReceiver {
    form: Multipart<'static>,
    allowance: ByteAllowance,
    /// Bytes since the parser last gave something.
    unread: Arc<AtomicUsize>,
    failure: Arc<Mutex<Option<Error>>>,
}

/// Why the next part of a form cannot be received.
pub(super) enum FormError {
    /// The request cannot be handled.
    Request(Error),
    /// The form is malformed; its earlier parts are good.
    Form(multer::Error),
}

impl From<Error> for FormError {
    fn from(error: Error) -> Self {
        Self::Request(error)
    }
}

impl FormReceiver {
    pub(super) fn new(body: BodyDataStream, boundary: String, allowance: ByteAllowance) -> Self {
        let unread = Arc::<AtomicUsize>::default();
        let failure = Arc::<Mutex<Option<Error>>>::default();
        let body = PacedBody {
            body,
            has_yielded: false,
            unread: unread.clone(),
            failure: failure.clone(),
        };
        Self { form: Multipart::new(body, boundary), allowance, unread, failure }
    }

    /// The name and content of the next part.
    pub(super) async fn next_file(&mut self) -> Result<Option<(String, ReceivedFile)>, FormError> {
        self.unread.store(0, Ordering::Relaxed);
        let part = match self.form.next_field().await {
            Ok(Some(part)) => part,
            Ok(None) => return Ok(None),
            Err(error) => return Err(describe_form_error(&self.failure, error)),
        };
        let name = part.file_name().or(part.name()).unwrap_or("file").to_owned();
        let mut spool = FileSpool::default();
        let mut part: Field<'_> = part;
        loop {
            self.unread.store(0, Ordering::Relaxed);
            match part.chunk().await {
                Ok(Some(chunk)) => {
                    self.allowance.take(chunk.len())?;
                    spool.push(&chunk).await?;
                }
                Ok(None) => return Ok(Some((name, spool.finish().await?))),
                Err(error) => return Err(describe_form_error(&self.failure, error)),
            }
        }
    }
}

fn describe_form_error(failure: &Mutex<Option<Error>>, error: multer::Error) -> FormError {
    match failure.lock().take() {
        Some(failure) => FormError::Request(failure),
        None => FormError::Form(error),
    }
}

/// A body that gives one chunk at a time: the parser of forms would otherwise buffer as many as
/// there are. Fails if the parser takes more and more without finding anything.
struct PacedBody {
    body: BodyDataStream,
    has_yielded: bool,
    unread: Arc<AtomicUsize>,
    /// Why the body could not be read.
    failure: Arc<Mutex<Option<Error>>>,
}

impl Stream for PacedBody {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.has_yielded) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match Pin::new(&mut self.body).poll_next(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => {
                *self.failure.lock() = Some(describe_body_error(error));
                Poll::Ready(Some(Err(io::Error::other("the body could not be read"))))
            }
            Poll::Ready(Some(Ok(chunk))) => {
                self.has_yielded = true;
                if self.unread.fetch_add(chunk.len(), Ordering::Relaxed) > MAX_PART_HEAD_BYTES {
                    let error = Error::too_large("head of a part", MAX_PART_HEAD_BYTES);
                    *self.failure.lock() = Some(error.with_limit("import_part_head"));
                    return Poll::Ready(Some(Err(io::Error::other("a part has too long a head"))));
                }
                Poll::Ready(Some(Ok(chunk)))
            }
        }
    }
}
