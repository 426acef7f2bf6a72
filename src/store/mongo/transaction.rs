//! Runs the rules as one atomic transaction and retries it on conflict.
//!
//! The scheme, and why it is not a MongoDB transaction, is described in [`super`]; the commit
//! itself is in `commit.rs`. This file loads the session, collects changes, and decides about
//! retries.
//!
//! The rules may run several times for one operation. Everything they change therefore stays in
//! [`MongoTransaction`] until the commit, apart from writes that have no effect without it:
//! the content of a queued turn (`queue.rs`) and the record of an idempotent request
//! (`idempotency.rs`).

use super::content_keys::{CONTENT_KEY, ContentKey, ContentKeys, generate_key};
use super::documents::SessionDoc;
use super::errors::{is_duplicate_key, is_transient};
use super::pending_writes::{PendingWrites, apply_pending};
use super::session_locks::{SessionGuard, SessionLocks};
use super::write_concern::durable_write_concern;
use super::{Collections, LONG_OPERATION_TIMEOUT, MongoStore, OPERATION_TIMEOUT};
use crate::domain::SessionId;
use crate::error::{Error, ErrorKind, Result};
use crate::store::transaction::{SessionRow, object_id_conflict};
use futures::TryStreamExt;
use mongodb::ClusterTime;
use mongodb::bson::{Bson, DateTime, Document, Timestamp, deserialize_from_document, doc};
use mongodb::options::ReadConcern;
use mongodb::{ClientSession, Collection};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// First delay before a retry. It doubles with each retry, up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(4);
const MAX_BACKOFF: Duration = Duration::from_millis(200);
/// Reported when the time ran out with a write in flight: it may or may not have taken effect.
const OUTCOME_UNKNOWN: &str = "the conversation store timed out; repeat the request to see whether \
                               it took effect";
/// Bits of a revision below the millisecond of its session's creation. With 10 of them a revision
/// stays below 2^53, so that tools which read numbers as doubles see it exactly.
const REVISION_COUNTER_BITS: u32 = 10;
/// Retries after a duplicate key error. The first may be a lost race, and the retry then sees the
/// other writer's document; an id that stays taken is reported.
const MAX_DUPLICATE_RETRIES: usize = 3;

/// One attempt to run the rules, with the changes collected so far.
pub(super) struct MongoTransaction {
    pub(super) collections: Collections,
    pub(super) client_session: ClientSession,
    pub(super) mode: TransactionMode,
    /// Left in the `commits` of each document that it writes, so that a commit whose response was
    /// lost can be recognized.
    pub(super) commit_id: String,
    /// The session being changed. Loading another one commits it first.
    pub(super) loaded: Option<LoadedSession>,
    /// New messages of that session.
    pub(super) pending_writes: PendingWrites,
    /// Last batch of a turn log, written after the commit.
    pub(super) last_log_batch: Option<Document>,
    /// Size of its frames.
    pub(super) last_log_bytes: usize,
    /// Usage of a turn, recorded after the commit.
    pub(super) ledger_entry: Option<Document>,
    /// Whether the usage is recorded before the operation returns, and not in the background.
    pub(super) applies_usage_first: bool,
    /// Turns whose documents in `queue` are deleted after the commit.
    pub(super) dequeued_turns: Vec<String>,
    /// Filter of an idempotency record that is confirmed after the commit.
    pub(super) unconfirmed_request: Option<Document>,
    /// Message id of an idempotency record that was found to be void; a new record replaces it.
    pub(super) stale_request: Option<String>,
    /// Content keys of the sessions that were loaded, and of the draft that is being written.
    pub(super) used_keys: HashMap<SessionId, ContentKey>,
    pub(super) content_keys: ContentKeys,
    /// The draft whose content the next new session gets.
    published_draft: Option<SessionId>,
    session_locks: SessionLocks,
    /// Work that follows commits in the background.
    pub(super) cleanup_tasks: TaskTracker,
    /// Held for the first session that is loaded, across retries.
    session_guard: Option<SessionGuard>,
    /// Filters of the idempotency records written by all attempts, by message id.
    pub(super) written_requests: HashMap<String, Document>,
    /// The first failure that requires a retry, whatever the rules return.
    failure: Option<TransactionFailure>,
}

