//! One atomic step. Its commit is one write of the session's document.
//!
//! A step reads the session's document with its revision, gathers all that it changes, and writes
//! the document back if the revision is still the same; else another step was faster, and it runs
//! again from the start. What lies in other documents (messages in their nodes, the end of a log)
//! goes along in `pending` and is carried out right behind the commit; whoever finds a `pending`
//! that its writer could not carry out any more, does. So a step needs no transaction, which a
//! killed server would leave open: for a minute nobody could write what it had written.
//!
//! Steps that move a whole session, imports, forks and deletions, are too large for that and are
//! transactions.
//!
//! Each commit leaves its name in the document. Where an answer was lost, the name tells whether the
//! commit took place.

use super::documents::SessionDoc;
use super::errors::{is_duplicate_key, is_transient};
use super::nodes::{PendingWrites, apply_pending};
use super::session_locks::{SessionGuard, SessionLocks};
use super::{Collections, LONG_OPERATION_TIMEOUT, MongoStore, OPERATION_TIMEOUT};
use crate::domain::SessionId;
use crate::error::{Error, ErrorKind, Result};
use crate::store::transaction::SessionRow;
use futures::TryStreamExt;
use mongodb::ClusterTime;
use mongodb::bson::{Bson, DateTime, Document, Timestamp, deserialize_from_document, doc};
use mongodb::options::{ReadConcern, WriteConcern};
use mongodb::{ClientSession, Collection};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

/// A step that met another one is tried again after up to this long, then twice as long, up to …
const MIN_BACKOFF: Duration = Duration::from_millis(4);
/// … this long.
const MAX_BACKOFF: Duration = Duration::from_millis(200);
/// What is said when no answer came: the step may have taken place.
const OUTCOME_UNKNOWN: &str = "the conversation store did not answer in time; repeat the request to see whether it took effect";
/// Bits of a revision below the millisecond in which its session was made: few enough that a double
/// holds it exactly, too.
const REVISION_COUNTER_BITS: u32 = 10;
/// How often a step may find that something it adds is there already: another one was faster, and
/// from then on this one sees it.
const MAX_DUPLICATE_RETRIES: usize = 3;

/// One step.
pub(super) struct MongoTransaction {
    pub(super) collections: Collections,
    pub(super) client_session: ClientSession,
    pub(super) mode: TransactionMode,
    /// Its name in the documents that it commits.
    pub(super) commit_id: String,
    /// The session it works on.
    pub(super) loaded: Option<LoadedSession>,
    /// What is to be added to that session's nodes.
    pub(super) pending_writes: PendingWrites,
    /// The end of a log, to be written behind the commit.
    pub(super) last_log_batch: Option<Document>,
    /// The use of a turn, to be booked behind the commit.
    pub(super) ledger_entry: Option<Document>,
    /// Whether it is booked before anybody hears of the commit.
    pub(super) applies_usage_first: bool,
    /// Turns whose texts in the queue nobody needs behind the commit.
    pub(super) dequeued_turns: Vec<String>,
    /// The note of a request, to be confirmed behind the commit.
    pub(super) unconfirmed_request: Option<Document>,
    /// The message of the note that was found and means nothing any more.
    pub(super) stale_request: Option<String>,
    /// Who goes first in a session.
    session_locks: SessionLocks,
    /// Its own turn in the session that it read first.
    session_guard: Option<SessionGuard>,
    /// The notes that this step has made in all its tries, by what they lead to.
    pub(super) written_requests: HashMap<String, Document>,
    /// Why it must be tried again, if it must.
    failure: Option<TransactionFailure>,
}

/// A session as the step has changed it so far.
pub(super) struct LoadedSession {
    pub(super) id: SessionId,
    /// The revision that was read; `None` if the session is new.
    pub(super) revision: Option<i64>,
    /// The revision that the session began with: no other session of that name, before or after,
    /// had it.
    pub(super) created_revision: i64,
    pub(super) document: Document,
    pub(super) fields_to_set: Document,
    pub(super) fields_to_unset: Document,
}

/// How far this instance has seen the database.
#[derive(Debug, Clone)]
pub(super) struct CausalTimestamp {
    cluster_time: ClusterTime,
    operation_time: Timestamp,
}

/// Why a try came to nothing.
pub(super) enum TransactionFailure {
    /// What the database said.
    Database(mongodb::error::Error),
    /// Another step was faster.
    Conflict,
}

