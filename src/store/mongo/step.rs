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
use super::failures::{is_duplicate, is_passing};
use super::nodes::{Gathered, carry_out};
use super::order::{Order, Turn};
use super::{LONG_PATIENCE, MongoStore, PATIENCE, Tables};
use crate::domain::SessionId;
use crate::error::{Error, Kind, Result};
use crate::store::work::SessionRow;
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
const FIRST_PAUSE: Duration = Duration::from_millis(4);
/// … this long.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// What is said when no answer came: the step may have taken place.
const IN_DOUBT: &str = "the conversation store did not answer in time; repeat the request to see whether it took effect";
/// Bits of a revision below the millisecond in which its session was made: few enough that a double
/// holds it exactly, too.
const REVISIONS: u32 = 10;
/// How often a step may find that something it adds is there already: another one was faster, and
/// from then on this one sees it.
const DUPLICATES: usize = 3;

/// One step.
pub(super) struct Step {
    pub(super) tables: Tables,
    pub(super) session: ClientSession,
    pub(super) manner: Manner,
    /// Its name in the documents that it commits.
    pub(super) name: String,
    /// The session it works on.
    pub(super) current: Option<Current>,
    /// What is to be added to that session's nodes.
    pub(super) gathered: Gathered,
    /// The end of a log, to be written behind the commit.
    pub(super) log_end: Option<Document>,
    /// The use of a turn, to be booked behind the commit.
    pub(super) ledger_entry: Option<Document>,
    /// Whether it is booked before anybody hears of the commit.
    pub(super) books_at_once: bool,
    /// Turns whose texts in the queue nobody needs behind the commit.
    pub(super) dequeued: Vec<String>,
    /// The note of a request, to be confirmed behind the commit.
    pub(super) unconfirmed: Option<Document>,
    /// The message of the note that was found and means nothing any more.
    pub(super) past_note: Option<String>,
    /// Who goes first in a session.
    order: Order,
    /// Its own turn in the session that it read first.
    turn: Option<Turn>,
    /// The notes that this step has made in all its tries, by what they lead to.
    pub(super) noted: HashMap<String, Document>,
    /// Why it must be tried again, if it must.
    failure: Option<Failure>,
}

/// A session as the step has changed it so far.
pub(super) struct Current {
    pub(super) id: SessionId,
    /// The revision that was read; `None` if the session is new.
    pub(super) revision: Option<i64>,
    /// The revision that the session began with: no other session of that name, before or after,
    /// had it.
    pub(super) born: i64,
    pub(super) document: Document,
    pub(super) set: Document,
    pub(super) unset: Document,
}

/// How far this instance has seen the database.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    cluster_time: ClusterTime,
    operation_time: Timestamp,
}

/// Why a try came to nothing.
pub(super) enum Failure {
    /// What the database said.
    Database(mongodb::error::Error),
    /// Another step was faster.
    Overtaken,
}

/// How a step is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Whether it is a transaction.
    pub(super) is_transaction: bool,
    /// Whether it waits until others of this instance are done with the session.
    takes_turns: bool,
    /// How long it may take, all tries together.
    patience: Duration,
}

impl Manner {
    pub(super) const STEP: Self =
        Self { is_transaction: false, takes_turns: true, patience: PATIENCE };
    /// Changes nothing.
    pub(super) const LOOK: Self = Self { takes_turns: false, ..Self::STEP };
    /// For a whole session.
    pub(super) const LONG_STEP: Self =
        Self { is_transaction: true, takes_turns: false, patience: LONG_PATIENCE };
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

pub(super) use step;

/// What a try came to.
enum Tried<T> {
    Done(Result<T>),
    Failed(Failure),
}

impl MongoStore {
    /// A session of the driver's that reads what this instance has written and read before, also from
    /// a primary that was elected meanwhile.
    async fn session(&self) -> mongodb::error::Result<ClientSession> {
        let mut session = self.client.start_session().await?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Seen { cluster_time, operation_time }) = seen {
            session.advance_cluster_time(&cluster_time);
            session.advance_operation_time(operation_time);
        }
        Ok(session)
    }

