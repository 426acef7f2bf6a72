//! One atomic step, as a transaction that is tried again as long as it makes sense.
//!
//! Two steps on one session meet in its document, which each of them writes, so the later one
//! fails with a write conflict and runs again from the start. A commit whose answer was lost is
//! repeated until the answer is known. Protocol:
//! <https://github.com/mongodb/specifications/blob/master/source/transactions-convenient-api/transactions-convenient-api.md>.

use super::nodes::Gathered;
use super::{LONG_PATIENCE, MongoStore, PATIENCE, Tables};
use crate::domain::SessionId;
use crate::error::{Error, Kind, Result};
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::error::{
    ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure,
};
use mongodb::options::{ReadConcern, WriteConcern};
use mongodb::{ClientSession, Collection};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

/// A step that met another one is tried again after up to this long, then twice as long, up to …
const FIRST_PAUSE: Duration = Duration::from_millis(4);
/// … this long.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// How often a step may find that something it adds is there already: another one was faster, and
/// from then on this one sees it.
const DUPLICATES: usize = 3;

/// One step: a transaction, or a few reads.
pub(super) struct Step {
    pub(super) tables: Tables,
    pub(super) session: ClientSession,
    /// What is to be changed of a session's document: all of it goes out at once.
    pending: Option<Pending>,
    /// How many turns wait in the session that was read last: mostly none, and then nobody asks.
    pub(super) waiting: Option<(SessionId, i64)>,
    /// What is to be added to the session's nodes.
    pub(super) gathered: Gathered,
    /// The first thing that the database refused.
    failure: Option<mongodb::error::Error>,
}

struct Pending {
    session: String,
    set: Document,
    unset: Document,
}

/// `step!(store, |step| …)` does a step of the rules: all of it or nothing. What it uses of its
/// surroundings must be references, for it may run several times.
///
/// A macro, because a closure that borrows the step for as long as its future lives cannot be said
/// to be `Send` for every such borrow; one that is given the step and gives it back can.
macro_rules! step {
    ($store:expr, |$step:ident| $rules:expr) => {
        step!($store, $crate::store::mongo::step::Manner::STEP, |$step| $rules)
    };
    ($store:expr, $manner:expr, |$step:ident| $rules:expr) => {
        $store
            .attempts($manner, |mut own: crate::store::mongo::step::Step| async move {
                let $step = &mut own;
                let done = async { $rules }.await;
                (own, done)
            })
            .await
    };
}

/// `read!(store, |step| …)` does some reads.
macro_rules! read {
    ($store:expr, |$step:ident| $reads:expr) => {
        $crate::store::mongo::step::step!(
            $store,
            $crate::store::mongo::step::Manner::READ,
            |$step| $reads
        )
    };
}

pub(super) use {read, step};

/// How a step is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Whether it is a transaction.
    writes: bool,
    /// How long it may take, all tries together.
    patience: Duration,
}

impl Manner {
    pub(super) const STEP: Self = Self { writes: true, patience: PATIENCE };
    /// For a whole session.
    pub(super) const LONG_STEP: Self = Self { writes: true, patience: LONG_PATIENCE };
    pub(super) const READ: Self = Self { writes: false, patience: PATIENCE };
}

/// What a try came to.
enum Tried<T> {
    Done(Result<T>),
    Failed(mongodb::error::Error),
}

impl MongoStore {
    /// Does a step of the rules, all of it or nothing, or some reads.
    pub(super) async fn attempts<T, F, R>(&self, manner: Manner, rules: F) -> Result<T>
    where
        F: Fn(Step) -> R,
        R: Future<Output = (Step, Result<T>)>,
    {
        let give_up = Instant::now() + manner.patience;
        let (mut pause, mut duplicates) = (FIRST_PAUSE, 0);
        loop {
            let tried = timeout_at(give_up, self.attempt(manner.writes, &rules, give_up)).await;
            let failure = match tried {
                Ok(Tried::Done(result)) => return result,
                Ok(Tried::Failed(failure)) => failure,
                Err(_) => return Err(Error::store("MongoDB did not answer in time")),
            };
            let is_duplicate = is_duplicate(&failure);
            duplicates += usize::from(is_duplicate);
            if is_duplicate && duplicates > DUPLICATES {
                let message = "the session has something with this id already";
                return Err(Error::new(Kind::IdTaken, message).with_source(failure));
            }
            let wait = pause.mul_f64(jitter());
            if !(is_duplicate || is_passing(&failure)) || Instant::now() + wait >= give_up {
                return Err(failure.into());
            }
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt<T, F, R>(&self, writes: bool, rules: &F, give_up: Instant) -> Tried<T>
    where
        F: Fn(Step) -> R,
        R: Future<Output = (Step, Result<T>)>,
    {
        let session = match self.client.start_session().await {
            Ok(session) => session,
            Err(failure) => return Tried::Failed(failure),
        };
        let tables = self.tables.clone();
        let mut step = Step {
            tables,
            session,
            pending: None,
            waiting: None,
            gathered: Gathered::default(),
            failure: None,
        };
        if writes {
            let begun = step
                .session
                .start_transaction()
                .read_concern(ReadConcern::snapshot())
                .write_concern(WriteConcern::majority())
                .await;
            if let Err(failure) = begun {
                return Tried::Failed(failure);
            }
        }
        let (mut step, mut result) = rules(step).await;
        if result.is_ok()
            && let Err(error) = step.write().await
        {
            result = Err(error);
        }
        // A transaction that is let go of here is rolled back by the driver.
        if let Some(failure) = step.failure.take() {
            return Tried::Failed(failure);
        }
        if writes && result.is_ok() {
            while let Err(failure) = step.session.commit_transaction().await {
                let is_unknown = failure.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT);
                if !is_unknown || Instant::now() >= give_up {
                    return Tried::Failed(failure);
                }
                sleep(FIRST_PAUSE).await;
            }
        }
        Tried::Done(result)
    }
}

impl Step {
    /// Remembers what the database refused, so that the step is tried again however the rules take
    /// it.
    pub(super) fn check<T>(&mut self, answer: mongodb::error::Result<T>) -> Result<T> {
        answer.map_err(|error| {
            self.failure.get_or_insert_with(|| error.clone());
            error.into()
        })
    }

