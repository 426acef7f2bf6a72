//! What the rest of the server asks of a database, cut by use case.
//!
//! Each method is atomic by itself and safe to run beside any other. Access is part of each call:
//! a session that `who` may not see does not exist. Implementations: [`sqlite`] and [`mongo`].
//! The contract suite in `tests/it/store_contract/` runs against both.
//!
//! Cancellation: a caller that stops waiting does not undo the call; it takes effect or not as if
//! the caller were still there.

mod embeddings;
mod feed;
mod house;
mod keys;
mod ledger;
mod messages;
pub mod mongo;
pub(crate) mod moving;
mod project_work;
mod projects;
pub mod queued;
mod relay;
mod responses;
mod rules;
mod search;
mod sessions;
pub mod sqlite;
mod summaries;
mod transfer;
mod tree;
mod turns;
mod work;

pub use embeddings::*;
pub use feed::*;
pub use house::*;
pub use keys::*;
pub use ledger::*;
pub use messages::*;
pub use projects::*;
pub use relay::*;
pub use responses::*;
pub(crate) use rules::exceeded;
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
    + LogStore
    + RelayStore
    + FeedStore
    + SearchStore
    + TransferStore
    + SummaryStore
    + EmbeddingStore
    + ResponseStore
    + ProjectStore
    + KeyStore
    + HouseStore
    + LedgerStore
{
    /// Says in a word or two what it is and where, without secrets, for the first log line.
    fn describe(&self) -> String;

    /// Whether it can be read and written now.
    async fn ready(&self) -> Result<()>;

    /// Writes what is pending and lets go of the database.
    async fn close(&self);
}
