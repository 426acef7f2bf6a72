//! The MongoDB store: one database, on a replica set or a sharded cluster, shared by any number of
//! instances.
//!
//! The rules (`store/rules`) run inside a `MongoTransaction` (`transaction.rs`). Its commit is
//! **one conditional write** of the session's document and not a MongoDB transaction:
//!
//! - A server that is killed inside a MongoDB transaction leaves it open. Until MongoDB aborts it,
//!   after a minute by default, no other client can write the documents that it wrote. That is
//!   longer than the lease of an instance, so a crash would lock a session for longer than the
//!   recovery of its turn takes.
//! - One write costs one round trip where a transaction costs three.
//!
//! The transaction reads the session's document with its `revision`, collects its changes in
//! memory, and writes the document on the condition that the revision is unchanged. If another
//! transaction was faster, the condition fails and the rules run again from the start. Changes to
//! other documents (messages in their nodes, the last batch of a turn log, the usage of a turn) are
//! part of the same write, in the field `pending`, and are applied right after it. Each of them is
//! idempotent, so any instance that reads a session with a `pending` left by a crashed writer
//! applies it first, and no reader sees a half-written state.
//!
//! Large imports and forks are written as drafts, step by step, and deletions leave the content to
//! a sweep (`session_remains.rs`). A short MongoDB transaction makes a session appear or disappear.
//! Small imports and forks are such transactions as a whole.
//!
//! Outside of this scheme are single-document writes that need no condition: the turn log
//! (`turn_log.rs`), cancellations (`relay.rs`), the event feed (`feed.rs`), and data that can be
//! computed again (`summaries.rs`, `embeddings.rs`, `search.rs`).
//!
//! The `mongodb` crate is used in this folder only.

mod admin;
mod commit;
mod connect;
mod content_keys;
mod content_lookup;
mod documents;
mod drafts;
mod embeddings;
mod errors;
mod feed;
mod idempotency;
mod keys;
mod ledger;
mod ledger_entries;
mod ledger_repair;
mod message_pages;
mod messages;
mod migration;
mod nodes;
mod paths;
mod pending_writes;
mod projects;
mod queue;
mod relay;
mod responses;
mod schema;
mod search;
mod search_rebuild;
mod session_list;
mod session_locks;
mod session_remains;
mod sessions;
mod summaries;
mod transaction;
mod transfer;
mod tree;
mod turn_log;
mod turns;
mod write_concern;

use super::Store;
use crate::domain::TurnId;
use crate::error::{Error, Result};
use async_trait::async_trait;
use content_keys::ContentKeys;
use errors::timed_out;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection, Database};
use parking_lot::Mutex;
use session_locks::SessionLocks;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use transaction::CausalTimestamp;

/// Limit for one operation, retries included. After it the store counts as unavailable.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for an operation on a whole session. Below the minute after which MongoDB aborts a
/// transaction by itself (`transactionLifetimeLimitSeconds`).
const LONG_OPERATION_TIMEOUT: Duration = Duration::from_secs(50);
/// Limit for a readiness probe.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit for each step of closing the store.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A [`Store`] in a MongoDB database.
pub struct MongoStore {
    client: Client,
    collections: Collections,
    /// Hosts and database name, without credentials.
    address: String,
    /// Time without a heartbeat after which this instance counts as dead.
    lease: Duration,
    /// Turns that this instance has claimed but does not run, with the time they were first
    /// noticed.
    suspected_orphans: Mutex<HashMap<TurnId, Instant>>,
    /// Serializes this instance's writes to one session.
    session_locks: SessionLocks,
    content_keys: ContentKeys,
    /// Latest operation that this instance has seen, for causal consistency across its sessions.
    causal_timestamp: Mutex<Option<CausalTimestamp>>,
    /// Work that follows commits in the background.
    cleanup_tasks: TaskTracker,
    /// Name of this instance as the one that rebuilds the search index.
    rebuild_holder: String,
}

/// Typed handles are made from these with `clone_with_type`, one per document type.
#[derive(Debug, Clone)]
pub(super) struct Collections {
    database: Database,
    sessions: Collection<Document>,
    nodes: Collection<Document>,
    drafts: Collection<Document>,
    queue: Collection<Document>,
    summaries: Collection<Document>,
    embeddings: Collection<Document>,
    responses: Collection<Document>,
    turn_log: Collection<Document>,
    idempotency_keys: Collection<Document>,
    instances: Collection<Document>,
    stops: Collection<Document>,
    events: Collection<Document>,
    projects: Collection<Document>,
    project_files: Collection<Document>,
    words: Collection<Document>,
    keys: Collection<Document>,
    tickets: Collection<Document>,
    usage: Collection<Document>,
    spent: Collection<Document>,
    forgotten: Collection<Document>,
    schema: Collection<Document>,
}

impl Collections {
    fn new(database: Database) -> Self {
        Self {
            sessions: database.collection("sessions"),
            nodes: database.collection("nodes"),
            drafts: database.collection("drafts"),
            queue: database.collection("queue"),
            summaries: database.collection("summaries"),
            embeddings: database.collection("embeddings"),
            responses: database.collection("responses"),
            turn_log: database.collection("turn_log"),
            idempotency_keys: database.collection("idempotency_keys"),
            instances: database.collection("instances"),
            stops: database.collection("stops"),
            events: database.collection("events"),
            projects: database.collection("projects"),
            project_files: database.collection("project_files"),
            words: database.collection("words"),
            keys: database.collection("keys"),
            tickets: database.collection("tickets"),
            usage: database.collection("usage"),
            spent: database.collection("spent"),
            forgotten: database.collection("forgotten"),
            schema: database.collection("schema"),
            database,
        }
    }
}

#[async_trait]
impl Store for MongoStore {
    fn describe(&self) -> String {
        format!("mongodb {}", self.address)
    }

    async fn check_ready(&self) -> Result<()> {
        let hello = self.collections.database.run_command(doc! { "hello": 1 });
        let hello = match timeout(READY_TIMEOUT, hello).await {
            Ok(answer) => answer?,
            Err(_) => return Err(timed_out()),
        };
        // Commands go to the primary, so this fails only while no primary is elected.
        match hello.get_bool("isWritablePrimary") {
            Ok(true) => Ok(()),
            _ => Err(Error::store_unavailable("MongoDB has no primary")),
        }
    }

    async fn close(&self) {
        // A shutdown must not hang on a database that is gone. Cleanup that does not end in time is
        // left to the next reader.
        self.cleanup_tasks.close();
        let _ = timeout(CLOSE_TIMEOUT, self.cleanup_tasks.wait()).await;
        let _ = timeout(CLOSE_TIMEOUT, self.client.clone().shutdown()).await;
    }
}

impl From<mongodb::error::Error> for Error {
    fn from(error: mongodb::error::Error) -> Self {
        match errors::is_too_large(&error) {
            true => Self::too_large("a message with its parts", errors::MAX_DOCUMENT_BYTES)
                .with_source(error),
            false => Self::store_unavailable(error),
        }
    }
}
