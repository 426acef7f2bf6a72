//! The embedded store: one SQLite file in write-ahead mode, one writer, readers beside it.
//!
//! rusqlite stays inside this folder.

mod append;
mod embeddings;
mod house;
mod idempotency;
mod import;
mod keys;
mod ledger;
mod list;
mod log;
mod messages;
mod moving;
mod paths;
mod projects;
mod queue;
mod readers;
mod responses;
mod rows;
mod schema;
mod search;
mod sessions;
mod summaries;
mod tree;
mod turns;
mod work;
mod writer;

use super::Store;
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use readers::Readers;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction};
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use writer::{Urgency, Writer};

/// Connections that read beside the writer.
const READERS: usize = 4;
/// How long a statement waits for a lock that another program holds on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Statements that each connection keeps prepared.
const STATEMENTS: usize = 128;

/// How hard a commit tries to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// What is acknowledged is on disk.
    Full,
    /// Power loss may take the last moment; the file is never corrupt.
    Normal,
}

/// A store in one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    writer: Mutex<Option<Arc<Writer>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    readers: Readers,
    /// What opening it took, for the operator.
    upgrade: Option<String>,
    /// Held while this process serves the file.
    lock: Mutex<Option<File>>,
}

impl SqliteStore {
    /// Opens the file at `path`, creating it and its folders where they are missing, and locks it
    /// for this process. Errors say what an operator can do.
    pub fn open(path: &Path, sync: Sync) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| cannot_open(folder, &error))?;
        }
        let lock = lock(path)?;
        // What SQLite keeps beside the file is as private as the file.
        private(path).map_err(|error| cannot_open(path, &error))?;
        let mut writing = connect(path, OpenFlags::default())?;
        // Write-ahead mode is kept in the file; the rest is per connection.
        writing.pragma_update(None, "journal_mode", "WAL")?;
        let upgrade = schema::prepare(&mut writing, path)?;
        writing.pragma_update(
            None,
            "synchronous",
            if sync == Sync::Full { "FULL" } else { "NORMAL" },
        )?;
        writing.pragma_update(None, "journal_size_limit", 64 << 20)?;
        // What is deleted is overwritten. It costs the writing of pages that would only be let go of.
        writing.pragma_update(None, "secure_delete", true)?;
        let reading = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let readers = (0..READERS).map(|_| connect(path, reading)).collect::<Result<_>>()?;
        let (writer, thread) = Writer::start(writing)?;
        Ok(Self {
            path: path.to_owned(),
            upgrade,
            writer: Mutex::new(Some(Arc::new(writer))),
            thread: Mutex::new(Some(thread)),
            readers: Readers::new(readers),
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Opens the file at `path` to look at it beside the server that serves it: nothing is locked
    /// and nothing can be written, least of all turns. Errors say what an operator can do.
    pub fn open_to_look(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::new(
                Kind::StoreUnavailable,
                format!("there is no {}; set DATABASE_URL as for the server", path.display()),
            ));
        }
        let reading = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = connect(path, reading)?;
        schema::ensure_present(&reader, path)?;
        Ok(Self {
            path: path.to_owned(),
            upgrade: None,
            writer: Mutex::new(None),
            thread: Mutex::new(None),
            readers: Readers::new(vec![reader]),
            lock: Mutex::new(None),
        })
    }

    /// Opens the file at `path` to change something small in it, beside the server that serves it, or
    /// creates it. No turns may be touched. Errors say what an operator can do.
    pub fn open_beside(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Self::open(path, Sync::Full);
        }
        let store = Self::open_to_look(path)?;
        let writing = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        writing.pragma_update(None, "synchronous", "FULL")?;
        let (writer, thread) = Writer::start(writing)?;
        Ok(Self {
            writer: Mutex::new(Some(Arc::new(writer))),
            thread: Mutex::new(Some(thread)),
            ..store
        })
    }

    /// Opens the file at `path` to move what it holds elsewhere: nothing in it is changed, and no
    /// server can serve it meanwhile. Errors say what an operator can do.
    pub(crate) fn open_to_move(path: &Path) -> Result<Self> {
        let store = Self::open_to_look(path)?;
        Ok(Self { lock: Mutex::new(Some(lock(path)?)), ..store })
    }

    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    {
        self.readers.run(work).await
    }

    async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        writer
            .ok_or_else(|| Error::store_unavailable("the store is closed"))?
            .run(work, Urgency::Now)
            .await
    }

    /// For what nobody waits for: it gives way to everything else.
    async fn write_later<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        writer
            .ok_or_else(|| Error::store_unavailable("the store is closed"))?
            .run(work, Urgency::Later)
            .await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn describe(&self) -> String {
        let upgrade = self.upgrade.as_deref().unwrap_or_default();
        format!("sqlite {}{upgrade}", self.path.display())
    }

    async fn ready(&self) -> Result<()> {
        // An empty write takes the file's write lock and touches no disk.
        self.write(|_| Ok(())).await
    }

    async fn close(&self) {
        self.readers.close().await;
        drop(self.writer.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::store_unavailable(error)
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    tuned(path, flags).map_err(|error| cannot_open(path, &error))
}

fn tuned(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // A plan that peeked at a bound value is made anew for each other value: a tenth of the
    // writer's time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // KiB, of each of the connections; what they read lies in the system's cache, too.
    connection.pragma_update(None, "cache_size", -8_000)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// One process serves a file: a second would reap the first one's turns.
fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = private(&name).map_err(|error| cannot_open(&name, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            Kind::StoreUnavailable,
            format!(
                "{} is served by another Echoic; stop it, or set DATABASE_URL to another file",
                path.display()
            ),
        )),
        Err(TryLockError::Error(error)) => Err(cannot_open(&name, &error)),
    }
}

/// A file as it is, or a new one that nobody else may read.
fn private(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn cannot_open(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::StoreUnavailable, format!("cannot open {}: {error}", path.display()))
}
