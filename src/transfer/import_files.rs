//! Imports several files in one go: JSON files, and ZIP archives as products offer them for
//! download. A file that cannot be read does not stop the others; it is reported by name.
//!
//! The content decides what a file is, not its name. Archives are never unpacked: their entries are
//! read one after another, within limits against archives that expand to a multiple of their size.

use super::import::{ImportReport, SessionImporter, SkippedFile};
use super::session_reader::ReadError;
use crate::error::{Error, ErrorKind, Result};
use serde_json::error::Category;
use serde_json::json;
use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use zip::ZipArchive;
use zip::result::ZipError;

/// Bytes at the beginning of a file by which its kind is recognized.
const HEAD_BYTES: u64 = 64;
/// Files that are listed by name as skipped. An archive may hold thousands of pictures.
const MAX_LISTED_FILES: usize = 200;
/// Files that are listed if failures are among them.
const MAX_LISTED_FAILURES: usize = 1000;
/// Files whose reasons are in the error if nothing was imported.
const MAX_NAMED_FILES: usize = 3;
/// Bytes of an archive's directory, which is kept in memory: about 80,000 entries.
const MAX_DIRECTORY_BYTES: u64 = 8 << 20;
/// Times of its own size that an archive or an entry may expand to. Text seldom exceeds 20.
const MAX_EXPANSION: u64 = 200;
/// Maximum size of an entry, which is unpacked to a temporary file.
const MAX_ENTRY_BYTES: u64 = 4 << 30;
/// Bytes that every archive and entry may expand to.
const FREE_EXPANSION: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// The kind of a file by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Json,
    Archive,
    /// No bytes, or only blanks.
    Empty,
    Other,
}

/// Reads the beginning of a file. Returns its kind and a reader that begins there again.
pub fn detect_kind<R: Read>(mut file: R) -> io::Result<(FileKind, impl Read)> {
    let mut head = Vec::new();
    file.by_ref().take(HEAD_BYTES).read_to_end(&mut head)?;
    let text = head.strip_prefix(b"\xef\xbb\xbf".as_slice()).unwrap_or(&head).trim_ascii_start();
    let kind = match text.first() {
        Some(b'{' | b'[') => FileKind::Json,
        // A zip file without entries has the second signature.
        _ if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") => {
            FileKind::Archive
        }
        // Only blanks so far.
        None if head.len() as u64 == HEAD_BYTES => FileKind::Json,
        None => FileKind::Empty,
        _ => FileKind::Other,
    };
    Ok((kind, io::Cursor::new(head).chain(file)))
}

/// Receives the number of bytes that were read.
type ByteCounter = Arc<dyn Fn(u64) + Send + Sync>;

/// An import of several files in progress.
pub struct FileImporter {
    sessions: SessionImporter,
    skipped: Vec<SkippedFile>,
    skipped_count: u64,
    file_count: usize,
    /// Files that the import may have.
    max_files: usize,
    /// The limit that ended the import.
    excess: Option<Error>,
    /// A file was read to its end, though it may have had no sessions.
    has_read_file: bool,
    on_bytes: ByteCounter,
}

impl FileImporter {
    pub fn new(sessions: SessionImporter) -> Self {
        Self {
            sessions,
            skipped: Vec::new(),
            skipped_count: 0,
            file_count: 0,
            max_files: usize::MAX,
            excess: None,
            has_read_file: false,
            on_bytes: Arc::new(|_| {}),
        }
    }

    /// Calls `on_bytes` with the compressed bytes of archives read since the last call.
    #[must_use]
    pub fn with_archive_progress(self, on_bytes: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { on_bytes: Arc::new(on_bytes), ..self }
    }

    /// Bounds the number of files, including the entries of archives.
    #[must_use]
    pub fn with_file_limit(self, max_files: usize) -> Self {
        Self { max_files, ..self }
    }

    /// Imports a file of JSON. `is_expected` marks one that has to be an export, because it was
    /// named by the user. Breaks if the store is unavailable. Blocks.
    pub fn import_file(
        &mut self,
        name: &str,
        file: impl Read,
        is_expected: bool,
    ) -> ControlFlow<()> {
        self.file_count += 1;
        let (kind, file) = match detect_kind(file) {
            Ok(found) => found,
            Err(error) => return self.note_skipped(name, error.to_string(), true),
        };
        match kind {
            FileKind::Json => {}
            FileKind::Archive => {
                return self.note_skipped(name, "is an archive inside of an archive", is_expected);
            }
            FileKind::Empty => return self.note_skipped(name, "is empty", is_expected),
            FileKind::Other => return self.note_skipped(name, "is not JSON", is_expected),
        }
        let before = self.sessions.begin_file(name);
        let read = self.sessions.read_file(file);
        let imported = self.sessions.imported_since(&before);
        let Err(error) = read else {
            self.has_read_file = true;
            return ControlFlow::Continue(());
        };
        if self.sessions.has_stopped() {
            return ControlFlow::Break(());
        }
        // Entries of a file without sessions are not worth a line each.
        if error.is_without_sessions() {
            self.sessions.forget_skipped_since(&before);
        }
        let is_failure = is_expected || is_damage(&error, name);
        let reason = match imported {
            // Errors of other JSON in the folder of an export say nothing.
            0 if !is_failure => "contains no conversations".to_owned(),
            0 => error.to_string(),
            _ => format!("{error}; sessions imported before that: {imported}"),
        };
        self.note_skipped(name, reason, is_failure)
    }

