//! The one writer: a thread with its own connection that commits what is waiting together.
//!
//! Each operation runs in a savepoint of its own, so one that fails takes nothing of the others
//! with it. Nobody is told of success before the commit that holds it. While a commit waits for
//! the disk the next operations gather, and share the next one. What can wait (the turn log) goes
//! last, one such operation per commit.

use crate::error::{Error, Result};
use rusqlite::Connection;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Operations that may wait; more is a store that cannot keep up.
const QUEUE: usize = 4096;
/// Most operations of one commit.
const BATCH: usize = 256;
/// A commit takes no further operation after this long. In this crate's own tests it takes all that
/// waits, however slow the machine.
const BATCH_TIME: Duration = if cfg!(test) { Duration::MAX } else { Duration::from_millis(4) };

/// Whether somebody waits for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Somebody does.
    Now,
    /// Nobody does: it gives way to the others.
    Later,
}

/// Hands operations to the writer's thread. The thread ends when this is dropped.
pub(super) struct Writer {
    queue: SyncSender<Queued>,
}

impl Writer {
    /// Starts the thread; joining it waits until everything queued is committed.
    pub(super) fn start(connection: Connection) -> Result<(Self, JoinHandle<()>)> {
        let (queue, waiting) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || serve(&connection, &waiting))
            .map_err(Error::internal)?;
        Ok((Self { queue }, thread))
    }

    /// Runs `work` in a transaction; its result counts once that is on disk as configured. An error
    /// of `work` undoes what it did.
    pub(super) async fn run<T, F>(&self, work: F, urgency: Urgency) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (reply, done) = oneshot::channel();
        let operation = Pending { work: Some(work), result: None, reply };
        self.queue.try_send((urgency, Box::new(operation))).map_err(|refused| match refused {
            TrySendError::Full(_) => Error::store_unavailable("the writer's queue is full"),
            TrySendError::Disconnected(_) => Error::store_unavailable("the writer has stopped"),
        })?;
        done.await
            .unwrap_or_else(|_| Err(Error::store_unavailable("the writer dropped an operation")))
    }
}

type Queued = (Urgency, Box<dyn Operation>);

/// One unit of work and whoever waits for it.
trait Operation: Send {
    /// Does the work; the error is kept for whoever waits.
    fn run(&mut self, connection: &Connection) -> Result<(), ()>;
    /// Tells whoever waits, once the commit has held or failed.
    fn complete(self: Box<Self>, commit: Result<()>);
}

struct Pending<T, F> {
    work: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Operation for Pending<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), ()> {
        let Some(work) = self.work.take() else { return Err(()) };
        // A mistake in one operation must not take the writer down with it.
        let result = catch_unwind(AssertUnwindSafe(|| work(connection)))
            .unwrap_or_else(|_| Err(Error::internal("a store operation panicked")));
        let outcome = result.as_ref().map(|_| ()).map_err(|_| ());
        self.result = Some(result);
        outcome
    }

    fn complete(self: Box<Self>, commit: Result<()>) {
        let result = match (self.result, commit) {
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(result), Ok(())) => result,
            (None, Ok(())) => Err(Error::store_unavailable("the operation was not run")),
        };
        // Whoever waited may have left.
        let _ = self.reply.send(result);
    }
}

fn serve(connection: &Connection, queue: &Receiver<Queued>) {
    let mut waiting = Waiting { queue, later: VecDeque::new() };
    while let Some(first) = waiting.wait() {
        let mut batch = Vec::with_capacity(16);
        let outcome = commit_together(connection, first, &mut waiting, &mut batch);
        if outcome.is_err() {
            // Those that queued up behind a store that cannot be written would each wait as long.
            batch.extend(waiting.all());
            let _ = connection.execute_batch("ROLLBACK");
        }
        for operation in batch {
            operation.complete(outcome.clone());
        }
    }
    let _ = connection.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);");
}

/// What has been handed over and not been run.
struct Waiting<'a> {
    queue: &'a Receiver<Queued>,
    later: VecDeque<Box<dyn Operation>>,
}

