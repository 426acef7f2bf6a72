//! Operations of a shared store on turns that another instance runs: reading their logs and
//! cancelling them.
//!
//! The default implementations are for stores that only one process can open.

use crate::domain::{SessionId, TurnId};
use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;

/// A turn that another instance runs or will run, and the reading position in its log.
#[derive(Debug, Clone)]
pub struct RemoteTurn {
    pub session_id: SessionId,
    pub turn_id: TurnId,
    /// Number of the first batch that was not read.
    pub next_batch: u32,
}

/// New batches and the state of a remote turn.
#[derive(Debug, PartialEq, Eq)]
pub struct LogUpdate {
    pub turn_id: TurnId,
    /// New batches, in order.
    pub batches: Vec<Bytes>,
    /// Number of the next batch to read.
    pub next_batch: u32,
    pub state: RemoteTurnState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteTurnState {
    /// Running or queued.
    Open,
    /// Ended, and so has its log.
    Ended,
    /// Over, but without an end in the log: the turn was shorter than one flush, was removed from
    /// the queue, or was deleted.
    Gone,
}

/// Following and cancelling turns of other instances.
#[async_trait]
pub trait RelayStore: Send + Sync {
    /// Whether other instances may use the same database.
    fn is_shared(&self) -> bool {
        false
    }

    /// Asks the instance that runs this turn to cancel it.
    async fn request_cancellation(&self, _turn: &TurnId) -> Result<()> {
        Ok(())
    }

    /// Lists the requested cancellations that no instance has carried out yet.
    async fn list_cancellations(&self) -> Result<Vec<TurnId>> {
        Ok(Vec::new())
    }

    /// Deletes requests for cancellation.
    async fn delete_cancellations(&self, _turns: &[TurnId]) -> Result<()> {
        Ok(())
    }

    /// Returns what was added to the logs of these turns since they were last read.
    async fn poll_remote_turns(&self, _turns: Vec<RemoteTurn>) -> Result<Vec<LogUpdate>> {
        Ok(Vec::new())
    }
}