    /// Imports the entries of a ZIP archive. `name` is put in front of their names. Breaks if the
    /// store is unavailable. Blocks.
    pub fn import_archive<R: Read + Seek>(
        &mut self,
        name: Option<&str>,
        mut file: R,
    ) -> ControlFlow<()> {
        let shown_name = name.unwrap_or("the archive");
        let bytes_left = Rc::new(Cell::new(MAX_DIRECTORY_BYTES));
        let opened = file.seek(SeekFrom::End(0)).map_err(ZipError::from).and_then(|size| {
            let file = BudgetReader { file, bytes_left: bytes_left.clone(), is_strict: false };
            Ok((size, ZipArchive::new(file)?))
        });
        let (size, mut archive) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let reason = format!("is not a readable ZIP archive: {error}");
                return self.skip_file(shown_name, reason, true);
            }
        };
        bytes_left.set(u64::MAX);
        if self.file_count.saturating_add(archive.len()) > self.max_files {
            self.excess = Some(too_many_files(self.max_files));
            return ControlFlow::Break(());
        }
        let expansion_left = Rc::new(Cell::new(allowed_expansion(size)));
        for index in 0..archive.len() {
            let entry = archive.name_for_index(index).and_then(Result::ok);
            let entry = entry.map_or_else(|| format!("entry {index}"), printable_name);
            if entry.ends_with('/') || is_system_file(&entry) {
                continue;
            }
            let full_name = name.map_or_else(|| entry.clone(), |name| format!("{name}/{entry}"));
            self.import_entry(&full_name, &mut archive, index, &expansion_left)?;
        }
        ControlFlow::Continue(())
    }

    fn import_entry<R: Read + Seek>(
        &mut self,
        name: &str,
        archive: &mut ZipArchive<R>,
        index: usize,
        expansion_left: &Rc<Cell<u64>>,
    ) -> ControlFlow<()> {
        let entry = match archive.by_index(index) {
            Ok(entry) => entry,
            // Encrypted, or compressed by another method.
            Err(error) => return self.skip_file(name, error.to_string(), true),
        };
        let compressed = entry.compressed_size();
        if entry.size() > MAX_ENTRY_BYTES {
            return self.skip_file(
                name,
                format!("expands to more than {MAX_ENTRY_BYTES} bytes"),
                true,
            );
        }
        let limit = allowed_expansion(compressed);
        if entry.size() > limit.min(expansion_left.get()) {
            let reason = format!("expands to more than {MAX_EXPANSION} times its size");
            return self.skip_file(name, reason, true);
        }
        // The declared size may be a lie, so the real one counts as well.
        let declared = Rc::new(Cell::new(entry.size()));
        let progress = EntryProgress {
            on_bytes: self.on_bytes.clone(),
            compressed,
            size: entry.size().max(1),
            read: 0,
            reported: 0,
        };
        let entry = ProgressReader { file: entry, progress };
        let entry = BudgetReader { file: entry, bytes_left: declared, is_strict: true };
        let bytes_left = expansion_left.clone();
        let entry = BudgetReader { file: entry, bytes_left, is_strict: true };
        self.import_file(name, entry, false)
    }

    /// Counts and notes a file that cannot be opened or is not to be read.
    pub fn skip_file(
        &mut self,
        name: &str,
        reason: impl Into<String>,
        is_failure: bool,
    ) -> ControlFlow<()> {
        self.file_count += 1;
        self.note_skipped(name, reason, is_failure)
    }

    /// Notes a file that was not imported, or not completely. `is_failure` says that the user has
    /// to do something about it.
    pub fn note_skipped(
        &mut self,
        name: &str,
        reason: impl Into<String>,
        is_failure: bool,
    ) -> ControlFlow<()> {
        self.skipped_count += 1;
        // Failures are more important than the names of pictures.
        let limit = if is_failure { MAX_LISTED_FAILURES } else { MAX_LISTED_FILES };
        if self.skipped.len() < limit {
            let reason = reason.into();
            self.skipped.push(SkippedFile { file: name.to_owned(), reason, is_failure });
        }
        ControlFlow::Continue(())
    }

    /// The error that ended the import, with the number of imported sessions as `details.imported`.
    pub fn fail(&self, error: Error) -> Error {
        let mut details = error.details.clone().unwrap_or_else(|| json!({}));
        details["imported"] = json!(self.sessions.imported_count());
        error.with_details(details)
    }

    /// The outcome; an error if there was no file to import, or if the only one is damaged. The
    /// export of an account without sessions is no error. Errors carry the number of imported
    /// sessions as `details.imported`.
    pub fn finish(self) -> Result<ImportReport> {
        if let Some(error) = &self.excess {
            return Err(self.fail(error.clone()));
        }
        let is_single = self.file_count == 1;
        let mut report = self.sessions.finish(Ok(()))?;
        if is_single {
            report.forget_file_names();
        }
        let is_empty = report.sessions.is_empty() && report.skipped.is_empty();
        let is_damaged = is_single && self.skipped.iter().any(|file| file.is_failure);
        if is_empty && !self.has_read_file || is_damaged {
            return Err(describe_failure(&self.skipped, report.sessions.len()));
        }
        report.more_skipped_files = self.skipped_count - self.skipped.len() as u64;
        report.skipped_files = self.skipped;
        Ok(report)
    }
}

