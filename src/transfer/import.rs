//! An import in progress: stores or rejects each session of a file separately and reports the
//! outcome.
//!
//! Used by `http` and `cli`, which read the file. Runs on a thread that may block.

use super::draft_writer::DraftWriter;
use super::import_notes::{ImportNote, ImportNotes};
use super::import_pace::ImportPace;
use super::imported_messages::{MessageContext, MessageConverter, convert_records};
use super::message_reader::{MessageReader, ReplacedCharacters};
use super::session_reader::{MAX_SESSIONS, ReadError, SessionEntry, read_sessions};
use super::session_record::{self, ImportOptions, PreparedSession, SessionDigest, SessionRecord};
use super::source_format::{FoundFormat, SourceFormat, describe_unreadable, recognize_format};
use crate::clock;
use crate::domain::principal::AccessLevel;
use crate::domain::text::truncate_chars;
use crate::domain::{Principal, SessionId, Timestamp, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::json::StrictObject;
use crate::store::{ImportOutcome, ImportTarget, Store};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::runtime::Handle;
use utoipa::ToSchema;

/// Reason for skipping an entry of the file that is not a session, after its field name.
const NOT_A_CONVERSATION: &str = "is not a conversation: it has neither messages nor a mapping";

/// Size of a conversation of which only one is converted at a time: that takes several times its
/// size.
const LARGE_CONVERSATION_BYTES: u64 = 8 << 20;
static LARGE_CONVERSATION: Mutex<()> = Mutex::new(());
/// Skipped sessions that are listed. A file of two bytes per entry may hold millions.
const MAX_LISTED_SESSIONS: usize = 1000;
/// Notes that are listed by kind, of all sessions together. Beyond them each session has one.
const MAX_LISTED_NOTES: usize = 10_000;
/// Length of a skipped session's id in the list. Ids are of any length until they are converted.
const MAX_LISTED_ID_CHARS: usize = 200;

/// Outcome of an import.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ImportReport {
    /// Imported sessions.
    pub sessions: Vec<ImportedSession>,
    /// Sessions that were skipped.
    pub skipped: Vec<SkippedSession>,
    /// Number of further sessions that were skipped and are not listed.
    #[serde(rename = "moreSkipped", skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    pub more_skipped: u64,
    /// Of several files, those that were not imported, or not completely.
    #[serde(rename = "skippedFiles", skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub skipped_files: Vec<SkippedFile>,
    /// Number of further files that were not imported and are not listed.
    #[serde(rename = "moreSkippedFiles", skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    pub more_skipped_files: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl ImportReport {
    /// Removes the names of files: there was only one.
    pub(super) fn forget_file_names(&mut self) {
        for session in &mut self.skipped {
            session.file = None;
        }
    }
}

/// A file that was not imported, or not completely.
#[derive(Debug, Serialize, ToSchema)]
pub struct SkippedFile {
    /// Name of the file; of an entry of an archive, its path.
    pub file: String,
    /// Reason, such as the format that the file seems to have.
    pub reason: String,
    /// Whether it should have been imported, unlike the pictures next to an export.
    #[serde(skip)]
    pub is_failure: bool,
}

/// An imported session: the store now has all its messages.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportedSession {
    /// Id of the session in this store.
    #[schema(value_type = String)]
    pub session_id: SessionId,
    /// Id of the session in the file.
    pub source_id: Option<String>,
    /// Title of the session.
    pub title: String,
    /// Number of new messages.
    pub messages: u64,
    /// Contents of the conversation that were not imported, by kind.
    pub left_out: Vec<ImportNote>,
    /// Invalid values that were replaced or shortened, by field.
    pub mended: Vec<ImportNote>,
}

/// A session that was skipped.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkippedSession {
    /// Name of the file, if there were several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Position in the file, starting at 0.
    pub index: usize,
    /// Id of the session in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Reason, naming the invalid field.
    pub reason: String,
    /// The error, if the same import can succeed later.
    #[serde(skip)]
    retryable_error: Option<Error>,
}

/// Lengths of the report's lists.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct ReportPosition {
    sessions: usize,
    skipped: usize,
    more_skipped: u64,
}

/// An import in progress.
pub struct SessionImporter {
    store: Arc<dyn Store>,
    principal: Principal,
    options: ImportOptions,
    runtime: Handle,
    report: ImportReport,
    note_count: usize,
    /// Name of the file that is being read.
    file: Option<String>,
    /// Position of the next session in the file.
    next_index: usize,
    /// Source ids imported so far, with their position in the file.
    seen_ids: HashMap<String, usize>,
    /// The store failed. Reading on would only skip sessions that could be imported later.
    store_error: Option<Error>,
    pace: ImportPace,
    on_imported: Box<dyn Fn(&ImportOutcome) + Send>,
}

