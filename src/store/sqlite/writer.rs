//! The writer: one thread with its own connection, which commits queued operations in batches.
//!
//! Each operation runs in a savepoint of its own, so one that fails does not affect the others.
//! Callers learn of success only after the commit. While a commit waits for the disk, further
//! operations queue up and share the next one. Background operations, such as the turn log, come
//! last, one per commit.
//!
//! Steps are the parts of long work, such as a large import. Each takes a commit of its own, so
//! that no other operation waits for its end, and users take turns with them.

use crate::domain::UserId;
use crate::error::{Error, Result};
use crate::fair_pool::current_owner;
use rusqlite::Connection;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Maximum number of queued operations. With more of them the store cannot keep up.
const QUEUE_CAPACITY: usize = 4096;
/// Maximum number of operations per commit.
const MAX_BATCH_SIZE: usize = 256;
/// A commit takes no further operation after this time. Unit tests have no limit, so that their
/// batches do not depend on the speed of the machine.
const MAX_BATCH_TIME: Duration = if cfg!(test) { Duration::MAX } else { Duration::from_millis(4) };

/// How long a step may work. Steps measure it themselves, see [`StepBudget`].
const STEP_TIME: Duration = Duration::from_millis(20);
/// Rows that one step writes at most.
pub(super) const MAX_STEP_ROWS: usize = 1024;
/// Under constant load a step runs after this time without one.
const MAX_STEP_DELAY: Duration = Duration::from_millis(100);

/// The work that is left to one step, at most [`STEP_TIME`] and [`MAX_STEP_ROWS`].
#[derive(Debug)]
pub(super) struct StepBudget {
    ends_at: Instant,
    rows: usize,
}

impl StepBudget {
    pub(super) fn new() -> Self {
        Self { ends_at: Instant::now() + STEP_TIME, rows: MAX_STEP_ROWS }
    }

    /// Takes rows that were just written. Returns whether the step may go on.
    pub(super) fn spend(&mut self, rows: usize) -> bool {
        self.rows = self.rows.saturating_sub(rows);
        self.rows > 0 && Instant::now() < self.ends_at
    }
}

/// Whether a client waits for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WritePriority {
    Interactive,
    /// No client waits: interactive operations go first.
    Background,
    /// A part of long work that takes up to [`STEP_TIME`]. Other operations go first, as long as
    /// steps make progress at all.
    Step,
}

/// Sends operations to the writer thread, which ends when this handle is dropped.
pub(super) struct WriterHandle {
    queue: SyncSender<QueuedWrite>,
}

impl WriterHandle {
    /// Starts the thread. Joining it waits until everything queued is committed.
    pub(super) fn start(connection: Connection) -> Result<(Self, JoinHandle<()>)> {
        let (queue, receiver) = sync_channel(QUEUE_CAPACITY);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || run_writer(&connection, &receiver))
            .map_err(Error::internal)?;
        Ok((Self { queue }, thread))
    }

    /// Runs `work` in a transaction and returns its result once that is committed with the
    /// configured durability. An error of `work` undoes its changes.
    pub(super) async fn run_write<T, F>(&self, work: F, priority: WritePriority) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (reply, result_rx) = oneshot::channel();
        let owner = (priority == WritePriority::Step).then(current_owner).flatten();
        let operation = PendingWrite { operation: Some(work), result: None, reply, owner };
        // Never wait for room: a full queue means that the store cannot keep up.
        self.queue.try_send((priority, Box::new(operation))).map_err(|error| match error {
            TrySendError::Full(_) => Error::store_unavailable("the writer's queue is full"),
            TrySendError::Disconnected(_) => Error::store_unavailable("the writer has stopped"),
        })?;
        result_rx
            .await
            .unwrap_or_else(|_| Err(Error::store_unavailable("the writer dropped an operation")))
    }
}

type QueuedWrite = (WritePriority, Box<dyn WriteOperation>);