pub fn too_many_files(limit: usize) -> Error {
    let bound = format!("must have at most {limit} files");
    Error::new(ErrorKind::PayloadTooLarge, format!("an import {bound}; send fewer at a time"))
        .with_details(json!({ "body": bound }))
        .with_limit("import_files")
}

/// The error for files without anything to import.
fn describe_failure(files: &[SkippedFile], imported: usize) -> Error {
    let failures = files.iter().filter(|file| file.is_failure);
    let others = files.iter().filter(|file| !file.is_failure);
    let named = failures.chain(others).take(MAX_NAMED_FILES);
    let reasons: Vec<String> =
        named.map(|SkippedFile { file, reason, .. }| format!("{file}: {reason}")).collect();
    let problem = match reasons.is_empty() {
        true => "must contain conversations; there is no file in it".to_owned(),
        false => format!("must contain conversations: {}", reasons.join("; ")),
    };
    let details = json!({ "body": problem, "imported": imported });
    Error::invalid_field("body", problem).with_details(details)
}

/// Whether a file was meant to be imported but is damaged or in another product's format, rather
/// than a file of another kind in the same place.
fn is_damage(error: &ReadError, name: &str) -> bool {
    match error {
        ReadError::UnreadableFormat(_) | ReadError::TooManySessions => true,
        ReadError::Json { has_sessions: true, .. } => true,
        ReadError::Json { error, .. } => match error.category {
            Category::Io => true,
            Category::Syntax | Category::Eof => {
                let name = name.to_ascii_lowercase();
                [".json", ".jsonl", ".ndjson"].iter().any(|ending| name.ends_with(ending))
            }
            Category::Data => false,
        },
    }
}

fn allowed_expansion(size: u64) -> u64 {
    FREE_EXPANSION.max(size.saturating_mul(MAX_EXPANSION))
}

/// Names are printed in terminals.
fn printable_name(name: std::borrow::Cow<'_, str>) -> String {
    name.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// Files that operating systems add to folders and archives.
fn is_system_file(name: &str) -> bool {
    let is_hidden = |part: &str| part.starts_with('.') && !part.trim_matches('.').is_empty();
    name.split('/').any(|part| part == "__MACOSX" || is_hidden(part))
}

/// A reader that fails when its budget is used up. `is_strict` is for contents, which may not be a
/// byte longer; without it the budget is for the structure around them.
struct BudgetReader<R> {
    file: R,
    bytes_left: Rc<Cell<u64>>,
    is_strict: bool,
}

impl<R: Read> Read for BudgetReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let left = self.bytes_left.get().checked_sub(read as u64);
        let problem = || {
            io::Error::other(match self.is_strict {
                true => "expands to more than its declared size, or than the archive may",
                false => "its list of entries is too long",
            })
        };
        self.bytes_left.set(left.ok_or_else(problem)?);
        Ok(read)
    }
}

impl<R: Seek> Seek for BudgetReader<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// Reports an entry's share of its archive when it is read, and the rest when it is left.
struct EntryProgress {
    on_bytes: ByteCounter,
    compressed: u64,
    size: u64,
    read: u64,
    reported: u64,
}

impl EntryProgress {
    fn report(&mut self, share: u64) {
        (self.on_bytes)(share.saturating_sub(self.reported));
        self.reported = self.reported.max(share);
    }
}

impl Drop for EntryProgress {
    fn drop(&mut self) {
        self.report(self.compressed);
    }
}

struct ProgressReader<R> {
    file: R,
    progress: EntryProgress,
}

impl<R: Read> Read for ProgressReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let progress = &mut self.progress;
        progress.read += read as u64;
        let share =
            u128::from(progress.compressed) * u128::from(progress.read) / u128::from(progress.size);
        progress.report(u64::try_from(share).unwrap_or_default().min(progress.compressed));
        Ok(read)
    }
}
