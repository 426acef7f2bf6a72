//! A pool of read-only connections alongside the writer.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use rusqlite::{Connection, Transaction};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Lends a connection to each call, which sees one consistent snapshot of the database.
#[derive(Clone)]
pub(super) struct ReaderPool {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    size: u32,
}

impl ReaderPool {
    pub(super) fn new(connections: Vec<Connection>) -> Self {
        let permits = Arc::new(Semaphore::new(connections.len()));
        let size = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        Self { idle: Arc::new(Mutex::new(connections)), permits, size }
    }

    /// Runs `work` in a read transaction, on a thread that may block.
    pub(super) async fn run_read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        let permit =
            self.permits.clone().acquire_owned().await.map_err(Error::store_unavailable)?;
        let idle = self.idle.clone();
        let task = tokio::task::spawn_blocking(move || {
            // Declared before the connection and so dropped after it: a free permit always means an
            // idle connection.
            let _permit = permit;
            let mut reader = PooledConnection::check_out(&idle);
            work(&reader.connection()?.transaction()?)
        });
        task.await.map_err(Error::internal)?
    }

    /// Closes the connections once all calls have returned.
    pub(super) async fn close(&self) {
        // Having all permits means that no call is running; forgetting them lets none start.
        if let Ok(permits) = self.permits.acquire_many(self.size).await {
            permits.forget();
        }
        self.permits.close();
        self.idle.lock().clear();
    }
}

/// A connection that returns to the pool when it is dropped, even if the work panics.
struct PooledConnection<'a> {
    connection: Option<Connection>,
    idle: &'a Mutex<Vec<Connection>>,
}

impl<'a> PooledConnection<'a> {
    fn check_out(idle: &'a Mutex<Vec<Connection>>) -> Self {
        // Invariant: there are as many permits as connections.
        let connection = idle.lock().pop();
        Self { connection, idle }
    }

    fn connection(&mut self) -> Result<&mut Connection> {
        self.connection.as_mut().ok_or_else(|| Error::store_unavailable("no reader is idle"))
    }
}

impl Drop for PooledConnection<'_> {
    fn drop(&mut self) {
        let idle = self.connection.take();
        self.idle.lock().extend(idle);
    }
}
