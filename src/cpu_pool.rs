//! The threads for work that takes the processor for longer than a millisecond: rendering, counting
//! tokens, indexing and ranking, parsing long bodies. Short work stays where it is.
//!
//! They are few, so that such work leaves time for turns, and at least two, so that one user's job
//! does not make another user wait for its end.

use crate::error::{Error, Result};
use crate::fair_pool::{FairPool, JobPriority};
use std::sync::LazyLock;
use std::thread::available_parallelism;

const MIN_THREADS: usize = 2;

static CPU_POOL: LazyLock<std::io::Result<FairPool<()>>> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    let threads = cores.saturating_sub(1).max(MIN_THREADS);
    FairPool::start("cpu", vec![(); threads], None)
});

/// Runs `work` on a thread for computing, in turn with the work of other users.
pub async fn run_cpu<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let pool = CPU_POOL.as_ref().map_err(|error| Error::internal(error.to_string()))?;
    pool.run(JobPriority::Shared, |()| work()).await.map_err(Error::internal)
}