impl SessionImporter {
    /// `runtime` is the one that the store runs on.
    pub fn new(
        store: Arc<dyn Store>,
        principal: Principal,
        options: ImportOptions,
        runtime: Handle,
    ) -> Self {
        Self {
            store,
            principal,
            options,
            runtime,
            report: ImportReport::default(),
            note_count: 0,
            file: None,
            next_index: 0,
            seen_ids: HashMap::new(),
            store_error: None,
            pace: ImportPace::default(),
            on_imported: Box::new(|_| {}),
        }
    }

    /// Calls `on_imported` for each session once it is stored.
    #[must_use]
    pub fn with_progress(self, on_imported: impl Fn(&ImportOutcome) + Send + 'static) -> Self {
        Self { on_imported: Box::new(on_imported), ..self }
    }

    #[must_use]
    pub fn with_pace(self, pace: ImportPace) -> Self {
        Self { pace, ..self }
    }

    /// Stores or skips each session of a file. Blocks.
    pub fn read_file(&mut self, file: impl Read) -> Result<(), ReadError> {
        let pace = self.pace.clone();
        read_sessions(file, &pace, |entry| self.import_session(entry))
    }

    /// Breaks if the store is unavailable, or if the import is to end.
    fn import_session(&mut self, mut entry: SessionEntry<'_>) -> ControlFlow<()> {
        if self.pace.checkpoint().is_err() {
            return ControlFlow::Break(());
        }
        let index = self.next_index;
        self.next_index += 1;
        let markers = SessionMarkers::from_json(&entry.scanned.outline);
        let source_id = markers.source_id.clone();
        let outcome = markers.check_format(entry.is_session).and_then(|format| {
            self.check_count()?;
            self.check_duplicate(source_id.as_deref())?;
            // A file may hold millions of them.
            if format == SourceFormat::Echoic && entry.scanned.is_empty() {
                return Err(Error::invalid_field("session", "must have messages or other fields"));
            }
            match format {
                SourceFormat::Echoic => self.import_own_session(&mut entry, index),
                format => self.import_conversation(&mut entry, format, index),
            }
        });
        match outcome {
            Ok(stored) => self.note_imported(index, source_id, stored),
            // Every further session would fail as well, slowly.
            Err(error) if error.kind == ErrorKind::StoreUnavailable => {
                self.store_error = Some(error);
                return ControlFlow::Break(());
            }
            Err(error) => self.note_skipped(index, source_id, error),
        }
        ControlFlow::Continue(())
    }

    fn note_imported(&mut self, index: usize, source_id: Option<String>, stored: StoredSession) {
        let StoredSession { outcome, left_out, mended } = stored;
        (self.on_imported)(&outcome);
        // Only ids that were imported: a later session may repair a skipped one with the same id.
        self.seen_ids.extend(source_id.clone().map(|id| (id, index)));
        let ImportOutcome { session_id, title, added_messages: messages } = outcome;
        let (left_out, mended) = (self.list_notes(left_out), self.list_notes(mended));
        self.report.sessions.push(ImportedSession {
            session_id,
            source_id,
            title,
            messages,
            left_out,
            mended,
        });
    }

    /// The notes about a session, as long as the report has room for them.
    fn list_notes(&mut self, notes: ImportNotes) -> Vec<ImportNote> {
        let room = MAX_LISTED_NOTES.saturating_sub(self.note_count);
        let list = notes.into_short_list(room);
        self.note_count += list.len();
        list
    }

    fn note_skipped(&mut self, index: usize, session_id: Option<String>, error: Error) {
        if self.report.skipped.len() >= MAX_LISTED_SESSIONS {
            self.report.more_skipped += 1;
            return;
        }
        self.report.skipped.push(SkippedSession {
            file: self.file.clone(),
            index,
            session_id: session_id.map(|id| truncate_chars(&id, MAX_LISTED_ID_CHARS).to_owned()),
            reason: error.to_string(),
            retryable_error: Some(error).filter(|error| error.kind == ErrorKind::SessionBusy),
        });
    }

    /// Begins a file. Positions and ids are counted per file.
    pub(super) fn begin_file(&mut self, name: &str) -> ReportPosition {
        self.file = Some(name.to_owned());
        self.seen_ids.clear();
        self.next_index = 0;
        ReportPosition {
            sessions: self.report.sessions.len(),
            skipped: self.report.skipped.len(),
            more_skipped: self.report.more_skipped,
        }
    }

    pub(super) fn imported_since(&self, begin: &ReportPosition) -> usize {
        self.report.sessions.len() - begin.sessions
    }

    pub(super) fn imported_count(&self) -> usize {
        self.report.sessions.len()
    }

