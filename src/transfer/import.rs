//! An import in progress: stores or rejects each session of a file separately and reports the
//! outcome.
//!
//! Used by `http` and `cli`, which read the file. Runs on a thread that may block.

use super::chatgpt;
use super::import_notes::ImportNote;
use super::session_reader::FileEntry;
use super::session_record::{self, ImportOptions, SessionRecord};
use crate::clock;
use crate::domain::{Principal, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::json::{self, StrictObject};
use crate::store::{ImportOutcome, Store};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::runtime::Handle;
use utoipa::ToSchema;

/// Reason for skipping an entry of the file that is no session, after its field name.
const NOT_A_CONVERSATION: &str = "is not a conversation: it has neither messages nor a mapping";

/// Outcome of an import.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ImportReport {
    /// Imported sessions.
    pub sessions: Vec<ImportedSession>,
    /// Sessions that were skipped.
    pub skipped: Vec<SkippedSession>,
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

/// An import in progress.
pub struct SessionImporter {
    store: Arc<dyn Store>,
    principal: Principal,
    options: ImportOptions,
    runtime: Handle,
    report: ImportReport,
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
    pub fn import_session(&mut self, entry: FileEntry<'_>) -> ControlFlow<()> {
        // Every session so far is in one of the two lists.
        let index = self.report.sessions.len() + self.report.skipped.len();
        let (FileEntry::Session(raw) | FileEntry::Other(raw)) = entry;
        let markers = SessionMarkers::from_json(raw);
        let source_id = markers.source_id();
        let outcome = match entry {
            FileEntry::Session(_) => self
                .check_duplicate(source_id.as_deref())
                .and_then(|()| self.import_record(raw, &markers, index)),
            FileEntry::Other(_) => Err(Error::invalid_field("entry", NOT_A_CONVERSATION)),
        };
        match outcome {
            Ok((stored, left_out, mended)) => {
                (self.on_imported)(&stored);
                // Only ids that were imported: a later session may repair a skipped one with the
                // same id.
                self.seen_ids.extend(source_id.clone().map(|id| (id, index)));
                let ImportOutcome { session_id, title, added_messages: messages } = stored;
                let session =
                    ImportedSession { session_id, source_id, title, messages, left_out, mended };
                self.report.sessions.push(session);
            }
            // Every further session would fail as well, slowly.
            Err(error) if error.kind == ErrorKind::StoreUnavailable => {
                self.store_error = Some(error);
                return ControlFlow::Break(());
            }
            Err(error) => self.report.skipped.push(SkippedSession {
                index,
                session_id: source_id,
                reason: error.to_string(),
                retryable_error: Some(error).filter(|error| error.kind == ErrorKind::SessionBusy),
            }),
        }
        ControlFlow::Continue(())
    }

    /// The outcome, given how the reading of the file ended. Errors carry the number of sessions
    /// imported before them as `details.imported`.
    pub fn finish(self, read: Result<(), serde_json::Error>) -> Result<ImportReport> {
        let imported = self.report.sessions.len();
        // Checked first: when the store failed, so did the reading, and this is the cause.
        if let Some(error) = self.store_error {
            return Err(error.with_details(serde_json::json!({ "imported": imported })));
        }
        read.map_err(|error| {
            let message = format!(
                "must be {{\"sessions\": […]}}, one session per line, or a list of conversations: {error}"
            );
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
        markers: &SessionMarkers,
        index: usize,
    ) -> Result<(ImportOutcome, Vec<ImportNote>, Vec<ImportNote>)> {
        let mut record: SessionRecord = if markers.is_chatgpt() {
            chatgpt::parse_conversation(raw)?
        } else {
            json::parse_object(raw.get().as_bytes())
                .map_err(|error| Error::invalid_field(error.field, error.message))?
        };
        let left_out = std::mem::take(&mut record.left_out).into_list();
        let mended = std::mem::take(&mut record.mended).into_list();
        let now = clock::now();
        let import =
            session_record::to_import_session(&self.principal, record, index, self.options, now)?;
        let stored =
            self.runtime.block_on(self.store.import_session(&self.principal, import, now))?;
        Ok((stored, left_out, mended))
    }
}

/// Fields that identify a session's format and id, even if the rest cannot be read.
#[derive(Default, Deserialize)]
struct SessionMarkers {
    #[serde(rename = "sessionId")]
    session_id: Option<Value>,
    conversation_id: Option<Value>,
    id: Option<Value>,
    mapping: Option<IgnoredAny>,
}

impl SessionMarkers {
    fn from_json(raw: &RawValue) -> Self {
        serde_json::from_str(raw.get()).map(|StrictObject(markers)| markers).unwrap_or_default()
    }

    fn is_chatgpt(&self) -> bool {
        self.mapping.is_some()
    }

    /// The session's id in the file.
    fn source_id(&self) -> Option<String> {
        let id = match self.is_chatgpt() {
            true => self.conversation_id.as_ref().or(self.id.as_ref()),
            false => self.session_id.as_ref(),
        };
        Some(id?.as_str()?.chars().take(128).collect())
    }
}