    fn remember(&self, session: &ClientSession) {
        let (Some(cluster), Some(operation)) = (session.cluster_time(), session.operation_time())
        else {
            return;
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref().is_none_or(|seen| seen.operation_time < operation) {
            *seen = Some(Seen { cluster_time: cluster.clone(), operation_time: operation });
        }
    }

    /// Does a step, all of it or nothing.
    pub(super) async fn attempts<T, F, R>(&self, manner: Manner, rules: F) -> Result<T>
    where
        F: Fn(Step) -> R,
        R: Future<Output = (Step, Result<T>)>,
    {
        let give_up = Instant::now() + manner.patience;
        let (mut pause, mut duplicates) = (FIRST_PAUSE, 0);
        let (mut noted, mut turn) = (HashMap::new(), None);
        loop {
            let tried = self.attempt(manner, &rules, &mut noted, &mut turn);
            let failure = match timeout_at(give_up, tried).await {
                Ok(Tried::Done(result)) => return result,
                Ok(Tried::Failed(failure)) => failure,
                Err(_) => return Err(Error::new(Kind::StoreUnavailable, IN_DOUBT)),
            };
            let is_worth_it = match &failure {
                Failure::Overtaken => true,
                Failure::Database(error) if is_duplicate(error) => {
                    duplicates += 1;
                    duplicates <= DUPLICATES
                }
                Failure::Database(error) => is_passing(error),
            };
            let wait = pause.mul_f64(jitter());
            if !is_worth_it || Instant::now() + wait >= give_up {
                return Err(failure.into_error());
            }
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt<T, F, R>(
        &self,
        manner: Manner,
        rules: &F,
        noted: &mut HashMap<String, Document>,
        turn: &mut Option<Turn>,
    ) -> Tried<T>
    where
        F: Fn(Step) -> R,
        R: Future<Output = (Step, Result<T>)>,
    {
        let mut session = match self.session().await {
            Ok(session) => session,
            Err(failure) => return Tried::Failed(Failure::Database(failure)),
        };
        if manner.is_transaction {
            let begun = session
                .start_transaction()
                .read_concern(ReadConcern::snapshot())
                .write_concern(WriteConcern::majority())
                .await;
            if let Err(failure) = begun {
                return Tried::Failed(Failure::Database(failure));
            }
        }
        let step = Step {
            tables: self.tables.clone(),
            session,
            manner,
            name: Uuid::now_v7().simple().to_string(),
            current: None,
            gathered: Gathered::default(),
            log_end: None,
            ledger_entry: None,
            books_at_once: false,
            dequeued: Vec::new(),
            unconfirmed: None,
            past_note: None,
            order: self.order.clone(),
            turn: turn.take(),
            noted: std::mem::take(noted),
            failure: None,
        };
        let (mut step, mut result) = rules(step).await;
        if result.is_ok()
            && step.failure.is_none()
            && let Err(error) = step.finish().await
        {
            result = Err(error);
        }
        if result.is_err() && step.failure.is_none() {
            step.withdraw_notes().await;
        }
        (*noted, *turn) = (std::mem::take(&mut step.noted), step.turn.take());
        self.remember(&step.session);
        match step.failure.take() {
            // However the rules took it. The driver rolls back a transaction that is let go of.
            Some(failure) => Tried::Failed(failure),
            None => Tried::Done(result),
        }
    }
}

impl Failure {
    fn into_error(self) -> Error {
        match self {
            Self::Overtaken => Error::store_unavailable("others were faster, again and again"),
            Self::Database(error) if is_duplicate(&error) => {
                Error::new(Kind::IdTaken, "the session has something with this id already")
                    .with_source(error)
            }
            Self::Database(error) => error.into(),
        }
    }
}

impl Step {
    /// Remembers what the database refused, so that the step is tried again however the rules take
    /// it.
    pub(super) fn check<T>(&mut self, answer: mongodb::error::Result<T>) -> Result<T> {
        answer.map_err(|error| {
            self.failure.get_or_insert_with(|| Failure::Database(error.clone()));
            error.into()
        })
    }

    /// Says that the step must be tried again, because another one was faster.
    pub(super) fn overtaken(&mut self) -> Error {
        self.failure.get_or_insert(Failure::Overtaken);
        Error::store_unavailable("another step was faster")
    }

    /// The session with this id, as this step has changed it so far.
    pub(super) async fn find_session(&mut self, id: &SessionId) -> Result<Option<SessionRow>> {
        if !self.is_current(id) {
            self.commit().await?;
            if self.manner.takes_turns && self.turn.is_none() {
                self.turn = Some(self.order.turn(id).await);
            }
            self.current = self.load(id).await?;
        }
        let Some(current) = &self.current else { return Ok(None) };
        let session: SessionDoc = deserialize_from_document(current.document.clone())
            .map_err(Error::store_unavailable)?;
        session.into_row().map(Some)
    }

    /// The turns that wait in the session, in their order.
    pub(super) fn queue(&self) -> Vec<String> {
        let queue =
            self.current.as_ref().and_then(|current| current.document.get_array("queue").ok());
        let turns = queue.into_iter().flatten().filter_map(Bson::as_str);
        turns.map(str::to_owned).collect()
    }

    pub(super) fn is_current(&self, id: &SessionId) -> bool {
        self.current.as_ref().is_some_and(|current| current.id == *id)
    }

    async fn finish(&mut self) -> Result<()> {
        self.commit().await?;
        if self.manner.is_transaction { self.end_transaction().await } else { Ok(()) }
    }

    async fn load(&mut self, id: &SessionId) -> Result<Option<Current>> {
        let sessions = self.tables.sessions.clone();
        let found: Option<Document> =
            self.one(&sessions, doc! { "_id": id.as_str() }, None).await?;
        let Some(mut document) = found else { return Ok(None) };
        if let Some(Bson::Document(pending)) = document.remove("pending") {
            let carried_out = carry_out(&self.tables, &pending, None).await;
            self.check(carried_out)?;
            if self.manner.is_transaction {
                // What was carried out just now is outside of what this transaction sees.
                let done = doc! { "_id": id.as_str(), "pending": &pending };
                let cleared = sessions.update_one(done, doc! { "$unset": { "pending": "" } }).await;
                self.check(cleared)?;
                return Err(self.overtaken());
            }
        }
        let revision = document.get_i64("revision").unwrap_or_default();
        let (set, unset) = Default::default();
        let (id, born) = (id.clone(), document.get_i64("born").unwrap_or_default());
        Ok(Some(Current { id, revision: Some(revision), born, document, set, unset }))
    }

    /// Works on a session that is to be added.
    pub(super) async fn add(&mut self, id: &SessionId, mut document: Document) -> Result<()> {
        self.commit().await?;
        let (set, unset) = Default::default();
        let born = first_revision();
        document.insert("born", born);
        self.current = Some(Current { id: id.clone(), revision: None, born, document, set, unset });
        Ok(())
    }

    /// Changes fields of the session.
    pub(super) fn set(&mut self, fields: Document) {
        let Some(current) = &mut self.current else { return };
        for (field, value) in fields {
            current.unset.remove(&field);
            current.document.insert(field.clone(), value.clone());
            current.set.insert(field, value);
        }
    }

    /// Takes a field out of the session.
    pub(super) fn unset(&mut self, field: &str) {
        let Some(current) = &mut self.current else { return };
        current.set.remove(field);
        current.document.remove(field);
        current.unset.insert(field, "");
    }

    /// Forgets the session and what was to be changed: the document itself goes.
    pub(super) fn forget(&mut self) {
        self.current = None;
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

/// Between a half and one and a half, so that those who met once do not meet again.
fn jitter() -> f64 {
    0.5 + f64::from(Uuid::now_v7().as_bytes()[15]) / 255.0
}

/// The revision of a session that is made now: none that had its name has come so far.
pub(super) fn first_revision() -> i64 {
    DateTime::now().timestamp_millis() << REVISIONS
}
