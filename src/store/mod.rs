//! What the rest of the server asks of a database, cut by use case.
//!
//! Each method is atomic by itself and safe to run beside any other. Access is part of each call:
//! a session that `who` may not see does not exist. Implementations: [`sqlite`] and [`mongo`].
//! The contract suite in `tests/it/store_contract/` runs against both.
//!
//! Cancellation: a caller that stops waiting does not undo the call; it takes effect or not as if
//! the caller were still there.

mod admin;
mod embeddings;
mod feed;
mod keys;
mod ledger;
mod messages;
pub(crate) mod migration;
pub mod mongo;
mod project_transaction;
mod projects;
pub mod queued_turn;
mod relay;
mod responses;
mod rules;
mod search;
mod sessions;
pub mod sqlite;
mod summaries;
mod transaction;
mod transfer;
mod tree;
mod turns;

pub use admin::*;
pub use embeddings::*;
pub use feed::*;
pub use keys::*;
pub use ledger::*;
pub use messages::*;
pub use projects::*;
pub use relay::*;
pub use responses::*;
pub(crate) use rules::quota_exceeded;
pub use search::*;
pub use sessions::*;
pub use summaries::*;
pub use transfer::*;
pub use tree::*;
pub use turns::*;

use crate::error::Result;
use async_trait::async_trait;

/// A whole database.
#[async_trait]
pub trait Store:
    SessionStore
    + MessageStore
    + TreeStore
    + TurnStore
    + TurnLogStore
    + RelayStore
    + FeedStore
    + SearchStore
    + TransferStore
    + SummaryStore
    + EmbeddingStore
    + ResponseStore
    + ProjectStore
    + KeyStore
    + AdminStore
    + LedgerStore
{
    /// Says in a word or two what it is and where, without secrets, for the first log line.
    fn describe(&self) -> String;

    /// Whether it can be read and written now.
    async fn check_ready(&self) -> Result<()>;

    /// Writes what is pending and lets go of the database.
    async fn close(&self);
}