/// A unit of work and the channel to its caller.
trait WriteOperation: Send {
    /// Runs the work and keeps its result.
    fn execute(&mut self, connection: &Connection) -> Result<(), ()>;
    /// The user whose turn a step takes.
    fn owner(&self) -> Option<&UserId>;
    /// Sends the result to the caller, once the commit has succeeded or failed.
    fn complete(self: Box<Self>, commit: Result<()>);
}

struct PendingWrite<T, F> {
    operation: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
    owner: Option<UserId>,
}

impl<T, F> WriteOperation for PendingWrite<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T> + Send,
{
    fn execute(&mut self, connection: &Connection) -> Result<(), ()> {
        let Some(work) = self.operation.take() else { return Err(()) };
        // A bug in one operation must not take the writer down.
        let result = catch_unwind(AssertUnwindSafe(|| work(connection)))
            .unwrap_or_else(|_| Err(Error::internal("a store operation panicked")));
        let outcome = result.as_ref().map(|_| ()).map_err(|_| ());
        self.result = Some(result);
        outcome
    }

    fn owner(&self) -> Option<&UserId> {
        self.owner.as_ref()
    }

    fn complete(self: Box<Self>, commit: Result<()>) {
        let result = match (self.result, commit) {
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(result), Ok(())) => result,
            (None, Ok(())) => Err(Error::store_unavailable("the operation was not run")),
        };
        // The caller may have gone away.
        let _ = self.reply.send(result);
    }
}

fn run_writer(connection: &Connection, receiver: &Receiver<QueuedWrite>) {
    let mut queue = WriteQueue::new(receiver);
    while let Some((priority, first)) = queue.wait_next() {
        let mut batch = Vec::with_capacity(16);
        let outcome = match priority {
            WritePriority::Step => commit_step(connection, first, &mut batch),
            _ => commit_batch(connection, first, &mut queue, &mut batch),
        };
        if outcome.is_err() {
            // Fail what has queued up as well: each operation would wait just as long for a store
            // that cannot be written.
            batch.extend(queue.drain_all());
            let _ = connection.execute_batch("ROLLBACK");
        }
        for operation in batch {
            operation.complete(outcome.clone());
        }
        if priority == WritePriority::Step {
            queue.last_step_at = Instant::now();
        }
    }
    // A clean shutdown leaves an empty write-ahead log and fresh statistics for the planner.
    let _ = connection.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);");
}

/// Operations that were received and have not run yet.
struct WriteQueue<'a> {
    receiver: &'a Receiver<QueuedWrite>,
    background: VecDeque<Box<dyn WriteOperation>>,
    steps: VecDeque<Box<dyn WriteOperation>>,
    /// An interactive operation that was received while a step had to run first.
    interactive: Option<Box<dyn WriteOperation>>,
    last_step_at: Instant,
    last_step_owner: Option<UserId>,
}

impl<'a> WriteQueue<'a> {
    fn new(receiver: &'a Receiver<QueuedWrite>) -> Self {
        let (background, steps) = (VecDeque::new(), VecDeque::new());
        Self {
            receiver,
            background,
            steps,
            interactive: None,
            last_step_at: Instant::now(),
            last_step_owner: None,
        }
    }

    /// Waits for the operation that starts the next commit: interactive ones first, then
    /// background ones, then steps. `None` once the channel is closed.
    fn wait_next(&mut self) -> Option<QueuedWrite> {
        // Sorts what has arrived, so that a step that waits too long is seen.
        let interactive = match self.try_next_interactive() {
            Some(operation) if self.is_step_overdue() => {
                self.interactive = Some(operation);
                return self.pop_step();
            }
            other => other,
        };
        interactive
            .map(|operation| (WritePriority::Interactive, operation))
            .or_else(|| Some((WritePriority::Background, self.background.pop_front()?)))
            .or_else(|| self.pop_step())
            .or_else(|| self.receiver.recv().ok())
    }

    /// The next step, of another user than the last one if there is any.
    fn pop_step(&mut self) -> Option<QueuedWrite> {
        let last = self.last_step_owner.as_ref();
        let index = self.steps.iter().position(|step| step.owner() != last).unwrap_or(0);
        let step = self.steps.remove(index)?;
        self.last_step_owner = step.owner().cloned();
        Some((WritePriority::Step, step))
    }

