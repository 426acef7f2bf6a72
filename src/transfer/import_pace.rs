//! Turns of imports: only some are read at the same time, each for a while, and those whose client
//! has hung up end.

use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Time after which an import lets others go on.
const TURN_TIME: Duration = Duration::from_millis(50);

/// The pace of an import. The default one has no turns and never ends.
#[derive(Clone, Default)]
pub struct ImportPace(Option<Arc<SharedPace>>);

struct SharedPace {
    turns: Arc<Semaphore>,
    runtime: Handle,
    turn: Mutex<Option<ImportTurn>>,
    has_ended: AtomicBool,
}

struct ImportTurn {
    _permit: OwnedSemaphorePermit,
    ends_at: Instant,
}

impl ImportPace {
    /// An import that works while it has one of `turns`.
    pub fn new(turns: Arc<Semaphore>, runtime: Handle) -> Self {
        let (turn, has_ended) = (Mutex::new(None), AtomicBool::new(false));
        Self(Some(Arc::new(SharedPace { turns, runtime, turn, has_ended })))
    }

    /// Does a part of the import, once it is its turn. Blocks.
    pub fn run_turn<T>(&self, work: impl FnOnce() -> T) -> T {
        self.take_turn();
        let _turn = TurnGuard(self);
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
        self.yield_turn();
        Ok(())
    }

    fn yield_turn(&self) {
        let Some(pace) = &self.0 else { return };
        let is_over = |turn: &ImportTurn| turn.ends_at <= Instant::now();
        if pace.turn.lock().as_ref().is_some_and(is_over) {
            self.wait_without_turn(|| ());
        }
    }

    /// Waits for something that another import may hold. Meanwhile others go on.
    pub(super) fn wait_without_turn<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.end_turn();
        let found = wait();
        self.take_turn();
        found
    }

    fn take_turn(&self) {
        let Some(pace) = &self.0 else { return };
        // The semaphore serves the import that has waited longest first.
        let permit = pace.runtime.block_on(pace.turns.clone().acquire_owned());
        let ends_at = Instant::now() + TURN_TIME;
        *pace.turn.lock() = permit.ok().map(|_permit| ImportTurn { _permit, ends_at });
    }

    fn end_turn(&self) {
        if let Some(pace) = &self.0 {
            pace.turn.lock().take();
        }
    }
}

/// Ends the turn also if the work panics.
struct TurnGuard<'a>(&'a ImportPace);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.0.end_turn();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn imports_take_turns_and_end_at_a_checkpoint() {
        let turns = Arc::new(Semaphore::new(1));
        let long = ImportPace::new(turns.clone(), Handle::current());
        let short = ImportPace::new(turns.clone(), Handle::current());
        let worker = long.clone();
        let work = tokio::task::spawn_blocking(move || {
            worker.run_turn(|| while worker.checkpoint().is_ok() {});
        });
        tokio::task::spawn_blocking(move || short.run_turn(|| ())).await.unwrap();
        assert!(!work.is_finished());
        long.end();
        work.await.unwrap();
        assert_eq!(turns.available_permits(), 1);
    }
}
