//! The embedded store: one SQLite file in write-ahead mode, one writer thread, and a pool of
//! read-only connections.
//!
//! rusqlite is used in this folder only.

mod admin;
mod drafts;
mod embeddings;
mod filter;
mod idempotency;
mod keys;
mod ledger;
mod ledger_repair;
mod messages;
mod migration;
mod nodes;
mod paths;
mod projects;
mod queue;
mod reader_pool;
mod responses;
mod rows;
mod schema;
mod search;
mod session_list;
mod session_remains;
mod session_rows;
mod sessions;
mod summaries;
mod transaction;
mod transfer;
mod tree;
mod turn_log;
mod turns;
mod writer;

use super::Store;
use crate::domain::TurnId;
use crate::error::{Error, ErrorKind, Result};
use crate::fair_pool::JobPriority;
use async_trait::async_trait;
use parking_lot::Mutex;
use reader_pool::ReaderPool;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction};
use std::collections::HashMap;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{JoinHandle, available_parallelism};
use std::time::Duration;
use tokio::time::Instant;
use writer::{WritePriority, WriterHandle};

/// Read-only connections that users share. They mostly wait for the disk, so there are some even on
/// one core.
const MIN_SHARED_READERS: usize = 4;
/// How long a statement waits for a lock that another process holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Prepared statements cached by each connection.
const STATEMENT_CACHE_CAPACITY: usize = 128;

/// How far a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged writes are on disk.
    Full,
    /// A power failure can lose the last moments, but never corrupts the file.
    Normal,
}

pub struct SqliteStore {
    path: PathBuf,
    writer: Mutex<Option<Arc<WriterHandle>>>,
    writer_thread: Mutex<Option<JoinHandle<()>>>,
    reader_pool: ReaderPool,
    /// Says that the schema was upgraded, for the first log line.
    upgrade_note: Option<String>,
    /// Held while this process serves the file.
    file_lock: Mutex<Option<File>>,
    /// Turns that this process has claimed but does not run, and since when that is known.
    suspected_orphans: Mutex<HashMap<TurnId, Instant>>,
}

