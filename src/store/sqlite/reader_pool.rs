//! Read-only connections alongside the writer, each on a thread of its own.
//!
//! Users take turns, and none holds more than half of the threads. A query that runs for long is
//! interrupted. Key look-ups, on which every request depends, have a thread to themselves.

use crate::error::{Error, ErrorKind, Result};
use crate::fair_pool::{FairPool, JobError, JobPriority, current_owner};
use rusqlite::{Connection, Transaction};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a query of a user may run. The server's own queries, such as those of the indexer, have
/// no deadline.
const MAX_QUERY_TIME: Duration = Duration::from_secs(10);
/// Steps of SQLite's virtual machine between two looks at the time: some 100 µs.
const STEPS_PER_CHECK: i32 = 10_000;
/// The deadline of a query without one, in milliseconds.
const NO_DEADLINE: u64 = u64::MAX;

/// Lends a connection to each call, which sees one consistent snapshot of the database.
pub(super) struct ReaderPool {
    threads: FairPool<Reader>,
}

/// The connection of a thread.
struct Reader {
    connection: Connection,
    /// Milliseconds after `started` at which the running query is interrupted.
    deadline: Arc<AtomicU64>,
    started: Instant,
}

impl ReaderPool {
    /// A thread for each connection. With more than one, the last is for key look-ups only.
    pub(super) fn start(mut connections: Vec<Connection>) -> Result<Self> {
        let urgent = if connections.len() > 1 { connections.pop() } else { None };
        let urgent = urgent.map(Reader::new).transpose()?;
        let readers = connections.into_iter().map(Reader::new).collect::<Result<_>>()?;
        let threads =
            FairPool::start("sqlite-reader", readers, urgent).map_err(Error::store_unavailable)?;
        Ok(Self { threads })
    }

    /// Runs `work` in a read transaction, in turn with the reads of other users.
    pub(super) async fn run_read<T, F>(&self, priority: JobPriority, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        let limit = current_owner().map(|_| MAX_QUERY_TIME);
        let job = move |reader: &mut Reader| reader.run(limit, work);
        self.threads.run(priority, job).await.map_err(|error| match error {
            JobError::Closed => Error::store_unavailable(error),
            JobError::Panicked => Error::internal(error),
        })?
    }

    /// Closes the connections once all calls have returned.
    pub(super) async fn close(&self) {
        self.threads.close().await;
    }
}

impl Reader {
    fn new(mut connection: Connection) -> Result<Self> {
        let started = Instant::now();
        let deadline = Arc::new(AtomicU64::new(NO_DEADLINE));
        let shared = deadline.clone();
        let is_over =
            move || started.elapsed().as_millis() >= u128::from(shared.load(Ordering::Relaxed));
        connection.progress_handler(STEPS_PER_CHECK, Some(is_over))?;
        Ok(Self { connection, deadline, started })
    }

    fn run<T>(
        &mut self,
        limit: Option<Duration>,
        work: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let deadline = limit.map(|limit| (self.started.elapsed() + limit).as_millis());
        let deadline = deadline.and_then(|deadline| u64::try_from(deadline).ok());
        self.deadline.store(deadline.unwrap_or(NO_DEADLINE), Ordering::Relaxed);
        let result = work(&self.connection.transaction()?);
        self.deadline.store(NO_DEADLINE, Ordering::Relaxed);
        result.map_err(|error| if is_interruption(&error) { too_slow_error() } else { error })
    }
}

/// Whether SQLite ended a query at its deadline.
fn is_interruption(error: &Error) -> bool {
    let source = error.source.as_deref();
    let cause = source.and_then(|source| source.downcast_ref::<rusqlite::Error>());
    cause.and_then(rusqlite::Error::sqlite_error_code)
        == Some(rusqlite::ErrorCode::OperationInterrupted)
}

fn too_slow_error() -> Error {
    let seconds = MAX_QUERY_TIME.as_secs();
    let sentence = format!(
        "the query was stopped after {seconds} s; nothing was changed; ask for less at once"
    );
    Error::new(ErrorKind::StoreUnavailable, sentence).with_limit("query_time")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDLESS: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";

    #[test]
    fn query_beyond_its_deadline_is_interrupted() {
        let mut reader = Reader::new(Connection::open_in_memory().unwrap()).unwrap();
        let limit = Some(Duration::from_millis(20));
        let mut query = |sql: &str| {
            reader.run(limit, |db| Ok(db.query_row(sql, [], |row| row.get::<_, i64>(0))?))
        };
        assert_eq!(query(ENDLESS).unwrap_err().limit_name(), Some("query_time"));
        assert_eq!(query("SELECT 7").unwrap(), 7, "the connection is used again");
    }
}
