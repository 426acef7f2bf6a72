//! The pace of imports: only some are read at the same time, each for a slice of time, and those
//! whose client has hung up end.

use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Time after which an import lets others go on.
const SLICE_TIME: Duration = Duration::from_millis(50);

/// The pace of an import. The default one waits for no slot and never ends.
#[derive(Clone, Default)]
pub struct ImportPace(Option<Arc<SharedPace>>);

struct SharedPace {
    read_slots: Arc<Semaphore>,
    runtime: Handle,
    slice: Mutex<Option<ReadSlice>>,
    has_ended: AtomicBool,
}

struct ReadSlice {
    _permit: OwnedSemaphorePermit,
    ends_at: Instant,
}

impl ImportPace {
    /// An import that works while it has one of `read_slots`.
    pub fn new(read_slots: Arc<Semaphore>, runtime: Handle) -> Self {
        let slice = Mutex::new(None);
        let has_ended = AtomicBool::new(false);
        Self(Some(Arc::new(SharedPace { read_slots, runtime, slice, has_ended })))
    }

    /// Does a part of the import, once one of the slots is free. Blocks.
    pub fn run_slice<T>(&self, work: impl FnOnce() -> T) -> T {
        self.begin_slice();
        let _slice = SliceGuard(self);
        work()
    }

    /// Ends the import at its next checkpoint.
    pub fn end(&self) {
        if let Some(pace) = &self.0 {
            pace.has_ended.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.0.as_ref().is_some_and(|pace| pace.has_ended.load(Ordering::Relaxed))
    }

    /// Lets other imports go on if this one has worked for a while. Fails if it is to end. Blocks.
    pub(super) fn checkpoint(&self) -> io::Result<()> {
        if self.has_ended() {
            return Err(io::Error::other("the client has disconnected"));
        }
        self.yield_slice();
        Ok(())
    }

    fn yield_slice(&self) {
        let Some(pace) = &self.0 else { return };
        let is_over = |slice: &ReadSlice| slice.ends_at <= Instant::now();
        if pace.slice.lock().as_ref().is_some_and(is_over) {
            self.wait_without_slice(|| ());
        }
    }

    /// Waits for something that another import may hold. Meanwhile others go on.
    pub(super) fn wait_without_slice<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.end_slice();
        let found = wait();
        self.begin_slice();
        found
    }

    fn begin_slice(&self) {
        let Some(pace) = &self.0 else { return };
        // The semaphore serves the import that has waited longest first.
        let permit = pace.runtime.block_on(pace.read_slots.clone().acquire_owned());
        let ends_at = Instant::now() + SLICE_TIME;
        *pace.slice.lock() = permit.ok().map(|_permit| ReadSlice { _permit, ends_at });
    }

    fn end_slice(&self) {
        if let Some(pace) = &self.0 {
            pace.slice.lock().take();
        }
    }
}

/// Ends the slice also if the work panics.
struct SliceGuard<'a>(&'a ImportPace);

impl Drop for SliceGuard<'_> {
    fn drop(&mut self) {
        self.0.end_slice();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn imports_begin_slices_and_end_at_a_checkpoint() {
        let read_slots = Arc::new(Semaphore::new(1));
        let long = ImportPace::new(read_slots.clone(), Handle::current());
        let short = ImportPace::new(read_slots.clone(), Handle::current());
        let worker = long.clone();
        let work = tokio::task::spawn_blocking(move || {
            worker.run_slice(|| while worker.checkpoint().is_ok() {});
        });
        tokio::task::spawn_blocking(move || short.run_slice(|| ())).await.unwrap();
        assert!(!work.is_finished());
        long.end();
        work.await.unwrap();
        assert_eq!(read_slots.available_permits(), 1);
    }
}
