//! The store traits: every operation that the server needs from a database, grouped by use case.
//!
//! Each method is atomic and safe to call concurrently with any other. Access control is part of
//! each call: a session that `principal` may not see is reported as not found. Implementations:
//! [`sqlite`] and [`mongo`]; the contract suite in `tests/it/store_contract/` runs against both.
//!
//! Cancellation: dropping the future of a call does not undo the call. It takes effect, or fails,
//! as if the caller were still waiting.

mod admin;
mod drafts;
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
mod stored_values;
mod summaries;
mod transaction;
mod transfer;
mod tree;
mod turns;

pub use admin::{AdminStore, UserStats, UserStatsPage};
pub use drafts::{
    DraftStore, ImportDraft, ImportEnd, ImportTarget, MAX_CHUNK_BYTES, MAX_CHUNK_MESSAGES,
    UnknownReferences,
};
pub use embeddings::{EmbeddingStore, MessageEmbedding};
pub use feed::{EventBundle, FeedPosition, FeedStore};
pub use keys::{KeyDigest, KeyStore, StoredKey, StoredTicket};
pub(crate) use ledger::quota_window;
pub use ledger::{GroupBy, LedgerEntry, LedgerStore, UsageGroup, UsageQuery, UsageTotal};
pub use messages::{
    HistoryLimits, HistoryMessage, IdempotencyKey, MessagePage, MessageParent, MessageQuery,
    MessageStore, NewMessage, PostMessage, ReplyFields, RetryWindow,
};
pub use projects::{
    FileSelector, NewFile, NewProject, ProjectPage, ProjectStore, ProjectUpdate, PutFileOutcome,
    StoredFile,
};
pub use relay::{LogUpdate, RelayStore, RemoteTurn, RemoteTurnState};
pub use responses::{ResponseStore, StoredResponse};
pub(crate) use rules::quota_exceeded;
pub use search::{IndexBacklog, MessageWords, SearchStore, SessionWords};
pub use sessions::{
    DeleteFilter, DeletionResult, NewSession, SessionMembers, SessionPage, SessionStore,
    SessionUpdate,
};
pub use summaries::{PathSummary, SummaryStore};
pub use transfer::{ImportOutcome, ImportSession, SessionChunk, TransferStore};
pub use tree::{NodePage, ReadMarkUpdate, TreeStore};
pub use turns::{
    AdmissionCheck, BeginOutcome, BeginTurn, CancelledTurns, DuplicateIdPolicy, FinishOutcome,
    FinishTurn, LeaseHolder, LogBatch, MAX_QUEUED, MessageSize, OnBusy, OrphanedTurn, PriorResult,
    SessionTarget, SkippedTurn, StartedTurn, TurnInput, TurnLogEntry, TurnLogStore, TurnSpec,
    TurnStore, UserMessage,
};

use crate::error::Result;
use async_trait::async_trait;

/// A complete database: all store traits together.
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
    + DraftStore
    + SummaryStore
    + EmbeddingStore
    + ResponseStore
    + ProjectStore
    + KeyStore
    + AdminStore
    + LedgerStore
{
    /// Backend and location in a few words for the first log line, without credentials.
    fn describe(&self) -> String;

    /// Succeeds if the database can be read and written right now.
    async fn check_ready(&self) -> Result<()>;

    /// Flushes pending writes and releases the database.
    async fn close(&self);
}
