//! An import under way: each session of a file stored or refused by itself, and the report of it.
//!
//! Called by `http` and `cli`, which read the file; runs on a thread that may block.

use super::chatgpt;
use super::session_record::{self, SessionRecord};
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

/// What an importer may do.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions {
    /// The most bytes of a message's text.
    pub max_message: usize,
    /// Whether the participants that a file names become those of its sessions.
    pub trusts_participants: bool,
}

/// What came of an import.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ImportReport {
    /// Those that went in.
    pub sessions: Vec<ImportedSession>,
    /// Those that did not.
    pub skipped: Vec<SkippedSession>,
}

/// A session that went in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportedSession {
    /// Its id here.
    #[schema(value_type = String)]
    pub session_id: SessionId,
    /// Its id in the file.
    pub source_id: Option<String>,
    /// Its title.
    pub title: String,
    /// Messages that were not there before.
    pub messages: u64,
}

/// A session that did not.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkippedSession {
    /// Its place in the file, from 0.
    pub index: usize,
    /// Its id in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// What is wrong with it, and where.
    pub reason: String,
    /// The error, if it will pass.
    #[serde(skip)]
    retryable_error: Option<Error>,
}

/// An import under way.
pub struct SessionImporter {
    store: Arc<dyn Store>,
    principal: Principal,
    options: ImportOptions,
    runtime: Handle,
    report: ImportReport,
    /// Those of the file's ids that went in, and where they stood.
    seen_ids: HashMap<String, usize>,
    /// The store gave out: reading on would only skip what could go in later.
    store_error: Option<Error>,
    on_imported: Box<dyn Fn(&ImportOutcome) + Send>,
}

impl SessionImporter {
    /// An import for `who`. The runtime is the store's.
    pub fn new(
        store: Arc<dyn Store>,
        who: Principal,
        terms: ImportOptions,
        runtime: Handle,
    ) -> Self {
        let (report, ids) = (ImportReport::default(), HashMap::new());
        Self {
            store,
            principal: who,
            options: terms,
            runtime,
            report,
            seen_ids: ids,
            store_error: None,
            on_imported: Box::new(|_| {}),
        }
    }

    /// The same, telling of each session once it is stored.
    #[must_use]
    pub fn with_progress(self, tell: impl Fn(&ImportOutcome) + Send + 'static) -> Self {
        Self { on_imported: Box::new(tell), ..self }
    }

    /// Stores or skips the next session. Breaks when the store gives out. Blocks.
    pub fn import_session(&mut self, raw: &RawValue) -> ControlFlow<()> {
        let index = self.report.sessions.len() + self.report.skipped.len();
        let signs = SessionMarkers::from_json(raw);
        let source_id = signs.source_id();
        let is_first = self.check_duplicate(source_id.as_deref());
        match is_first.and_then(|()| self.import_record(raw, &signs, index)) {
            Ok(imported) => {
                (self.on_imported)(&imported);
                let ImportOutcome { session_id, title, added_messages: messages } = imported;
                self.seen_ids.extend(source_id.clone().map(|id| (id, index)));
                let session = ImportedSession { session_id, source_id, title, messages };
                self.report.sessions.push(session);
            }
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

    /// What came of it, given how the reading of the file ended. Errors tell how many sessions went
    /// in before: `details.imported`.
    pub fn finish(self, read: Result<(), serde_json::Error>) -> Result<ImportReport> {
        let imported = self.report.sessions.len();
        if let Some(outage) = self.store_error {
            return Err(outage.with_details(serde_json::json!({ "imported": imported })));
        }
        read.map_err(|error| {
            let wants = format!(
                "must be {{\"sessions\": […]}}, a session a line, or a list of conversations: {error}"
            );
            let details = serde_json::json!({ "body": wants, "imported": imported });
            Error::invalid_field("body", wants).with_details(details)
        })?;
        match self.report.skipped.as_slice() {
            // Nothing went in, and later it can.
            [SkippedSession { retryable_error: Some(error), .. }] if imported == 0 => {
                Err(error.clone())
            }
            _ => Ok(self.report),
        }
    }

    /// Two sessions of one id would become one conversation that nobody had.
    fn check_duplicate(&self, source_id: Option<&str>) -> Result<()> {
        match source_id.and_then(|id| self.seen_ids.get(id)) {
            None => Ok(()),
            Some(index) => {
                let wants = format!("must not stand twice in a file: sessions[{index}] has it");
                Err(Error::invalid_field("sessionId", wants))
            }
        }
    }

    fn import_record(
        &self,
        raw: &RawValue,
        signs: &SessionMarkers,
        index: usize,
    ) -> Result<ImportOutcome> {
        let record: SessionRecord = if signs.is_chatgpt() {
            chatgpt::parse_conversation(raw)?
        } else {
            json::parse_object(raw.get().as_bytes())
                .map_err(|misread| Error::invalid_field(misread.field, misread.message))?
        };
        let now = clock::now();
        let import =
            session_record::to_import_session(&self.principal, record, index, self.options, now)?;
        self.runtime.block_on(self.store.import_session(&self.principal, import, now))
    }
}

/// What can be told of a session even if it cannot be read.
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
        serde_json::from_str(raw.get()).map(|StrictObject(signs)| signs).unwrap_or_default()
    }

    fn is_chatgpt(&self) -> bool {
        self.mapping.is_some()
    }

    /// The file's id of the session.
    fn source_id(&self) -> Option<String> {
        let id = match self.is_chatgpt() {
            true => self.conversation_id.as_ref().or(self.id.as_ref()),
            false => self.session_id.as_ref(),
        };
        Some(id?.as_str()?.chars().take(128).collect())
    }
}