/// The session's document with the changes of this transaction applied.
pub(super) struct LoadedSession {
    pub(super) id: SessionId,
    /// The revision that was read and that the commit requires; `None` if the session is new.
    pub(super) revision: Option<i64>,
    /// Revision at the session's creation. Distinguishes this session from an earlier one with
    /// the same id that was deleted.
    pub(super) created_revision: i64,
    pub(super) document: Document,
    pub(super) fields_to_set: Document,
    pub(super) fields_to_unset: Document,
}

/// Cluster and operation time of the latest operation that was seen.
#[derive(Debug, Clone)]
pub(super) struct CausalTimestamp {
    cluster_time: ClusterTime,
    operation_time: Timestamp,
}

/// The reason why an attempt has no result.
pub(super) enum TransactionFailure {
    Database(mongodb::error::Error),
    /// The session's revision has changed since it was read.
    Conflict,
}

/// Isolation, locking and time limit of an operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct TransactionMode {
    /// Whether it runs in a MongoDB transaction.
    pub(super) is_multi_document: bool,
    /// Whether it takes the session's lock in this instance.
    locks_session: bool,
    /// Limit for all attempts together.
    timeout: Duration,
}

impl TransactionMode {
    pub(super) const WRITE: Self =
        Self { is_multi_document: false, locks_session: true, timeout: OPERATION_TIMEOUT };
    /// For operations that change nothing; they need not wait for writers.
    pub(super) const READ: Self = Self { locks_session: false, ..Self::WRITE };
    /// For a step of a draft, which no other writer knows, and for the look-ups of an import.
    pub(super) const DRAFT: Self = Self { timeout: LONG_OPERATION_TIMEOUT, ..Self::READ };
    /// For operations that create or delete a whole session or project. They do not hold the
    /// session's lock; a conflict is found at the commit.
    pub(super) const MULTI_DOCUMENT: Self =
        Self { is_multi_document: true, locks_session: false, timeout: LONG_OPERATION_TIMEOUT };
}

/// `transact!(store, |tx| …)` runs the rules in a transaction: all of their changes take effect, or
/// none. Captured variables must be references, because the closure may run several times.
///
/// This is a macro because an async closure that borrows the transaction cannot be declared `Send`
/// for every lifetime of that borrow. A closure that takes the transaction and returns it can.
macro_rules! transact {
    ($store:expr, |$tx:ident| $rules:expr) => {
        transact!($store, $crate::store::mongo::transaction::TransactionMode::WRITE, |$tx| $rules)
    };
    ($store:expr, $mode:expr, |$tx:ident| $rules:expr) => {
        $store
            .run_with_retries(
                $mode,
                |mut own: crate::store::mongo::transaction::MongoTransaction| async move {
                    let $tx = &mut own;
                    let done = async { $rules }.await;
                    (own, done)
                },
            )
            .await
    };
}

pub(super) use transact;

enum AttemptOutcome<T> {
    Done(Result<T>),
    Failed(TransactionFailure),
}