    /// Changes fields of a session's document, later.
    pub(super) async fn set(&mut self, session: &str, fields: Document) -> Result<()> {
        let pending = self.pending(session).await?;
        fields.keys().for_each(|field| drop(pending.unset.remove(field)));
        pending.set.extend(fields);
        Ok(())
    }

    /// Takes a field out of a session's document, later.
    pub(super) async fn unset(&mut self, session: &str, field: &str) -> Result<()> {
        let pending = self.pending(session).await?;
        pending.set.remove(field);
        pending.unset.insert(field, "");
        Ok(())
    }

    async fn pending(&mut self, session: &str) -> Result<&mut Pending> {
        if self.pending.as_ref().is_some_and(|pending| pending.session != session) {
            self.flush().await?;
        }
        Ok(self.pending.get_or_insert_with(|| Pending {
            session: session.to_owned(),
            set: Document::new(),
            unset: Document::new(),
        }))
    }

    /// Writes all that is not written yet.
    async fn write(&mut self) -> Result<()> {
        self.write_nodes().await?;
        self.flush().await
    }

    /// Writes what is to be changed of a session's document.
    pub(super) async fn flush(&mut self) -> Result<()> {
        let Some(Pending { session, set, unset }) = self.pending.take() else { return Ok(()) };
        let mut update = Document::new();
        for (operator, fields) in [("$set", set), ("$unset", unset)] {
            if !fields.is_empty() {
                update.insert(operator, fields);
            }
        }
        let sessions = self.tables.sessions.clone();
        let updated =
            sessions.update_one(doc! { "_id": session }, update).session(&mut self.session).await;
        match self.check(updated)?.matched_count {
            1 => Ok(()),
            _ => Err(Error::session_not_found()),
        }
    }

    /// Forgets what was to be changed: the document itself goes.
    pub(super) fn forget_changes(&mut self) {
        self.pending = None;
        self.gathered = Gathered::default();
    }

    /// The first document that the filter finds.
    pub(super) async fn one<T: DeserializeOwned + Send + Sync>(
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
        let found = find.session(&mut self.session).await;
        self.check(found)
    }

    /// What a pipeline gives, all of it.
    pub(super) async fn all<T: DeserializeOwned>(
        &mut self,
        table: &Collection<Document>,
        pipeline: Vec<Document>,
    ) -> Result<Vec<T>> {
        let asked = table.aggregate(pipeline).session(&mut self.session).await;
        let cursor = self.check(asked)?;
        let mut cursor = cursor.with_type::<T>();
        let found = cursor.stream(&mut self.session).try_collect().await;
        self.check(found)
    }

    /// Adds a document.
    pub(super) async fn insert(
        &mut self,
        table: &Collection<Document>,
        document: Document,
    ) -> Result<()> {
        let inserted = table.insert_one(document).session(&mut self.session).await;
        self.check(inserted).map(|_| ())
    }

    /// Deletes what the filter finds. How many that were.
    pub(super) async fn delete(
        &mut self,
        table: &Collection<Document>,
        filter: Document,
    ) -> Result<u64> {
        let deleted = table.delete_many(filter).session(&mut self.session).await;
        Ok(self.check(deleted)?.deleted_count)
    }
}

/// Whether a failure may pass by itself: another try can succeed.
pub(super) fn is_passing(failure: &mongodb::error::Error) -> bool {
    failure.contains_label(TRANSIENT_TRANSACTION_ERROR)
        || failure.contains_label(mongodb::error::RETRYABLE_WRITE_ERROR)
        || matches!(
            failure.kind.as_ref(),
            ErrorKind::Io(_)
                | ErrorKind::ConnectionPoolCleared { .. }
                | ErrorKind::ServerSelection { .. }
                | ErrorKind::Write(WriteFailure::WriteConcernError(_))
        )
        || code(failure).is_some_and(|code| PASSING.contains(&code))
}

/// Codes of a primary that goes, comes or is busy, beside those that the driver labels: the list of
/// the retryable reads specification, `WriteConflict`, and a majority that did not answer in time.
const PASSING: [i32; 16] =
    [6, 7, 64, 79, 89, 91, 112, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436];

/// Whether something that was to be added is there already.
pub(super) fn is_duplicate(failure: &mongodb::error::Error) -> bool {
    code(failure) == Some(11_000)
}

fn code(failure: &mongodb::error::Error) -> Option<i32> {
    match failure.kind.as_ref() {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        ErrorKind::InsertMany(error) => match &error.write_errors {
            Some(errors) => errors.first().map(|error| error.code),
            None => error.write_concern_error.as_ref().map(|error| error.code),
        },
        _ => None,
    }
}

/// Between a half and one and a half, so that those who met once do not meet again.
fn jitter() -> f64 {
    0.5 + f64::from(Uuid::now_v7().as_bytes()[15]) / 255.0
}
