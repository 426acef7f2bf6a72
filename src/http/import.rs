//! `/api/import`: whole sessions, read as they arrive, each stored or refused by itself.

use super::Api;
use super::body::{StreamedJson, parse};
use super::envelope::{Answer, Envelope, Failure, ok};
use super::extract::{Caller, NoQuery};
use crate::clock;
use crate::domain::{Principal, SessionId};
use crate::error::{Error, Kind, Result};
use crate::json::Object;
use crate::store::Imported;
use crate::transfer::file::read_sessions;
use crate::transfer::record::{self, SessionRecord};
use axum::Json;
use axum::extract::State;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use std::io::{self, BufReader};
use std::ops::ControlFlow;
use tokio::runtime::Handle;
use tokio_util::io::{StreamReader, SyncIoBridge};
use utoipa::ToSchema;

/// A file of sessions. Fields are those of sessions and messages as the API gives them.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body, which is read piece by piece")]
pub(super) struct ImportBody {
    sessions: Vec<SessionRecord>,
}

/// What came of an import.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct Report {
    sessions: Vec<ImportedSession>,
    skipped: Vec<Skipped>,
}

/// A session that went in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ImportedSession {
    #[schema(value_type = String)]
    session_id: SessionId,
    /// Its id in the file.
    source_id: Option<String>,
    title: String,
    /// Messages that were not there before.
    messages: u64,
}

/// A session that did not.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Skipped {
    /// Its place in the file, from 0.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    reason: String,
    /// The error, if it will pass.
    #[serde(skip)]
    busy: Option<Error>,
}

/// Import sessions: all of each or none of it. Importing the same file twice changes nothing.
#[utoipa::path(
    post, path = "/api/import", tag = "import", request_body = ImportBody,
    responses((status = 200, body = Envelope<Report>), (status = "default", body = Failure))
)]
pub(super) async fn import(
    State(api): State<Api>,
    Caller(who): Caller,
    _query: NoQuery,
    StreamedJson(body): StreamedJson,
) -> Answer<Json<Envelope<Report>>> {
    let bytes = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let runtime = Handle::current();
    let task = tokio::task::spawn_blocking(move || {
        let mut import = Import { api, who, runtime, report: Report::default(), outage: None };
        let reader = BufReader::new(SyncIoBridge::new(Box::pin(bytes)));
        let read = read_sessions(reader, |raw| import.take(raw));
        import.conclude(read)
    });
    let report = task.await.map_err(Error::internal)??;
    Ok(ok("Sessions imported successfully", report))
}

/// An import under way, on a thread that may block.
struct Import {
    api: Api,
    who: Principal,
    runtime: Handle,
    report: Report,
    /// The store gave out: reading on would only skip what could go in later.
    outage: Option<Error>,
}

impl Import {
    fn conclude(self, read: Result<(), serde_json::Error>) -> Result<Report> {
        let imported = self.report.sessions.len();
        if let Some(outage) = self.outage {
            return Err(outage.with_details(json!({ "imported": imported })));
        }
        read.map_err(|error| {
            let wants = format!("must be {{\"sessions\": […]}}: {error}");
            let details = json!({ "body": wants, "imported": imported });
            Error::invalid("body", wants).with_details(details)
        })?;
        match self.report.skipped.as_slice() {
            // Nothing went in, and later it can.
            [Skipped { busy: Some(error), .. }] if imported == 0 => Err(error.clone()),
            _ => Ok(self.report),
        }
    }

    fn take(&mut self, raw: &RawValue) -> ControlFlow<()> {
        let index = self.report.sessions.len() + self.report.skipped.len();
        let source_id = source_id(raw);
        match self.store(raw, index) {
            Ok(Imported { session_id, title, messages }) => {
                self.report.sessions.push(ImportedSession {
                    session_id,
                    source_id,
                    title,
                    messages,
                });
            }
            Err(error) if error.kind == Kind::StoreUnavailable => {
                self.outage = Some(error);
                return ControlFlow::Break(());
            }
            Err(error) => self.report.skipped.push(Skipped {
                index,
                session_id: source_id,
                reason: error.to_string(),
                busy: Some(error).filter(|error| error.kind == Kind::SessionBusy),
            }),
        }
        ControlFlow::Continue(())
    }

    fn store(&self, raw: &RawValue, index: usize) -> Result<Imported> {
        let record: SessionRecord = parse(raw.get().as_bytes())?;
        let now = clock::now();
        let import = record::session(&self.who, record, index, self.api.limits.message, now)?;
        self.runtime.block_on(self.api.store.import_session(&self.who, import, now))
    }
}

/// The file's id of a session, for the report, even if the rest cannot be read.
fn source_id(raw: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Named {
        session_id: Option<String>,
    }
    let Object(named): Object<Named> = serde_json::from_str(raw.get()).ok()?;
    named.session_id.map(|id| id.chars().take(128).collect())
}
