//! Transactions of the rules on SQLite. What a transaction can do is in `store_transaction.rs`.

use super::SqliteStore;
use crate::error::{Error, Result};
use futures::FutureExt;
use rusqlite::Connection;

/// A connection with an open transaction.
pub(super) struct SqliteTransaction<'a>(pub(super) &'a Connection);

impl SqliteStore {
    /// Runs rules in one transaction on the writer thread.
    pub(super) async fn transact<T, F>(&self, rules: F) -> Result<T>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&mut SqliteTransaction<'_>) -> Result<T> + Send + 'static,
    {
        self.run_write(move |db| run_ready(rules(&mut SqliteTransaction(db)))).await
    }
}

/// Returns the result of a future that is ready at once, as those of [`SqliteTransaction`] are.
pub(super) fn run_ready<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    // Polled once: a future that is not ready then would never be, as nothing wakes it.
    future
        .now_or_never()
        .unwrap_or_else(|| Err(Error::internal("a SQLite transaction was suspended")))
}
