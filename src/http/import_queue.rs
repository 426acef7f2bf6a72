//! Bounds on imports: how many are open, and how many of them are read at the same time.

use crate::domain::UserId;
use crate::error::{Error, ErrorKind, Result};
use crate::fair_pool::run_blocking_as;
use crate::transfer::import_pace::ImportPace;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, oneshot};

/// Imports that are read at the same time, each of another user. Others wait for their turn.
const MAX_READ: usize = 2;
/// Imports that a user may have open: received, waiting or being read.
const MAX_OPEN_PER_USER: usize = 4;
/// Imports that all users together may have open.
const MAX_OPEN: usize = 64;
/// Seconds after which a client should try again.
const RETRY_AFTER: u64 = 5;

/// Admits imports and runs them on threads of their own, so that no other work waits for them. They
/// take turns, so that none waits for the end of another user's.
pub struct ImportQueue {
    /// Maximum size of an import, in bytes.
    pub max_bytes: usize,
    read_slots: Arc<Semaphore>,
    open: Mutex<HashMap<UserId, UserImports>>,
}

/// The imports that a user has open.
#[derive(Default)]
struct UserImports {
    count: usize,
    /// Held by the one that is being read. The others follow it.
    reading: Arc<AsyncMutex<()>>,
}

impl ImportQueue {
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, read_slots: Arc::new(Semaphore::new(MAX_READ)), open: Mutex::default() }
    }

    /// Counts an import until the permit is dropped. Errors: `rate_limited`.
    pub(super) fn admit(self: &Arc<Self>, user: &UserId) -> Result<ImportPermit> {
        let mut open = self.open.lock();
        let total: usize = open.values().map(|imports| imports.count).sum();
        let own = open.get(user).map_or(0, |imports| imports.count);
        if own >= MAX_OPEN_PER_USER {
            let problem = format!("you have {MAX_OPEN_PER_USER} imports open; wait for one to end");
            return Err(limit_error(problem, MAX_OPEN_PER_USER).with_limit("user_imports"));
        }
        if total >= MAX_OPEN {
            let problem = format!("the server has {MAX_OPEN} imports open; try again later");
            return Err(limit_error(problem, MAX_OPEN).with_limit("imports"));
        }
        let imports = open.entry(user.clone()).or_default();
        imports.count += 1;
        let import = OpenImport {
            queue: self.clone(),
            user: user.clone(),
            reading: imports.reading.clone(),
            pace: ImportPace::new(self.read_slots.clone(), Handle::current()),
        };
        Ok(ImportPermit(Arc::new(import)))
    }
}

fn limit_error(problem: String, limit: usize) -> Error {
    Error::limit_exceeded(ErrorKind::RateLimited, problem, limit as u64, RETRY_AFTER)
}

/// An admitted import.
#[derive(Clone)]
pub(super) struct ImportPermit(Arc<OpenImport>);

struct OpenImport {
    queue: Arc<ImportQueue>,
    user: UserId,
    reading: Arc<AsyncMutex<()>>,
    pace: ImportPace,
}

impl ImportPermit {
    pub(super) fn pace(&self) -> ImportPace {
        self.0.pace.clone()
    }

    /// Runs a part of the import on a thread, in turn with the imports of other users. If this
    /// future is dropped, the import ends at its next checkpoint.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let own_turn = self.0.reading.clone().lock_owned().await;
        let (sender, result) = oneshot::channel();
        let import = self.0.clone();
        let work = move || {
            let outcome = run_blocking_as(import.user.clone(), || import.pace.run_slice(work));
            drop((own_turn, import));
            let _ = sender.send(outcome);
        };
        let thread = std::thread::Builder::new().name("import".to_owned());
        thread.spawn(work).map_err(Error::internal)?;
        let mut client = ClientGuard(Some(&self.0.pace));
        let outcome = result.await;
        client.0 = None;
        outcome.map_err(Error::internal)
    }
}

/// Ends an import that its client does not wait for any more.
struct ClientGuard<'a>(Option<&'a ImportPace>);

impl Drop for ClientGuard<'_> {
    fn drop(&mut self) {
        if let Some(pace) = self.0 {
            pace.end();
        }
    }
}

impl Drop for OpenImport {
    fn drop(&mut self) {
        let mut open = self.queue.open.lock();
        if let Some(imports) = open.get_mut(&self.user) {
            imports.count -= 1;
            if imports.count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn open_imports_are_bounded_per_user_and_in_all() {
        let queue = Arc::new(ImportQueue::new(1));
        let ann = UserId::new_unchecked("ann");
        let held: Vec<_> = (0..MAX_OPEN_PER_USER).map(|_| queue.admit(&ann).unwrap()).collect();
        let refuse = |user: &UserId| queue.admit(user).map(|_| ()).unwrap_err().limit_name();
        assert_eq!(refuse(&ann), Some("user_imports"));
        let user = |number: usize| UserId::new_unchecked(format!("user-{number}"));
        let others: Vec<_> =
            (held.len()..MAX_OPEN).map(|number| queue.admit(&user(number)).unwrap()).collect();
        assert_eq!(refuse(&user(0)), Some("imports"));
        drop((held, others));
        assert!(queue.open.lock().is_empty());
    }
}