/// How a step is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct TransactionMode {
    /// Whether it is a transaction.
    pub(super) is_multi_document: bool,
    /// Whether it waits until others of this instance are done with the session.
    locks_session: bool,
    /// How long it may take, all tries together.
    timeout: Duration,
}

impl TransactionMode {
    pub(super) const WRITE: Self =
        Self { is_multi_document: false, locks_session: true, timeout: OPERATION_TIMEOUT };
    /// Changes nothing.
    pub(super) const READ: Self = Self { locks_session: false, ..Self::WRITE };
    /// For a whole session.
    pub(super) const MULTI_DOCUMENT: Self =
        Self { is_multi_document: true, locks_session: false, timeout: LONG_OPERATION_TIMEOUT };
}

/// `transact!(store, |step| …)` does a step of the rules: all of it or nothing. What it uses of its
/// surroundings must be references, for it may run several times.
///
/// A macro, because a closure that borrows the step for as long as its future lives cannot be said
/// to be `Send` for every such borrow; one that is given the step and gives it back can.
macro_rules! transact {
    ($store:expr, |$step:ident| $rules:expr) => {
        transact!($store, $crate::store::mongo::transaction::TransactionMode::WRITE, |$step| $rules)
    };
    ($store:expr, $manner:expr, |$step:ident| $rules:expr) => {
        $store
            .run_with_retries(
                $manner,
                |mut own: crate::store::mongo::transaction::MongoTransaction| async move {
                    let $step = &mut own;
                    let done = async { $rules }.await;
                    (own, done)
                },
            )
            .await
    };
}

pub(super) use transact;

/// What a try came to.
enum AttemptOutcome<T> {
    Done(Result<T>),
    Failed(TransactionFailure),
}

impl MongoStore {
    /// A session of the driver's that reads what this instance has written and read before, also from
    /// a primary that was elected meanwhile.
    async fn start_client_session(&self) -> mongodb::error::Result<ClientSession> {
        let mut session = self.client.start_session().await?;
        let seen = self.causal_timestamp.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(CausalTimestamp { cluster_time, operation_time }) = seen {
            session.advance_cluster_time(&cluster_time);
            session.advance_operation_time(operation_time);
        }
        Ok(session)
    }

    fn record_causal_timestamp(&self, session: &ClientSession) {
        let (Some(cluster), Some(operation)) = (session.cluster_time(), session.operation_time())
        else {
            return;
        };
        let mut seen = self.causal_timestamp.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref().is_none_or(|seen| seen.operation_time < operation) {
            *seen =
                Some(CausalTimestamp { cluster_time: cluster.clone(), operation_time: operation });
        }
    }

    /// Does a step, all of it or nothing.
    pub(super) async fn run_with_retries<T, F, R>(
        &self,
        manner: TransactionMode,
        rules: F,
    ) -> Result<T>
    where
        F: Fn(MongoTransaction) -> R,
        R: Future<Output = (MongoTransaction, Result<T>)>,
    {
        let give_up = Instant::now() + manner.timeout;
        let (mut pause, mut duplicates) = (MIN_BACKOFF, 0);
        let (mut noted, mut turn) = (HashMap::new(), None);
        loop {
            let tried = self.run_attempt(manner, &rules, &mut noted, &mut turn);
            let failure = match timeout_at(give_up, tried).await {
                Ok(AttemptOutcome::Done(result)) => return result,
                Ok(AttemptOutcome::Failed(failure)) => failure,
                Err(_) => return Err(Error::new(ErrorKind::StoreUnavailable, OUTCOME_UNKNOWN)),
            };
            let is_worth_it = match &failure {
                TransactionFailure::Conflict => true,
                TransactionFailure::Database(error) if is_duplicate_key(error) => {
                    duplicates += 1;
                    duplicates <= MAX_DUPLICATE_RETRIES
                }
                TransactionFailure::Database(error) => is_transient(error),
            };
            let wait = pause.mul_f64(jitter_factor());
            if !is_worth_it || Instant::now() + wait >= give_up {
                return Err(failure.into_error());
            }
            sleep(wait).await;
            pause = (pause * 2).min(MAX_BACKOFF);
        }
    }