impl Waiting<'_> {
    /// The next operation, whatever it is; waits for it. `None` once nothing more can come.
    fn wait(&mut self) -> Option<Box<dyn Operation>> {
        match self.urgent().or_else(|| self.later.pop_front()) {
            Some(operation) => Some(operation),
            None => self.queue.recv().ok().map(|(_, operation)| operation),
        }
    }

    /// The next operation that somebody waits for, if there is one now.
    fn urgent(&mut self) -> Option<Box<dyn Operation>> {
        loop {
            match self.queue.try_recv().ok()? {
                (Urgency::Now, operation) => return Some(operation),
                (Urgency::Later, operation) => self.later.push_back(operation),
            }
        }
    }

    /// All there is.
    fn all(&mut self) -> impl Iterator<Item = Box<dyn Operation>> {
        let urgent = self.queue.try_iter().take(QUEUE).map(|(_, operation)| operation);
        self.later.drain(..).chain(urgent)
    }
}

/// Runs `first` and what else is waiting in one transaction. All that was run is in `batch`,
/// whatever happens.
fn commit_together(
    connection: &Connection,
    first: Box<dyn Operation>,
    waiting: &mut Waiting<'_>,
    batch: &mut Vec<Box<dyn Operation>>,
) -> Result<()> {
    let started = Instant::now();
    let mut next = Some(first);
    let begun = execute(connection, "BEGIN IMMEDIATE");
    while let Some(mut operation) = next.take() {
        let run = begun
            .as_ref()
            .map_err(Error::clone)
            .and_then(|()| run_one(connection, &mut *operation));
        batch.push(operation);
        run?;
        if batch.len() < BATCH && started.elapsed() < BATCH_TIME {
            next = waiting.urgent();
        }
    }
    if let Some(mut operation) = waiting.later.pop_front() {
        let run = run_one(connection, &mut *operation);
        batch.push(operation);
        run?;
    }
    execute(connection, "COMMIT")
}