    pub(super) fn forget_skipped_since(&mut self, begin: &ReportPosition) {
        self.report.skipped.truncate(begin.skipped);
        self.report.more_skipped = begin.more_skipped;
    }

    /// Whether nothing more can be imported.
    pub(super) fn has_stopped(&self) -> bool {
        self.store_error.is_some() || self.pace.has_ended()
    }

    /// The outcome, given how the reading of the file ended. Errors carry the number of sessions
    /// imported before them as `details.imported`.
    pub fn finish(self, read: Result<(), ReadError>) -> Result<ImportReport> {
        let imported = self.report.sessions.len();
        // Checked first: when the store failed, so did the reading, and this is the cause.
        if let Some(error) = self.store_error {
            return Err(error.with_details(json!({ "imported": imported })));
        }
        read.map_err(|error| {
            if let ReadError::TooManySessions = error {
                let details = json!({ "body": error.to_string(), "imported": imported });
                return Error::new(ErrorKind::PayloadTooLarge, format!("body {error}"))
                    .with_details(details)
                    .with_limit("import_sessions");
            }
            let message = match &error {
                ReadError::UnreadableFormat(_) => format!("cannot be imported: {error}"),
                _ => error.to_string(),
            };
            let details = json!({ "body": message, "imported": imported });
            Error::invalid_field("body", message).with_details(details)
        })?;
        match self.report.skipped.as_slice() {
            // The only session is busy: report that, so that the client retries.
            [SkippedSession { retryable_error: Some(error), .. }] if imported == 0 => {
                Err(error.clone())
            }
            _ => Ok(self.report),
        }
    }

    /// Several files may have more sessions together than each may have.
    fn check_count(&self) -> Result<()> {
        if self.report.sessions.len() < MAX_SESSIONS {
            return Ok(());
        }
        let problem = format!("an import may have at most {MAX_SESSIONS} sessions");
        Err(Error::new(ErrorKind::InvalidRequest, problem))
    }

    /// Importing two sessions with the same id would merge them into one conversation.
    fn check_duplicate(&self, source_id: Option<&str>) -> Result<()> {
        match source_id.and_then(|id| self.seen_ids.get(id)) {
            None => Ok(()),
            Some(index) => {
                let message =
                    format!("must be unique within the file: sessions[{index}] has the same");
                Err(Error::invalid_field("sessionId", message))
            }
        }
    }

    /// Imports a session of Echoic's format, whose messages are read from the file one by one.
    fn import_own_session(
        &self,
        entry: &mut SessionEntry<'_>,
        index: usize,
    ) -> Result<StoredSession> {
        let now = clock::now();
        let mut replaced = ReplacedCharacters::default();
        let scanned = &entry.scanned;
        let fields = replaced.repair(scanned.own_fields(), 0);
        let mut record = SourceFormat::Echoic.parse_record(&fields)?;
        for field in &scanned.too_long {
            record.left_out.add(field, field);
        }
        let created_at = record.created_at;
        let messages = scanned.messages.as_ref();
        let cursor = &mut *entry.cursor;
        let derive_id = |record: &SessionRecord| {
            let mut digest = SessionDigest::new(&self.principal, record, index);
            if let Some(messages) = messages {
                let mut reader = MessageReader::open(cursor, messages, scanned.start, created_at)?;
                let (mut left_out, mut mended) = Default::default();
                while let Some(message) = reader.next_record(&mut left_out, &mut mended)? {
                    digest.add(&message);
                }
            }
            Ok(digest.finish())
        };
        let first_time = messages.and_then(|messages| messages.first_time);
        let prepared = session_record::prepare_session(
            &self.principal,
            record,
            derive_id,
            first_time,
            self.options,
            now,
        )?;
        self.store_session(prepared, now, |converter, draft, left_out, mended| {
            if let Some(messages) = messages {
                let reader =
                    MessageReader::open(entry.cursor, messages, scanned.start, created_at)?;
                let in_messages = reader.convert_all(
                    converter,
                    left_out,
                    mended,
                    |message, parent, place, mended| draft.push(message, parent, place, mended),
                )?;
                replaced.add(in_messages);
            }
            replaced.note(mended);
            Ok(())
        })
    }

