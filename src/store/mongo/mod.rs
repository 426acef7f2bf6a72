//! The shared store: MongoDB, a replica set or a sharded cluster, for as many instances as one
//! likes.
//!
//! The mongodb crate stays inside this folder. A step of the rules is one majority write of its
//! session's document (`transaction.rs`, `commit.rs`), for whole sessions a transaction; the turn log and the
//! marks beside it are single-document writes (`log.rs`, `relay.rs`).

mod admin;
mod commit;
mod connect;
mod documents;
mod embeddings;
mod errors;
mod feed;
mod idempotency;
mod keys;
mod ledger;
mod message_pages;
mod messages;
mod migration;
mod nodes;
mod paths;
mod projects;
mod queue;
mod relay;
mod responses;
mod schema;
mod search;
mod session_list;
mod session_locks;
mod sessions;
mod store_transaction;
mod summaries;
mod transaction;
mod transfer;
mod tree;
mod turn_log;
mod turns;

use super::Store;
use crate::domain::TurnId;
use crate::error::{Error, Result};
use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection, Database};
use session_locks::SessionLocks;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use transaction::CausalTimestamp;

/// How long a call to the database may take, repeats included, before it counts as unavailable.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a step may take that writes a whole session; MongoDB ends a transaction after a minute.
const LONG_OPERATION_TIMEOUT: Duration = Duration::from_secs(50);
/// How long the question whether it is there may take.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// A store in a MongoDB database.
pub struct MongoStore {
    client: Client,
    collections: Collections,
    /// Where it is, without secrets.
    address: String,
    /// Silence after which an instance counts as gone.
    lease: Duration,
    /// Turns that this instance claimed and does not run, and since when that is known.
    suspected_orphans: Mutex<HashMap<TurnId, Instant>>,
    /// Who of this instance goes first in a session.
    session_locks: SessionLocks,
    /// How far it has seen the database.
    causal_timestamp: Mutex<Option<CausalTimestamp>>,
}

/// The collections.
#[derive(Debug, Clone)]
pub(super) struct Collections {
    database: Database,
    sessions: Collection<Document>,
    nodes: Collection<Document>,
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
            Err(_) => return Err(Error::store_unavailable("MongoDB does not answer")),
        };
        // What is asked goes to the primary, so this only fails between two of them.
        match hello.get_bool("isWritablePrimary") {
            Ok(true) => Ok(()),
            _ => Err(Error::store_unavailable("MongoDB has no primary")),
        }
    }

    async fn close(&self) {
        let _ = timeout(READY_TIMEOUT, self.client.clone().shutdown()).await;
    }
}

impl From<mongodb::error::Error> for Error {
    fn from(error: mongodb::error::Error) -> Self {
        Self::store_unavailable(error)
    }
}
