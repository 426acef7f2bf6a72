//! Transactions of the rules on SQLite. It answers synchronously, so the async functions of the
//! transaction traits never wait.

use super::SqliteStore;
use super::session_remains::{next_session_key, release_draft};
use super::session_rows::KeyedSession;
use crate::domain::{ProjectId, SessionId};
use crate::error::{Error, Result};
use crate::store::project_transaction::ProjectRow;
use crate::store::transaction::SessionRow;
use futures::FutureExt;
use rusqlite::Connection;
use std::collections::HashMap;

/// A connection with an open transaction.
pub(super) struct SqliteTransaction<'a> {
    pub(super) db: &'a Connection,
    /// Keys of the rows that this transaction has read. The rules do not know them.
    session_keys: HashMap<SessionId, i64>,
    project_keys: HashMap<ProjectId, i64>,
    /// The draft whose content the next new session gets.
    draft: Option<i64>,
}

impl<'a> SqliteTransaction<'a> {
    pub(super) fn new(db: &'a Connection) -> Self {
        Self { db, session_keys: HashMap::new(), project_keys: HashMap::new(), draft: None }
    }

    /// Remembers the key of a session for [`session_key`](Self::session_key).
    pub(super) fn note_session(&mut self, found: KeyedSession) -> SessionRow {
        self.session_keys.insert(found.row.session.id.clone(), found.key);
        found.row
    }

    /// A transaction on the content of a draft, whose session has no row yet.
    pub(super) fn on_draft(db: &'a Connection, id: &SessionId, key: i64) -> Self {
        let mut tx = Self::new(db);
        tx.session_keys.insert(id.clone(), key);
        tx.draft = Some(key);
        tx
    }

    /// The key for a new session: that of the draft, or else an unused one.
    pub(super) fn take_new_session_key(&mut self) -> Result<i64> {
        match self.draft.take() {
            Some(key) => release_draft(self.db, key).map(|()| key),
            None => next_session_key(self.db),
        }
    }

    /// The key of a session that this transaction has read.
    pub(super) fn session_key(&self, row: &SessionRow) -> Result<i64> {
        let key = self.session_keys.get(&row.session.id).copied();
        key.ok_or_else(|| Error::internal("the session is not from this transaction"))
    }

    /// Remembers the key of a project for [`project_key`](Self::project_key).
    pub(super) fn note_project(&mut self, id: &ProjectId, key: i64) {
        self.project_keys.insert(id.clone(), key);
    }

    /// The key of a project that this transaction has read.
    pub(super) fn project_key(&self, row: &ProjectRow) -> Result<i64> {
        let key = self.project_keys.get(&row.project.id).copied();
        key.ok_or_else(|| Error::internal("the project is not from this transaction"))
    }
}

impl SqliteStore {
    /// Runs rules in one transaction on the writer thread.
    pub(super) async fn transact<T, F>(&self, rules: F) -> Result<T>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&mut SqliteTransaction<'_>) -> Result<T> + Send + 'static,
    {
        self.run_write(move |db| run_ready(rules(&mut SqliteTransaction::new(db)))).await
    }
}

/// Returns the result of a future that is ready at once, as those of [`SqliteTransaction`] are.
pub(super) fn run_ready<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    // Polled once: a future that is not ready then would never be, as nothing wakes it.
    future
        .now_or_never()
        .unwrap_or_else(|| Err(Error::internal("a SQLite transaction was suspended")))
}
