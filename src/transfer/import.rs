//! An import in progress: stores or rejects each session of a file separately and reports the
//! outcome.
//!
//! Used by `http` and `cli`, which read the file. Runs on a thread that may block.

use super::import_notes::{ImportNote, ImportNotes};
use super::session_reader::{ReadError, SessionEntry};
use super::session_record::{self, ImportOptions, PreparedSession};
use super::source_format::{FoundFormat, SourceFormat, describe_unreadable, recognize_format};
use crate::clock;
use crate::domain::text::truncate_chars;
use crate::domain::{MessageId, Principal, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::json::escapes::{RepairedText, repair_escapes};
use crate::store::{ImportOutcome, MessageParent, Store};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::runtime::Handle;
use utoipa::ToSchema;

/// Reason for skipping an entry of the file that is not a session, after its field name.
const NOT_A_CONVERSATION: &str = "is not a conversation: it has neither messages nor a mapping";

/// Skipped sessions that are listed. A file of two bytes per entry may hold millions.
const MAX_LISTED_SESSIONS: usize = 1000;
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
    /// Name of the file that is being read.
    file: Option<String>,
    /// Position of the next session in the file.
    next_index: usize,
    /// Source ids imported so far, with their position in the file.
    seen_ids: HashMap<String, usize>,
    /// The store failed. Reading on would only skip sessions that could be imported later.
    store_error: Option<Error>,
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
            file: None,
            next_index: 0,
            seen_ids: HashMap::new(),
            store_error: None,
            on_imported: Box::new(|_| {}),
        }
    }

    /// Calls `on_imported` for each session once it is stored.
    #[must_use]
    pub fn with_progress(self, on_imported: impl Fn(&ImportOutcome) + Send + 'static) -> Self {
        Self { on_imported: Box::new(on_imported), ..self }
    }

    /// Stores or skips the next session. Breaks if the store is unavailable. Blocks.
    pub fn import_session(&mut self, entry: SessionEntry<'_>) -> ControlFlow<()> {
        let index = self.next_index;
        self.next_index += 1;
        let (SessionEntry::Session(raw) | SessionEntry::Other(raw)) = entry;
        // Stores cannot keep NUL, and half of an emoji is no text at all.
        let mut repaired = repair_escapes(raw.get());
        let json = repaired.as_mut().map(|repaired| std::mem::take(&mut repaired.json));
        let repaired_raw = json.and_then(|json| RawValue::from_string(json).ok());
        let raw = repaired_raw.as_deref().unwrap_or(raw);
        let markers = SessionMarkers::from_json(raw);
        let format = markers.check_format(entry);
        let source_id = markers.source_id;
        let outcome = format.and_then(|format| {
            self.check_duplicate(source_id.as_deref())?;
            self.import_record(raw, format, index)
        });
        match outcome {
            Ok((stored, left_out, mut mended)) => {
                (self.on_imported)(&stored);
                if let Some(RepairedText { replaced, first, .. }) = repaired {
                    mended.add_many("character", replaced, &format!("byte {first}"));
                }
                // Only ids that were imported: a later session may repair a skipped one with the
                // same id.
                self.seen_ids.extend(source_id.clone().map(|id| (id, index)));
                let ImportOutcome { session_id, title, added_messages: messages } = stored;
                self.report.sessions.push(ImportedSession {
                    session_id,
                    source_id,
                    title,
                    messages,
                    left_out: left_out.into_list(),
                    mended: mended.into_list(),
                });
            }
            // Every further session would fail as well, slowly.
            Err(error) if error.kind == ErrorKind::StoreUnavailable => {
                self.store_error = Some(error);
                return ControlFlow::Break(());
            }
            Err(error) => self.note_skipped(index, source_id, error),
        }
        ControlFlow::Continue(())
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

    pub(super) fn forget_skipped_since(&mut self, begin: &ReportPosition) {
        self.report.skipped.truncate(begin.skipped);
        self.report.more_skipped = begin.more_skipped;
    }

    pub(super) fn has_store_error(&self) -> bool {
        self.store_error.is_some()
    }

    /// The outcome, given how the reading of the file ended. Errors carry the number of sessions
    /// imported before them as `details.imported`.
    pub fn finish(self, read: Result<(), ReadError>) -> Result<ImportReport> {
        let imported = self.report.sessions.len();
        // Checked first: when the store failed, so did the reading, and this is the cause.
        if let Some(error) = self.store_error {
            return Err(error.with_details(serde_json::json!({ "imported": imported })));
        }
        read.map_err(|error| {
            let message = match &error {
                ReadError::UnreadableFormat(_) => format!("cannot be imported: {error}"),
                ReadError::Json { .. } => error.to_string(),
            };
            let details = serde_json::json!({ "body": message, "imported": imported });
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

    fn import_record(
        &self,
        raw: &RawValue,
        format: SourceFormat,
        index: usize,
    ) -> Result<(ImportOutcome, ImportNotes, ImportNotes)> {
        let record = format.parse_record(raw)?;
        let now = clock::now();
        let mut prepared =
            session_record::to_import_session(&self.principal, record, index, self.options, now)?;
        self.drop_unknown_references(&mut prepared)?;
        let PreparedSession { session, left_out, mended } = prepared;
        let stored =
            self.runtime.block_on(self.store.import_session(&self.principal, session, now))?;
        Ok((stored, left_out, mended))
    }

    /// A message whose parent is neither in the file nor in the store becomes a root. An unknown
    /// head is replaced by the last message.
    fn drop_unknown_references(&self, prepared: &mut PreparedSession) -> Result<()> {
        let session = &mut prepared.session;
        let mut known: HashSet<MessageId> =
            session.messages.iter().map(|(message, _)| message.id.clone()).collect();
        let ids = [session.id.clone(), session.fallback_id.clone()];
        let mut is_known = |id: &MessageId| -> Result<bool> {
            if !known.contains(id) && self.is_stored(&ids, id)? {
                known.insert(id.clone());
            }
            Ok(known.contains(id))
        };
        for (index, (_, parent)) in session.messages.iter_mut().enumerate() {
            if let MessageParent::Message(id) = parent
                && !is_known(id)?
            {
                *parent = MessageParent::Root;
                prepared.mended.add("parentId", &format!("messages[{index}].parentId"));
            }
        }
        if let Some(id) = &session.head_id
            && !is_known(id)?
        {
            session.head_id = None;
            prepared.mended.add("headId", "headId");
        }
        Ok(())
    }

    /// Whether the store has the message in one of the sessions, and the caller may see it.
    fn is_stored(&self, sessions: &[SessionId], id: &MessageId) -> Result<bool> {
        for session in sessions {
            let read = self.store.get_message(&self.principal, session, id);
            match self.runtime.block_on(read) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind == ErrorKind::StoreUnavailable => return Err(error),
                Err(_) => {}
            }
        }
        Ok(false)
    }
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
    fn check_format(&self, entry: SessionEntry<'_>) -> Result<SourceFormat> {
        match (self.format, entry) {
            (FoundFormat::Readable(format), _) => Ok(format),
            (FoundFormat::Unreadable(name), _) => {
                Err(Error::new(ErrorKind::InvalidRequest, describe_unreadable(name)))
            }
            (FoundFormat::Unknown, SessionEntry::Session(_)) => Ok(SourceFormat::Echoic),
            (FoundFormat::Unknown, SessionEntry::Other(_)) => {
                Err(Error::invalid_field("entry", NOT_A_CONVERSATION))
            }
        }
    }
}