impl MongoStore {
    /// Starts a driver session that reads everything this instance has written or read before, even
    /// from a primary that was elected in the meantime.
    async fn start_client_session(&self) -> mongodb::error::Result<ClientSession> {
        let mut session = self.client.start_session().await?;
        let latest = self.causal_timestamp.lock().clone();
        // Causal consistency holds within one driver session only. Each operation starts its own,
        // so the time of the latest one is carried over.
        if let Some(CausalTimestamp { cluster_time, operation_time }) = latest {
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
        let mut latest = self.causal_timestamp.lock();
        // Operations end in any order; the time must not go back.
        if latest.as_ref().is_none_or(|latest| latest.operation_time < operation) {
            *latest =
                Some(CausalTimestamp { cluster_time: cluster.clone(), operation_time: operation });
        }
    }

    /// Runs the rules until they commit, fail permanently, or exceed the timeout of `mode`.
    ///
    /// Errors: those of the rules; `store_unavailable` if the database stays unreachable, if other
    /// writers keep winning, or if the outcome is unknown.
    pub(super) async fn run_with_retries<T, F, R>(
        &self,
        mode: TransactionMode,
        rules: F,
    ) -> Result<T>
    where
        F: Fn(MongoTransaction) -> R,
        R: Future<Output = (MongoTransaction, Result<T>)>,
    {
        let deadline = Instant::now() + mode.timeout;
        let mut backoff = MIN_BACKOFF;
        let mut duplicates = 0;
        // These two outlive an attempt: a retry must recognize its own idempotency records, and
        // must keep its place in the queue for the session lock.
        let mut written_requests = HashMap::new();
        let mut session_guard = None;
        loop {
            let attempt = self.run_attempt(mode, &rules, &mut written_requests, &mut session_guard);
            let failure = match timeout_at(deadline, attempt).await {
                Ok(AttemptOutcome::Done(result)) => return result,
                Ok(AttemptOutcome::Failed(failure)) => failure,
                // The commit may have been sent, so this is not reported as a plain failure.
                Err(_) => return Err(Error::new(ErrorKind::StoreUnavailable, OUTCOME_UNKNOWN)),
            };
            let can_retry = match &failure {
                TransactionFailure::Conflict => true,
                TransactionFailure::Database(error) if is_duplicate_key(error) => {
                    duplicates += 1;
                    duplicates <= MAX_DUPLICATE_RETRIES
                }
                TransactionFailure::Database(error) => is_transient(error),
            };
            let delay = backoff.mul_f64(jitter_factor());
            // A retry that cannot start in time would only turn a clear error into an unknown
            // outcome.
            if !can_retry || Instant::now() + delay >= deadline {
                return Err(failure.into_error());
            }
            sleep(delay).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    async fn start_transaction(
        &self,
        mode: TransactionMode,
    ) -> mongodb::error::Result<MongoTransaction> {
        let mut client_session = self.start_client_session().await?;
        if mode.is_multi_document {
            client_session
                .start_transaction()
                .read_concern(ReadConcern::snapshot())
                .write_concern(durable_write_concern())
                .await?;
        }
        Ok(MongoTransaction {
            collections: self.collections.clone(),
            client_session,
            mode,
            commit_id: Uuid::now_v7().simple().to_string(),
            loaded: None,
            pending_writes: PendingWrites::default(),
            last_log_batch: None,
            last_log_bytes: 0,
            ledger_entry: None,
            applies_usage_first: false,
            dequeued_turns: Vec::new(),
            unconfirmed_request: None,
            stale_request: None,
            used_keys: HashMap::new(),
            content_keys: self.content_keys.clone(),
            published_draft: None,
            session_locks: self.session_locks.clone(),
            cleanup_tasks: self.cleanup_tasks.clone(),
            session_guard: None,
            written_requests: HashMap::new(),
            failure: None,
        })
    }

    async fn run_attempt<T, F, R>(
        &self,
        mode: TransactionMode,
        rules: &F,
        written_requests: &mut HashMap<String, Document>,
        session_guard: &mut Option<SessionGuard>,
    ) -> AttemptOutcome<T>
    where
        F: Fn(MongoTransaction) -> R,
        R: Future<Output = (MongoTransaction, Result<T>)>,
    {
        let mut tx = match self.start_transaction(mode).await {
            Ok(tx) => tx,
            Err(error) => return AttemptOutcome::Failed(TransactionFailure::Database(error)),
        };
        tx.session_guard = session_guard.take();
        tx.written_requests = std::mem::take(written_requests);
        let (mut tx, mut result) = rules(tx).await;
        if result.is_ok()
            && tx.failure.is_none()
            && let Err(error) = tx.finish_attempt().await
        {
            result = Err(error);
        }
        // The rules refused the request: nothing was committed, so its idempotency record must not
        // hold up the next request with the same key.
        if result.is_err() && tx.failure.is_none() {
            tx.delete_written_requests().await;
        }
        *written_requests = std::mem::take(&mut tx.written_requests);
        *session_guard = tx.session_guard.take();
        self.record_causal_timestamp(&tx.client_session);
        match tx.failure.take() {
            // A failure counts even if the rules ignored it and returned `Ok`. Dropping the
            // driver's session aborts an open MongoDB transaction.
            Some(failure) => AttemptOutcome::Failed(failure),
            None => AttemptOutcome::Done(result),
        }
    }
}

impl TransactionFailure {
    fn into_error(self) -> Error {
        match self {
            Self::Conflict => {
                Error::store_unavailable("too many concurrent writes to this session")
            }
            Self::Database(error) if is_duplicate_key(&error) => {
                object_id_conflict().with_source(error)
            }
            Self::Database(error) => error.into(),
        }
    }
}

impl MongoTransaction {
    /// Passes a database result through. An error is also recorded, so that the attempt counts as
    /// failed even if the rules handle it.
    pub(super) fn check_result<T>(&mut self, result: mongodb::error::Result<T>) -> Result<T> {
        result.map_err(|error| {
            self.failure.get_or_insert_with(|| TransactionFailure::Database(error.clone()));
            error.into()
        })
    }

    /// Marks the attempt as overtaken by another writer, which makes it run again.
    pub(super) fn record_conflict(&mut self) -> Error {
        self.failure.get_or_insert(TransactionFailure::Conflict);
        Error::store_unavailable("the session was changed by a concurrent write")
    }

    /// Loads a session, or returns the loaded one with the changes made so far.
    pub(super) async fn load_session(&mut self, id: &SessionId) -> Result<Option<SessionRow>> {
        if !self.is_loaded(id) {
            // Only one session is open at a time: each commit is one write of one document.
            self.commit_session().await?;
            // Only the first session is locked. With a second lock two transactions that load the
            // same two sessions in opposite order could wait for each other.
            if self.mode.locks_session && self.session_guard.is_none() {
                self.session_guard = Some(self.session_locks.acquire(id).await);
            }
            self.loaded = self.read_session(id).await?;
            if let Some(loaded) = self.loaded.take() {
                self.record_content_key(&loaded);
                self.loaded = Some(loaded);
            }
        }
        let Some(loaded) = &self.loaded else { return Ok(None) };
        let session: SessionDoc =
            deserialize_from_document(loaded.document.clone()).map_err(Error::store_unavailable)?;
        session.into_row().map(Some)
    }

    /// Ids of the queued turns of the loaded session, next one first.
    pub(super) fn queued_turn_ids(&self) -> Vec<String> {
        let queue = self.loaded.as_ref().and_then(|loaded| loaded.document.get_array("queue").ok());
        let turns = queue.into_iter().flatten().filter_map(Bson::as_str);
        turns.map(str::to_owned).collect()
    }

    pub(super) fn is_loaded(&self, id: &SessionId) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| loaded.id == *id)
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
        // Left by a writer that crashed, or that is still at work. Applying it twice is harmless,
        // and the rules must see the session's nodes complete.
        if let Some(Bson::Document(pending)) = document.remove("pending") {
            let applied = apply_pending(&self.collections, &pending, None).await;
            self.check_result(applied)?;
            if self.mode.is_multi_document {
                // The snapshot of this MongoDB transaction is older than the writes above and does
                // not contain them. Clear `pending` so that the next attempt gets past this point.
                let done = doc! { "_id": id.as_str(), "pending": &pending };
                let cleared = sessions.update_one(done, doc! { "$unset": { "pending": "" } }).await;
                self.check_result(cleared)?;
                return Err(self.record_conflict());
            }
        }
        let revision = document.get_i64("revision").unwrap_or_default();
        let created_revision = document.get_i64("born").unwrap_or_default();
        Ok(Some(LoadedSession {
            id: id.clone(),
            revision: Some(revision),
            created_revision,
            document,
            fields_to_set: Document::new(),
            fields_to_unset: Document::new(),
        }))
    }

    /// Makes a new session the loaded one; the commit inserts it.
    pub(super) async fn stage_session_document(
        &mut self,
        id: &SessionId,
        mut document: Document,
    ) -> Result<()> {
        self.commit_session().await?;
        // Content of a deleted session must not become part of this one, and what is deleted of it
        // is told from this one's by its lower revision, also if the clocks of instances differ.
        let remains = self.find_remains(id).await?;
        let own_key = remains.map(|_| generate_key(id).1);
        let key = self.published_draft.take().or(own_key);
        let lowest = remains.map_or(0, |revision| revision + 1);
        let created_revision = initial_revision().max(lowest);
        document.insert("born", created_revision);
        if let Some(key) = &key {
            document.insert(CONTENT_KEY, key.as_str());
        }
        self.used_keys.insert(id.clone(), ContentKey::from_document(id, &document));
        self.loaded = Some(LoadedSession {
            id: id.clone(),
            revision: None,
            created_revision,
            document,
            fields_to_set: Document::new(),
            fields_to_unset: Document::new(),
        });
        Ok(())
    }

    /// Makes a draft the loaded session, so that messages can be added to it. They are stored by
    /// [`write_draft`](Self::write_draft); without it nothing is.
    pub(super) fn open_draft(&mut self, id: &SessionId, key: &SessionId) {
        let document = doc! { CONTENT_KEY: key.as_str() };
        self.used_keys.insert(id.clone(), ContentKey::from_document(id, &document));
        self.loaded = Some(LoadedSession {
            id: id.clone(),
            revision: None,
            created_revision: initial_revision(),
            document,
            fields_to_set: Document::new(),
            fields_to_unset: Document::new(),
        });
    }

    /// Makes the content of a draft that of the session which this transaction inserts or changes.
    pub(super) async fn publish_draft(&mut self, id: &SessionId, key: &SessionId) -> Result<()> {
        self.release_draft(key).await?;
        let document = doc! { CONTENT_KEY: key.as_str() };
        self.used_keys.insert(id.clone(), ContentKey::from_document(id, &document));
        self.published_draft = Some(key.clone());
        Ok(())
    }

    /// Sets fields of the loaded session, for the commit and for later reads in this transaction.
    pub(super) fn set_fields(&mut self, fields: Document) {
        let Some(loaded) = &mut self.loaded else { return };
        for (field, value) in fields {
            loaded.fields_to_unset.remove(&field);
            loaded.document.insert(field.clone(), value.clone());
            loaded.fields_to_set.insert(field, value);
        }
    }

    /// Removes a field of the loaded session.
    pub(super) fn unset_field(&mut self, field: &str) {
        let Some(loaded) = &mut self.loaded else { return };
        loaded.fields_to_set.remove(field);
        loaded.document.remove(field);
        loaded.fields_to_unset.insert(field, "");
    }

    /// Drops the loaded session and its changes without a commit, because its document is deleted.
    pub(super) fn discard_session(&mut self) {
        self.loaded = None;
        self.pending_writes = PendingWrites::default();
    }

    pub(super) async fn find_one<T: DeserializeOwned + Send + Sync>(
        &mut self,
        collection: &Collection<Document>,
        filter: Document,
        projection: Option<Document>,
    ) -> Result<Option<T>> {
        let collection = collection.clone_with_type::<T>();
        let mut find = collection.find_one(filter);
        if let Some(projection) = projection {
            find = find.projection(projection);
        }
        let found = find.session(&mut self.client_session).await;
        self.check_result(found)
    }

    /// Reads the whole result of a pipeline; it must be bounded.
    pub(super) async fn run_pipeline<T: DeserializeOwned>(
        &mut self,
        collection: &Collection<Document>,
        pipeline: Vec<Document>,
    ) -> Result<Vec<T>> {
        let started = collection.aggregate(pipeline).session(&mut self.client_session).await;
        let cursor = self.check_result(started)?;
        let mut cursor = cursor.with_type::<T>();
        let found = cursor.stream(&mut self.client_session).try_collect().await;
        self.check_result(found)
    }

    /// Returns the number of deleted documents.
    pub(super) async fn delete_many(
        &mut self,
        collection: &Collection<Document>,
        filter: Document,
    ) -> Result<u64> {
        let deleted = collection.delete_many(filter).session(&mut self.client_session).await;
        Ok(self.check_result(deleted)?.deleted_count)
    }
}

/// A factor between 0.5 and 1.5, so that writers that collided once do not retry in lockstep.
fn jitter_factor() -> f64 {
    0.5 + fastrand::f64()
}

/// First revision of a session created now. Higher than any revision that an earlier session with
/// the same id has reached: that would take over 1,024 commits per millisecond.
pub(super) fn initial_revision() -> i64 {
    DateTime::now().timestamp_millis() << REVISION_COUNTER_BITS
}