    fn is_step_overdue(&self) -> bool {
        !self.steps.is_empty() && self.last_step_at.elapsed() >= MAX_STEP_DELAY
    }

    /// The next interactive operation, if one is queued now. Others in front of it are set aside.
    fn try_next_interactive(&mut self) -> Option<Box<dyn WriteOperation>> {
        if let Some(operation) = self.interactive.take() {
            return Some(operation);
        }
        loop {
            match self.receiver.try_recv().ok()? {
                (WritePriority::Interactive, operation) => return Some(operation),
                (WritePriority::Background, operation) => self.background.push_back(operation),
                (WritePriority::Step, operation) => self.steps.push_back(operation),
            }
        }
    }

    /// Takes everything that is queued now.
    fn drain_all(&mut self) -> impl Iterator<Item = Box<dyn WriteOperation>> {
        let queued = self.receiver.try_iter().take(QUEUE_CAPACITY).map(|(_, operation)| operation);
        let set_aside = self.interactive.take().into_iter();
        set_aside.chain(self.background.drain(..)).chain(self.steps.drain(..)).chain(queued)
    }
}

/// Runs one step in a transaction of its own.
fn commit_step(
    connection: &Connection,
    mut step: Box<dyn WriteOperation>,
    batch: &mut Vec<Box<dyn WriteOperation>>,
) -> Result<()> {
    let begun = execute_sql(connection, "BEGIN IMMEDIATE");
    let result = begun.and_then(|()| run_in_savepoint(connection, &mut *step));
    batch.push(step);
    result?;
    execute_sql(connection, "COMMIT")
}

/// Runs `first` and other queued operations in one transaction. All operations that have run are in
/// `batch`, even after an error.
fn commit_batch(
    connection: &Connection,
    first: Box<dyn WriteOperation>,
    queue: &mut WriteQueue<'_>,
    batch: &mut Vec<Box<dyn WriteOperation>>,
) -> Result<()> {
    let started = Instant::now();
    let mut next = Some(first);
    // `IMMEDIATE` takes the write lock now; upgrading a read lock later could fail
    // with `SQLITE_BUSY`.
    let begin_result = execute_sql(connection, "BEGIN IMMEDIATE");
    while let Some(mut operation) = next.take() {
        let result = begin_result
            .as_ref()
            .map_err(Error::clone)
            .and_then(|()| run_in_savepoint(connection, &mut *operation));
        batch.push(operation);
        result?;
        // The first operations of a long batch would wait for its last ones.
        if batch.len() < MAX_BATCH_SIZE && started.elapsed() < MAX_BATCH_TIME {
            next = queue.try_next_interactive();
        }
    }
    // One per commit: the turn log makes progress under load, and clients hardly wait for it.
    if let Some(mut operation) = queue.background.pop_front() {
        let result = run_in_savepoint(connection, &mut *operation);
        batch.push(operation);
        result?;
    }
    execute_sql(connection, "COMMIT")
}

fn run_in_savepoint(connection: &Connection, operation: &mut dyn WriteOperation) -> Result<()> {
    execute_sql(connection, "SAVEPOINT operation")?;
    if operation.execute(connection).is_err() {
        // On a full disk SQLite rolls back the whole transaction, and the other operations with it.
        if connection.is_autocommit() {
            return Err(Error::store_unavailable("the transaction was rolled back"));
        }
        execute_sql(connection, "ROLLBACK TO operation")?;
    }
    execute_sql(connection, "RELEASE operation")
}