    async fn run_attempt<T, F, R>(
        &self,
        manner: TransactionMode,
        rules: &F,
        noted: &mut HashMap<String, Document>,
        turn: &mut Option<SessionGuard>,
    ) -> AttemptOutcome<T>
    where
        F: Fn(MongoTransaction) -> R,
        R: Future<Output = (MongoTransaction, Result<T>)>,
    {
        let mut session = match self.start_client_session().await {
            Ok(session) => session,
            Err(failure) => return AttemptOutcome::Failed(TransactionFailure::Database(failure)),
        };
        if manner.is_multi_document {
            let begun = session
                .start_transaction()
                .read_concern(ReadConcern::snapshot())
                .write_concern(WriteConcern::majority())
                .await;
            if let Err(failure) = begun {
                return AttemptOutcome::Failed(TransactionFailure::Database(failure));
            }
        }
        let step = MongoTransaction {
            collections: self.collections.clone(),
            client_session: session,
            mode: manner,
            commit_id: Uuid::now_v7().simple().to_string(),
            loaded: None,
            pending_writes: PendingWrites::default(),
            last_log_batch: None,
            ledger_entry: None,
            applies_usage_first: false,
            dequeued_turns: Vec::new(),
            unconfirmed_request: None,
            stale_request: None,
            session_locks: self.session_locks.clone(),
            session_guard: turn.take(),
            written_requests: std::mem::take(noted),
            failure: None,
        };
        let (mut step, mut result) = rules(step).await;
        if result.is_ok()
            && step.failure.is_none()
            && let Err(error) = step.finish_attempt().await
        {
            result = Err(error);
        }
        if result.is_err() && step.failure.is_none() {
            step.delete_written_requests().await;
        }
        (*noted, *turn) = (std::mem::take(&mut step.written_requests), step.session_guard.take());
        self.record_causal_timestamp(&step.client_session);
        match step.failure.take() {
            // However the rules took it. The driver rolls back a transaction that is let go of.
            Some(failure) => AttemptOutcome::Failed(failure),
            None => AttemptOutcome::Done(result),
        }
    }
}

impl TransactionFailure {
    fn into_error(self) -> Error {
        match self {
            Self::Conflict => Error::store_unavailable("others were faster, again and again"),
            Self::Database(error) if is_duplicate_key(&error) => {
                Error::new(ErrorKind::IdConflict, "the session has something with this id already")
                    .with_source(error)
            }
            Self::Database(error) => error.into(),
        }
    }
}

impl MongoTransaction {
    /// Remembers what the database refused, so that the step is tried again however the rules take
    /// it.
    pub(super) fn check_result<T>(&mut self, answer: mongodb::error::Result<T>) -> Result<T> {
        answer.map_err(|error| {
            self.failure.get_or_insert_with(|| TransactionFailure::Database(error.clone()));
            error.into()
        })
    }

    /// Says that the step must be tried again, because another one was faster.
    pub(super) fn record_conflict(&mut self) -> Error {
        self.failure.get_or_insert(TransactionFailure::Conflict);
        Error::store_unavailable("another step was faster")
    }

    /// The session with this id, as this step has changed it so far.
    pub(super) async fn load_session(&mut self, id: &SessionId) -> Result<Option<SessionRow>> {
        if !self.is_loaded(id) {
            self.commit_session().await?;
            if self.mode.locks_session && self.session_guard.is_none() {
                self.session_guard = Some(self.session_locks.acquire(id).await);
            }
            self.loaded = self.read_session(id).await?;
        }
        let Some(current) = &self.loaded else { return Ok(None) };
        let session: SessionDoc = deserialize_from_document(current.document.clone())
            .map_err(Error::store_unavailable)?;
        session.into_row().map(Some)
    }

    /// The turns that wait in the session, in their order.
    pub(super) fn queued_turn_ids(&self) -> Vec<String> {
        let queue =
            self.loaded.as_ref().and_then(|current| current.document.get_array("queue").ok());
        let turns = queue.into_iter().flatten().filter_map(Bson::as_str);
        turns.map(str::to_owned).collect()
    }

    pub(super) fn is_loaded(&self, id: &SessionId) -> bool {
        self.loaded.as_ref().is_some_and(|current| current.id == *id)
    }

    async fn finish_attempt(&mut self) -> Result<()> {
        self.commit_session().await?;
        if self.mode.is_multi_document { self.commit_multi_document().await } else { Ok(()) }
    }