impl SqliteStore {
    /// Opens the file at `path` and locks it for this process, creating it and its directories if
    /// they are missing. Errors say what an operator can do.
    pub fn open(path: &Path, durability: Durability) -> Result<Self> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
        {
            let created = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            created.map_err(|error| open_error(directory, &error))?;
        }
        // Before the file is opened: opening may upgrade the schema.
        let lock = acquire_file_lock(path)?;
        // SQLite gives its log and shared-memory files the permissions of this one.
        open_private_file(path).map_err(|error| open_error(path, &error))?;
        let mut connection = open_connection(path, OpenFlags::default())?;
        // Write-ahead mode is stored in the file; the other pragmas apply to the connection.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let upgrade = schema::migrate_schema(&mut connection, path)?;
        ledger_repair::repair_totals(&mut connection)?;
        connection.pragma_update(
            None,
            "synchronous",
            if durability == Durability::Full { "FULL" } else { "NORMAL" },
        )?;
        // Gives disk space back after a burst of writes.
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        // Overwrite deleted content. The price is writing pages that would otherwise
        // just become free.
        connection.pragma_update(None, "secure_delete", true)?;
        let read_flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let cores = available_parallelism().map_or(1, usize::from);
        // One more for key look-ups.
        let readers = (0..=cores.max(MIN_SHARED_READERS))
            .map(|_| open_connection(path, read_flags))
            .collect::<Result<_>>()?;
        session_remains::abandon_drafts(&connection)?;
        let (writer, thread) = WriterHandle::start(connection)?;
        Ok(Self {
            path: path.to_owned(),
            upgrade_note: upgrade,
            writer: Mutex::new(Some(Arc::new(writer))),
            writer_thread: Mutex::new(Some(thread)),
            reader_pool: ReaderPool::start(readers)?,
            file_lock: Mutex::new(Some(lock)),
            suspected_orphans: Mutex::default(),
        })
    }

    /// Opens the file at `path` read-only, also while a server is serving it. Takes no lock. Errors
    /// say what an operator can do.
    pub fn open_read_only(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::new(
                ErrorKind::StoreUnavailable,
                format!("there is no {}; set DATABASE_URL as for the server", path.display()),
            ));
        }
        // Each connection is used by one thread at a time, so SQLite's mutexes are not needed.
        let read_flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = open_connection(path, read_flags)?;
        schema::ensure_current(&reader, path)?;
        Ok(Self {
            path: path.to_owned(),
            upgrade_note: None,
            writer: Mutex::new(None),
            writer_thread: Mutex::new(None),
            reader_pool: ReaderPool::start(vec![reader])?,
            file_lock: Mutex::new(None),
            suspected_orphans: Mutex::default(),
        })
    }

    /// Opens the file at `path` for a small change, also while a server is serving it, or
    /// creates it. Turns must not be touched: they belong to the server. Errors say what an
    /// operator can do.
    pub fn open_shared(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Self::open(path, Durability::Full);
        }
        let store = Self::open_read_only(path)?;
        let connection = open_connection(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let (writer, thread) = WriterHandle::start(connection)?;
        Ok(Self {
            writer: Mutex::new(Some(Arc::new(writer))),
            writer_thread: Mutex::new(Some(thread)),
            ..store
        })
    }

    /// Opens the file at `path` for a migration: nothing in it is changed, and no server can serve
    /// it meanwhile. Errors say what an operator can do.
    pub(crate) fn open_for_migration(path: &Path) -> Result<Self> {
        let store = Self::open_read_only(path)?;
        Ok(Self { file_lock: Mutex::new(Some(acquire_file_lock(path)?)), ..store })
    }

    async fn run_read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        self.reader_pool.run_read(JobPriority::Shared, work).await
    }

    /// Runs a read on which every request depends, before those of users.
    async fn run_urgent_read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        self.reader_pool.run_read(JobPriority::Urgent, work).await
    }

    async fn run_write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let writer = self.writer.lock().clone();
        writer
            .ok_or_else(|| Error::store_unavailable("the store is closed"))?
            .run_write(work, WritePriority::Interactive)
            .await
    }

    /// Runs a write that no client waits for; interactive ones go first.
    async fn run_background_write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let writer = self.writer.lock().clone();
        writer
            .ok_or_else(|| Error::store_unavailable("the store is closed"))?
            .run_write(work, WritePriority::Background)
            .await
    }

    /// Runs one step of a long write. It must end within a [`writer::StepBudget`].
    async fn run_step<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let writer = self.writer.lock().clone();
        writer
            .ok_or_else(|| Error::store_unavailable("the store is closed"))?
            .run_write(work, WritePriority::Step)
            .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn describe(&self) -> String {
        let upgrade = self.upgrade_note.as_deref().unwrap_or_default();
        format!("sqlite {}{upgrade}", self.path.display())
    }

    async fn check_ready(&self) -> Result<()> {
        // An empty write takes the write lock of the file and touches no disk. The read waits for
        // the threads that users share, but for none of the users.
        let read = self.reader_pool.run_read(JobPriority::Probe, |db| {
            Ok(db.query_row("SELECT count(*) FROM (SELECT 1 FROM keys LIMIT 1)", [], |_| Ok(()))?)
        });
        tokio::try_join!(read, self.run_write(|_| Ok(())))?;
        Ok(())
    }

    async fn close(&self) {
        // Readers go first: the writer's last checkpoint can empty the log only without them.
        self.reader_pool.close().await;
        // Without a sender the thread ends once it has committed what is queued.
        drop(self.writer.lock().take());
        let thread = self.writer_thread.lock().take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        // Last: from here on another process may open the file.
        drop(self.file_lock.lock().take());
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::store_unavailable(error)
    }
}

fn open_connection(path: &Path, flags: OpenFlags) -> Result<Connection> {
    open_configured(path, flags).map_err(|error| open_error(path, &error))
}

fn open_configured(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
    // The query planner stability guarantee: no plan depends on bound values. Otherwise SQLite
    // prepares a statement again for each new value, which took a tenth of the writer's time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // In KiB, for each connection. The operating system caches the file as well.
    connection.pragma_update(None, "cache_size", -8_000)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// Locks the file for this process. A second server would take the first one's running
/// turns for orphans.
fn acquire_file_lock(path: &Path) -> Result<File> {
    // A file of its own: closing a descriptor of the database file would release SQLite's
    // POSIX locks on it.
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = open_private_file(&name).map_err(|error| open_error(&name, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::StoreUnavailable,
            format!(
                "{} is served by another Echoic; stop it, or set DATABASE_URL to another file",
                path.display()
            ),
        )),
        Err(TryLockError::Error(error)) => Err(open_error(&name, &error)),
    }
}

/// Opens a file, creating it so that only its owner can read it.
fn open_private_file(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn open_error(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::StoreUnavailable, format!("cannot open {}: {error}", path.display()))
}