    /// Imports a conversation of another product, whose text is held in memory.
    fn import_conversation(
        &self,
        entry: &mut SessionEntry<'_>,
        format: SourceFormat,
        index: usize,
    ) -> Result<StoredSession> {
        let now = clock::now();
        let mut replaced = ReplacedCharacters::default();
        let is_large = entry.text_length() > LARGE_CONVERSATION_BYTES;
        let _only_one =
            is_large.then(|| self.pace.wait_without_slice(|| LARGE_CONVERSATION.lock()));
        // Stores cannot keep NUL, and half of an emoji is no text at all.
        let raw = replaced.repair(entry.read_text()?, 0);
        // The outline of a long conversation may lack what tells similar formats apart.
        let format = match recognize_format(&raw) {
            FoundFormat::Readable(format) => format,
            _ => format,
        };
        let mut record = format.parse_record(&raw)?;
        drop(raw);
        let records = std::mem::take(&mut record.messages);
        let derive_id = |record: &SessionRecord| {
            let mut digest = SessionDigest::new(&self.principal, record, index);
            records.iter().for_each(|StrictObject(message)| digest.add(message));
            Ok(digest.finish())
        };
        let first_time = records.first().and_then(|StrictObject(first)| first.created_at);
        let prepared = session_record::prepare_session(
            &self.principal,
            record,
            derive_id,
            first_time,
            self.options,
            now,
        )?;
        self.store_session(prepared, now, |converter, draft, left_out, mended| {
            convert_records(
                converter,
                records,
                left_out,
                mended,
                |message, parent, place, mended| {
                    self.check_pace(is_large)?;
                    draft.push(message, parent, place, mended)
                },
            )?;
            replaced.note(mended);
            Ok(())
        })
    }

    /// Lets others go on between two messages of a conversation that is held in memory. Of shorter
    /// ones as many would be held as there are imports, so they are brought to their end.
    fn check_pace(&self, is_large: bool) -> Result<()> {
        match self.pace.has_ended() || is_large {
            true => self.pace.checkpoint().map_err(Error::internal),
            false => Ok(()),
        }
    }

    /// Stores a session, whose messages `add_messages` hands over.
    fn store_session(
        &self,
        prepared: PreparedSession,
        now: Timestamp,
        add_messages: impl FnOnce(
            &mut MessageConverter<'_>,
            &mut DraftWriter<'_>,
            &mut ImportNotes,
            &mut ImportNotes,
        ) -> Result<()>,
    ) -> Result<StoredSession> {
        let PreparedSession { target, end, mut left_out, mut mended } = prepared;
        let session = target.id.clone();
        let senders = self.list_senders(&target)?;
        let context = MessageContext {
            principal: &self.principal,
            session: &session,
            senders: senders.as_deref(),
            now,
        };
        let mut converter = MessageConverter::new(context);
        let store = &*self.store;
        let mut draft = DraftWriter::begin(store, &self.runtime, &self.principal, target, now)?;
        let added = add_messages(&mut converter, &mut draft, &mut left_out, &mut mended);
        if let Err(error) = added {
            draft.discard();
            return Err(error);
        }
        let (outcome, unknown) = draft.finish(end, now, &mut mended)?;
        if unknown.head {
            mended.add("headId", "headId");
        }
        if unknown.read_marks > 0 {
            left_out.add_many("readMarks", unknown.read_marks as u64, "readMarks");
        }
        Ok(StoredSession { outcome, left_out, mended })
    }

    /// The users in whose names messages may be imported: the importer and the participants of the
    /// stored session. `None` for anyone, if the file is trusted.
    fn list_senders(&self, target: &ImportTarget) -> Result<Option<Vec<UserId>>> {
        if self.options.trusts_participants {
            return Ok(None);
        }
        let mut senders = vec![self.principal.user.clone()];
        for id in [&target.id, &target.fallback_id] {
            let stored = self.store.get_session(&self.principal, id, AccessLevel::Owner);
            match self.runtime.block_on(stored) {
                Ok(session) => senders.extend(session.participants),
                Err(error) if error.kind == ErrorKind::StoreUnavailable => return Err(error),
                _ => {}
            }
        }
        Ok(Some(senders))
    }
}

/// A session that was imported, with what there is to say about it.
struct StoredSession {
    outcome: ImportOutcome,
    left_out: ImportNotes,
    mended: ImportNotes,
}

/// Format and id of a session, even if the rest cannot be read.
struct SessionMarkers {
    format: FoundFormat,
    source_id: Option<String>,
}

impl SessionMarkers {
    fn from_json(raw: &RawValue) -> Self {
        let format = recognize_format(raw);
        let source_id = match format {
            FoundFormat::Readable(format) => format.find_source_id(raw),
            _ => None,
        };
        Self { format, source_id }
    }

    /// The format of a session, or the reason for skipping it. The entries of a list `sessions` are
    /// Echoic's own, whatever their fields.
    fn check_format(&self, is_session: bool) -> Result<SourceFormat> {
        match (self.format, is_session) {
            (FoundFormat::Readable(format), _) => Ok(format),
            (FoundFormat::Unreadable(name), _) => {
                Err(Error::new(ErrorKind::InvalidRequest, describe_unreadable(name)))
            }
            (FoundFormat::Unknown, true) => Ok(SourceFormat::Echoic),
            (FoundFormat::Unknown, false) => Err(Error::invalid_field("entry", NOT_A_CONVERSATION)),
        }
    }
}