    async fn read_session(&mut self, id: &SessionId) -> Result<Option<LoadedSession>> {
        let sessions = self.collections.sessions.clone();
        let found: Option<Document> =
            self.find_one(&sessions, doc! { "_id": id.as_str() }, None).await?;
        let Some(mut document) = found else { return Ok(None) };
        if let Some(Bson::Document(pending)) = document.remove("pending") {
            let carried_out = apply_pending(&self.collections, &pending, None).await;
            self.check_result(carried_out)?;
            if self.mode.is_multi_document {
                // What was carried out just now is outside of what this transaction sees.
                let done = doc! { "_id": id.as_str(), "pending": &pending };
                let cleared = sessions.update_one(done, doc! { "$unset": { "pending": "" } }).await;
                self.check_result(cleared)?;
                return Err(self.record_conflict());
            }
        }
        let revision = document.get_i64("revision").unwrap_or_default();
        let (set, unset) = Default::default();
        let (id, born) = (id.clone(), document.get_i64("born").unwrap_or_default());
        Ok(Some(LoadedSession {
            id,
            revision: Some(revision),
            created_revision: born,
            document,
            fields_to_set: set,
            fields_to_unset: unset,
        }))
    }

    /// Works on a session that is to be added.
    pub(super) async fn stage_session_document(
        &mut self,
        id: &SessionId,
        mut document: Document,
    ) -> Result<()> {
        self.commit_session().await?;
        let (set, unset) = Default::default();
        let born = initial_revision();
        document.insert("born", born);
        self.loaded = Some(LoadedSession {
            id: id.clone(),
            revision: None,
            created_revision: born,
            document,
            fields_to_set: set,
            fields_to_unset: unset,
        });
        Ok(())
    }

    /// Changes fields of the session.
    pub(super) fn set_fields(&mut self, fields: Document) {
        let Some(current) = &mut self.loaded else { return };
        for (field, value) in fields {
            current.fields_to_unset.remove(&field);
            current.document.insert(field.clone(), value.clone());
            current.fields_to_set.insert(field, value);
        }
    }

    /// Takes a field out of the session.
    pub(super) fn unset_field(&mut self, field: &str) {
        let Some(current) = &mut self.loaded else { return };
        current.fields_to_set.remove(field);
        current.document.remove(field);
        current.fields_to_unset.insert(field, "");
    }

    /// Forgets the session and what was to be changed: the document itself goes.
    pub(super) fn discard_session(&mut self) {
        self.loaded = None;
        self.pending_writes = PendingWrites::default();
    }

    /// The first document that the filter finds.
    pub(super) async fn find_one<T: DeserializeOwned + Send + Sync>(
        &mut self,
        table: &Collection<Document>,
        filter: Document,
        projection: Option<Document>,
    ) -> Result<Option<T>> {
        let table = table.clone_with_type::<T>();
        let mut find = table.find_one(filter);
        if let Some(projection) = projection {
            find = find.projection(projection);
        }
        let found = find.session(&mut self.client_session).await;
        self.check_result(found)
    }

    /// What a pipeline gives, all of it.
    pub(super) async fn run_pipeline<T: DeserializeOwned>(
        &mut self,
        table: &Collection<Document>,
        pipeline: Vec<Document>,
    ) -> Result<Vec<T>> {
        let asked = table.aggregate(pipeline).session(&mut self.client_session).await;
        let cursor = self.check_result(asked)?;
        let mut cursor = cursor.with_type::<T>();
        let found = cursor.stream(&mut self.client_session).try_collect().await;
        self.check_result(found)
    }

    /// Deletes what the filter finds. How many that were.
    pub(super) async fn delete_many(
        &mut self,
        table: &Collection<Document>,
        filter: Document,
    ) -> Result<u64> {
        let deleted = table.delete_many(filter).session(&mut self.client_session).await;
        Ok(self.check_result(deleted)?.deleted_count)
    }
}

/// Between a half and one and a half, so that those who met once do not meet again.
fn jitter_factor() -> f64 {
    0.5 + f64::from(Uuid::now_v7().as_bytes()[15]) / 255.0
}

/// The revision of a session that is made now: none that had its name has come so far.
pub(super) fn initial_revision() -> i64 {
    DateTime::now().timestamp_millis() << REVISION_COUNTER_BITS
}