fn execute_sql(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use futures::future::{BoxFuture, join_all};
    use tempfile::TempDir;

    /// A writer whose thread has not started yet, so that submitted operations share a commit.
    struct WriterHarness {
        folder: TempDir,
        writer: WriterHandle,
        receiver: Receiver<QueuedWrite>,
    }

    type WriteResult = BoxFuture<'static, Result<()>>;

    impl WriterHarness {
        fn new() -> Self {
            let (queue, receiver) = sync_channel(QUEUE_CAPACITY);
            let folder = tempfile::tempdir().unwrap();
            let writer = WriterHandle { queue };
            let harness = Self { folder, writer, receiver };
            // A line may follow one that does not exist, until the commit, which then fails.
            let schema = "PRAGMA journal_mode = WAL; \
                          CREATE TABLE lines (text TEXT PRIMARY KEY, \
                          follows TEXT REFERENCES lines (text) DEFERRABLE INITIALLY DEFERRED)";
            harness.connect().execute_batch(schema).unwrap();
            harness
        }

        fn connect(&self) -> Connection {
            let connection = Connection::open(self.folder.path().join("test.db")).unwrap();
            connection.execute_batch("PRAGMA foreign_keys = ON").unwrap();
            connection.busy_timeout(Duration::ZERO).unwrap();
            connection
        }

        fn submit<F>(&self, priority: WritePriority, work: F) -> WriteResult
        where
            F: FnOnce(&Connection) -> Result<()> + Send + 'static,
        {
            let (reply, result_rx) = oneshot::channel();
            let operation =
                PendingWrite { operation: Some(work), result: None, reply, owner: None };
            self.writer.queue.try_send((priority, Box::new(operation))).unwrap();
            Box::pin(async move { result_rx.await.unwrap() })
        }

        /// Runs the thread to its end. Returns the error of each operation and the
        /// lines in the file.
        async fn run_to_end(
            self,
            queued: Vec<WriteResult>,
            answered: impl FnOnce(),
        ) -> (ErrorKinds, Vec<String>) {
            let connection = self.connect();
            let reader = self.connect();
            let Self { writer, receiver, folder } = self;
            let thread = std::thread::spawn(move || run_writer(&connection, &receiver));
            let results = join_all(queued).await;
            answered();
            // The writer keeps working after each of these outcomes.
            let write = writer
                .run_write(|db| insert_line(db, "afterwards", None), WritePriority::Interactive);
            write.await.unwrap();
            drop(writer);
            thread.join().unwrap();
            let stored_lines = read_lines(&reader);
            drop((reader, folder));
            let kind = |result: Result<()>| result.err().map(|error| error.kind);
            (results.into_iter().map(kind).collect(), stored_lines)
        }
    }

    /// Error kind of each operation, if any.
    type ErrorKinds = Vec<Option<ErrorKind>>;

    fn insert_line(db: &Connection, text: &str, follows: Option<&str>) -> Result<()> {
        db.execute("INSERT INTO lines VALUES (?1, ?2)", (text, follows))?;
        Ok(())
    }

    fn read_lines(db: &Connection) -> Vec<String> {
        let mut statement = db.prepare("SELECT text FROM lines ORDER BY rowid").unwrap();
        let lines = statement.query_map([], |row| row.get(0)).unwrap();
        lines.collect::<rusqlite::Result<_>>().unwrap()
    }

    #[tokio::test]
    async fn failed_operation_leaves_others_committed() {
        let harness = WriterHarness::new();
        let other_connection = harness.connect();
        let queued = vec![
            harness.submit(WritePriority::Interactive, |db| insert_line(db, "one", None)),
            harness.submit(WritePriority::Interactive, |db| {
                insert_line(db, "half", None)?;
                Err(Error::new(ErrorKind::SessionBusy, "no"))
            }),
            harness.submit(WritePriority::Interactive, |db| insert_line(db, "two", Some("one"))),
            // An error of SQLite is treated like an error of the rules.
            harness.submit(WritePriority::Interactive, |db| {
                insert_line(db, "half", None)?;
                insert_line(db, "one", None)
            }),
            harness.submit(WritePriority::Background, |db| {
                insert_line(db, "half", None)?;
                Err(Error::new(ErrorKind::SessionClosed, "no"))
            }),
            harness.submit(WritePriority::Interactive, move |db| {
                assert_eq!(read_lines(db), ["one", "two"]);
                assert_eq!(
                    read_lines(&other_connection),
                    Vec::<String>::new(),
                    "they share one commit"
                );
                insert_line(db, "three", None)
            }),
        ];
        let (results, stored_lines) = harness.run_to_end(queued, || {}).await;
        let busy = Some(ErrorKind::SessionBusy);
        let rejected = Some(ErrorKind::StoreUnavailable);
        let closed = Some(ErrorKind::SessionClosed);
        assert_eq!(results, [None, busy, None, rejected, closed, None]);
        assert_eq!(stored_lines, ["one", "two", "three", "afterwards"]);
    }

    #[tokio::test]
    async fn steps_run_last_and_in_commits_of_their_own() {
        let harness = WriterHarness::new();
        let other_connection = harness.connect();
        let queued = vec![
            harness.submit(WritePriority::Step, move |db| {
                assert_eq!(read_lines(&other_connection), ["one", "two", "log"]);
                insert_line(db, "step", None)
            }),
            harness.submit(WritePriority::Background, |db| insert_line(db, "log", None)),
            harness.submit(WritePriority::Step, |db| {
                insert_line(db, "half", None)?;
                Err(Error::new(ErrorKind::SessionBusy, "no"))
            }),
            harness.submit(WritePriority::Interactive, |db| insert_line(db, "one", None)),
            harness.submit(WritePriority::Interactive, |db| insert_line(db, "two", None)),
        ];
        let (results, stored_lines) = harness.run_to_end(queued, || {}).await;
        assert_eq!(results, [None, None, Some(ErrorKind::SessionBusy), None, None]);
        assert_eq!(stored_lines, ["one", "two", "log", "step", "afterwards"]);
    }

    #[tokio::test]
    async fn panicking_operation_fails_alone() {
        let harness = WriterHarness::new();
        let queued = vec![
            harness.submit(WritePriority::Interactive, |db| insert_line(db, "one", None)),
            harness.submit(WritePriority::Interactive, |db| {
                insert_line(db, "half", None)?;
                panic!("expected by the test");
            }),
            harness.submit(WritePriority::Interactive, |db| insert_line(db, "two", None)),
        ];
        let (results, stored_lines) = harness.run_to_end(queued, || {}).await;
        assert_eq!(results, [None, Some(ErrorKind::Internal), None]);
        assert_eq!(stored_lines, ["one", "two", "afterwards"]);
    }

    #[tokio::test]
    async fn failed_commit_fails_every_operation_in_batch() {
        let harness = WriterHarness::new();
        let queued = vec![
            harness.submit(WritePriority::Interactive, |db| insert_line(db, "one", None)),
            harness.submit(WritePriority::Interactive, |db| {
                insert_line(db, "two", Some("nothing that is there"))
            }),
            harness.submit(WritePriority::Interactive, |_| {
                Err(Error::new(ErrorKind::SessionBusy, "no"))
            }),
            harness.submit(WritePriority::Background, |db| insert_line(db, "later", None)),
            harness.submit(WritePriority::Background, |db| insert_line(db, "much later", None)),
            harness.submit(WritePriority::Interactive, |db| insert_line(db, "three", None)),
        ];
        let (results, stored_lines) = harness.run_to_end(queued, || {}).await;
        // All of them may be retried, even those queued after the failed commit. A rejected
        // one stays rejected.
        let lost = Some(ErrorKind::StoreUnavailable);
        assert_eq!(results, [lost, lost, Some(ErrorKind::SessionBusy), lost, lost, lost]);
        assert_eq!(stored_lines, ["afterwards"]);
    }

    #[tokio::test]
    async fn failed_begin_fails_batch_and_next_batch_runs() {
        let harness = WriterHarness::new();
        let other_connection = harness.connect();
        other_connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        let queued = vec![
            harness.submit(WritePriority::Interactive, |db| insert_line(db, "one", None)),
            harness.submit(WritePriority::Interactive, |db| insert_line(db, "two", None)),
        ];
        let freed = || other_connection.execute_batch("ROLLBACK").unwrap();
        let (results, stored_lines) = harness.run_to_end(queued, freed).await;
        assert_eq!(results, [Some(ErrorKind::StoreUnavailable); 2]);
        assert_eq!(stored_lines, ["afterwards"]);
    }
}
