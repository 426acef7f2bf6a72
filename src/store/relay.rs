//! What is asked of a store that several instances share, about turns that another one runs.
//!
//! A store that only one process can open keeps the answers given here.

use crate::domain::{SessionId, TurnId};
use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;

/// A turn that another instance runs, or will run, and how far its log was read.
#[derive(Debug, Clone)]
pub struct RemoteTurn {
    /// Its session.
    pub session_id: SessionId,
    /// The turn.
    pub turn_id: TurnId,
    /// The number of the first batch that was not read.
    pub next_batch: u32,
}

/// What there is to tell of a followed turn.
#[derive(Debug, PartialEq, Eq)]
pub struct LogUpdate {
    /// The turn.
    pub turn_id: TurnId,
    /// The batches that came, in order.
    pub batches: Vec<Bytes>,
    /// The number of the batch that comes next.
    pub next_batch: u32,
    /// Whether anything can still come.
    pub state: RemoteTurnState,
}

/// Where a followed turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteTurnState {
    /// It runs, or waits to.
    Open,
    /// It has ended, and the log with it.
    Ended,
    /// It is over and its log says nothing of the end: a turn shorter than a flush, or one that was
    /// dropped or deleted.
    Gone,
}

/// Turns seen and stopped from afar.
#[async_trait]
pub trait RelayStore: Send + Sync {
    /// Whether other instances may use the same database.
    fn is_shared(&self) -> bool {
        false
    }

    /// Asks whoever runs this turn to stop it.
    async fn request_cancellation(&self, _turn: &TurnId) -> Result<()> {
        Ok(())
    }

    /// The turns that somebody wants stopped and nobody has stopped.
    async fn list_cancellations(&self) -> Result<Vec<TurnId>> {
        Ok(Vec::new())
    }

    /// Forgets that these were to be stopped.
    async fn delete_cancellations(&self, _turns: &[TurnId]) -> Result<()> {
        Ok(())
    }

    /// What came of these turns since they were looked at last.
    async fn poll_remote_turns(&self, _turns: Vec<RemoteTurn>) -> Result<Vec<LogUpdate>> {
        Ok(Vec::new())
    }
}