fn run_one(connection: &Connection, operation: &mut dyn Operation) -> Result<()> {
    execute(connection, "SAVEPOINT operation")?;
    if operation.run(connection).is_err() {
        // A full disk rolls the whole transaction back by itself: then the others are lost too.
        if connection.is_autocommit() {
            return Err(Error::store_unavailable("the transaction was rolled back"));
        }
        execute(connection, "ROLLBACK TO operation")?;
    }
    execute(connection, "RELEASE operation")
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use futures::future::{BoxFuture, join_all};
    use tempfile::TempDir;

    /// A writer whose thread does not run yet, so that what is handed over shares a commit.
    struct Bench {
        folder: TempDir,
        writer: Writer,
        waiting: Receiver<Queued>,
    }

    type Done = BoxFuture<'static, Result<()>>;

    impl Bench {
        fn new() -> Self {
            let (queue, waiting) = sync_channel(QUEUE);
            let (folder, writer) = (tempfile::tempdir().unwrap(), Writer { queue });
            let bench = Self { folder, writer, waiting };
            // A line may follow one that is not there until the commit, which then fails.
            let schema = "PRAGMA journal_mode = WAL; \
                          CREATE TABLE lines (text TEXT PRIMARY KEY, \
                          follows TEXT REFERENCES lines (text) DEFERRABLE INITIALLY DEFERRED)";
            bench.connect().execute_batch(schema).unwrap();
            bench
        }

        fn connect(&self) -> Connection {
            let connection = Connection::open(self.folder.path().join("test.db")).unwrap();
            connection.execute_batch("PRAGMA foreign_keys = ON").unwrap();
            connection.busy_timeout(Duration::ZERO).unwrap();
            connection
        }

        fn queue<F>(&self, urgency: Urgency, work: F) -> Done
        where
            F: FnOnce(&Connection) -> Result<()> + Send + 'static,
        {
            let (reply, done) = oneshot::channel();
            let operation = Pending { work: Some(work), result: None, reply };
            self.writer.queue.try_send((urgency, Box::new(operation))).unwrap();
            Box::pin(async move { done.await.unwrap() })
        }

        /// Lets the thread run; what it answered, and the lines that are in the file at its end.
        async fn run(self, queued: Vec<Done>, answered: impl FnOnce()) -> (Told, Vec<String>) {
            let (connection, reader) = (self.connect(), self.connect());
            let Self { writer, waiting, folder } = self;
            let thread = std::thread::spawn(move || serve(&connection, &waiting));
            let told = join_all(queued).await;
            answered();
            // Whatever happened, the writer goes on.
            let write = writer.run(|db| insert(db, "afterwards", None), Urgency::Now);
            write.await.unwrap();
            drop(writer);
            thread.join().unwrap();
            let kept = lines(&reader);
            drop((reader, folder));
            let kind = |told: Result<()>| told.err().map(|error| error.kind);
            (told.into_iter().map(kind).collect(), kept)
        }
    }

    /// What kind of error each operation met, if any.
    type Told = Vec<Option<Kind>>;

    fn insert(db: &Connection, text: &str, follows: Option<&str>) -> Result<()> {
        db.execute("INSERT INTO lines VALUES (?1, ?2)", (text, follows))?;
        Ok(())
    }

    fn lines(db: &Connection) -> Vec<String> {
        let mut statement = db.prepare("SELECT text FROM lines ORDER BY rowid").unwrap();
        let lines = statement.query_map([], |row| row.get(0)).unwrap();
        lines.collect::<rusqlite::Result<_>>().unwrap()
    }

    #[tokio::test]
    async fn an_operation_that_fails_takes_nothing_of_the_others_with_it() {
        let bench = Bench::new();
        let beside = bench.connect();
        let queued = vec![
            bench.queue(Urgency::Now, |db| insert(db, "one", None)),
            bench.queue(Urgency::Now, |db| {
                insert(db, "half", None)?;
                Err(Error::new(Kind::SessionBusy, "no"))
            }),
            bench.queue(Urgency::Now, |db| insert(db, "two", Some("one"))),
            // What SQLite refuses, as what we do.
            bench.queue(Urgency::Now, |db| {
                insert(db, "half", None)?;
                insert(db, "one", None)
            }),
            bench.queue(Urgency::Later, |db| {
                insert(db, "half", None)?;
                Err(Error::new(Kind::SessionClosed, "no"))
            }),
            bench.queue(Urgency::Now, move |db| {
                assert_eq!(lines(db), ["one", "two"]);
                assert_eq!(lines(&beside), Vec::<String>::new(), "they share one commit");
                insert(db, "three", None)
            }),
        ];
        let (told, kept) = bench.run(queued, || {}).await;
        let busy = Some(Kind::SessionBusy);
        let (refused, closed) = (Some(Kind::StoreUnavailable), Some(Kind::SessionClosed));
        assert_eq!(told, [None, busy, None, refused, closed, None]);
        assert_eq!(kept, ["one", "two", "three", "afterwards"]);
    }

    #[tokio::test]
    async fn an_operation_that_panics_fails_alone() {
        let bench = Bench::new();
        let queued = vec![
            bench.queue(Urgency::Now, |db| insert(db, "one", None)),
            bench.queue(Urgency::Now, |db| {
                insert(db, "half", None)?;
                panic!("an invented mistake");
            }),
            bench.queue(Urgency::Now, |db| insert(db, "two", None)),
        ];
        let (told, kept) = bench.run(queued, || {}).await;
        assert_eq!(told, [None, Some(Kind::Internal), None]);
        assert_eq!(kept, ["one", "two", "afterwards"]);
    }

    #[tokio::test]
    async fn a_commit_that_fails_fails_all_that_shared_it_and_keeps_nothing() {
        let bench = Bench::new();
        let queued = vec![
            bench.queue(Urgency::Now, |db| insert(db, "one", None)),
            bench.queue(Urgency::Now, |db| insert(db, "two", Some("nothing that is there"))),
            bench.queue(Urgency::Now, |_| Err(Error::new(Kind::SessionBusy, "no"))),
            bench.queue(Urgency::Later, |db| insert(db, "later", None)),
            bench.queue(Urgency::Later, |db| insert(db, "much later", None)),
            bench.queue(Urgency::Now, |db| insert(db, "three", None)),
        ];
        let (told, kept) = bench.run(queued, || {}).await;
        // All may be tried again, those too that queued up behind it; what was refused stays so.
        let lost = Some(Kind::StoreUnavailable);
        assert_eq!(told, [lost, lost, Some(Kind::SessionBusy), lost, lost, lost]);
        assert_eq!(kept, ["afterwards"]);
    }

    #[tokio::test]
    async fn a_transaction_that_cannot_begin_fails_all_that_wait_and_is_tried_anew() {
        let bench = Bench::new();
        let beside = bench.connect();
        beside.execute_batch("BEGIN IMMEDIATE").unwrap();
        let queued = vec![
            bench.queue(Urgency::Now, |db| insert(db, "one", None)),
            bench.queue(Urgency::Now, |db| insert(db, "two", None)),
        ];
        let freed = || beside.execute_batch("ROLLBACK").unwrap();
        let (told, kept) = bench.run(queued, freed).await;
        assert_eq!(told, [Some(Kind::StoreUnavailable); 2]);
        assert_eq!(kept, ["afterwards"]);
    }
}
