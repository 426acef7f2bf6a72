//! The embedded store: one SQLite file in write-ahead mode, one writer, readers beside it.
//!
//! rusqlite stays inside this folder.

mod admin;
mod append;
mod embeddings;
mod idempotency;
mod keys;
mod ledger;
mod messages;
mod migration;
mod paths;
mod projects;
mod queue;
mod reader_pool;
mod responses;
mod rows;
mod schema;
mod search;
mod session_list;
mod sessions;
mod summaries;
mod transaction;
mod transfer;
mod tree;
mod turn_log;
mod turns;
mod writer;

use super::Store;
use crate::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use reader_pool::ReaderPool;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction};
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use writer::{WritePriority, WriterHandle};

/// Connections that read beside the writer.
const READER_CONNECTIONS: usize = 4;
/// How long a statement waits for a lock that another program holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Statements that each connection keeps prepared.
const STATEMENT_CACHE_CAPACITY: usize = 128;

/// How hard a commit tries to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// What is acknowledged is on disk.
    Full,
    /// Power loss may take the last moment; the file is never corrupt.
    Normal,
}

/// A store in one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    writer: Mutex<Option<Arc<WriterHandle>>>,
    writer_thread: Mutex<Option<JoinHandle<()>>>,
    reader_pool: ReaderPool,
    /// What opening it took, for the operator.
    upgrade_note: Option<String>,
    /// Held while this process serves the file.
    file_lock: Mutex<Option<File>>,
}

impl SqliteStore {
    /// Opens the file at `path`, creating it and its folders where they are missing, and locks it
    /// for this process. Errors say what an operator can do.
    pub fn open(path: &Path, durability: Durability) -> Result<Self> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
        {
            let created = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            created.map_err(|error| open_error(directory, &error))?;
        }
        let lock = acquire_file_lock(path)?;
        // What SQLite keeps beside the file is as private as the file.
        open_private_file(path).map_err(|error| open_error(path, &error))?;
        let mut connection = open_connection(path, OpenFlags::default())?;
        // Write-ahead mode is kept in the file; the rest is per connection.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let upgrade = schema::migrate_schema(&mut connection, path)?;
        connection.pragma_update(
            None,
            "synchronous",
            if durability == Durability::Full { "FULL" } else { "NORMAL" },
        )?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        // What is deleted is overwritten. It costs the writing of pages that would only be let go of.
        connection.pragma_update(None, "secure_delete", true)?;
        let read_flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let readers = (0..READER_CONNECTIONS)
            .map(|_| open_connection(path, read_flags))
            .collect::<Result<_>>()?;
        let (writer, thread) = WriterHandle::start(connection)?;
        Ok(Self {
            path: path.to_owned(),
            upgrade_note: upgrade,
            writer: Mutex::new(Some(Arc::new(writer))),
            writer_thread: Mutex::new(Some(thread)),
            reader_pool: ReaderPool::new(readers),
            file_lock: Mutex::new(Some(lock)),
        })
    }

    /// Opens the file at `path` to look at it beside the server that serves it: nothing is locked
    /// and nothing can be written, least of all turns. Errors say what an operator can do.
    pub fn open_read_only(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::new(
                ErrorKind::StoreUnavailable,
                format!("there is no {}; set DATABASE_URL as for the server", path.display()),
            ));
        }
        let read_flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = open_connection(path, read_flags)?;
        schema::ensure_current(&reader, path)?;
        Ok(Self {
            path: path.to_owned(),
            upgrade_note: None,
            writer: Mutex::new(None),
            writer_thread: Mutex::new(None),
            reader_pool: ReaderPool::new(vec![reader]),
            file_lock: Mutex::new(None),
        })
    }

    /// Opens the file at `path` to change something small in it, beside the server that serves it, or
    /// creates it. No turns may be touched. Errors say what an operator can do.
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

    /// Opens the file at `path` to move what it holds elsewhere: nothing in it is changed, and no
    /// server can serve it meanwhile. Errors say what an operator can do.
    pub(crate) fn open_for_migration(path: &Path) -> Result<Self> {
        let store = Self::open_read_only(path)?;
        Ok(Self { file_lock: Mutex::new(Some(acquire_file_lock(path)?)), ..store })
    }

    async fn run_read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        self.reader_pool.run_read(work).await
    }

    async fn run_write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        writer
            .ok_or_else(|| Error::store_unavailable("the store is closed"))?
            .run_write(work, WritePriority::Interactive)
            .await
    }

    /// For what nobody waits for: it gives way to everything else.
    async fn run_background_write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        writer
            .ok_or_else(|| Error::store_unavailable("the store is closed"))?
            .run_write(work, WritePriority::Background)
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
        // An empty write takes the file's write lock and touches no disk.
        self.run_write(|_| Ok(())).await
    }

    async fn close(&self) {
        self.reader_pool.close().await;
        drop(self.writer.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.writer_thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        drop(self.file_lock.lock().unwrap_or_else(PoisonError::into_inner).take());
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
    // A plan that peeked at a bound value is made anew for each other value: a tenth of the
    // writer's time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // KiB, of each of the connections; what they read lies in the system's cache, too.
    connection.pragma_update(None, "cache_size", -8_000)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// One process serves a file: a second would reap the first one's turns.
fn acquire_file_lock(path: &Path) -> Result<File> {
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

/// A file as it is, or a new one that nobody else may read.
fn open_private_file(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn open_error(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::StoreUnavailable, format!("cannot open {}: {error}", path.display()))
}
