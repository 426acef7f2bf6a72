//! The shared store: MongoDB, a replica set or a sharded cluster, for as many instances as one
//! likes.
//!
//! The mongodb crate stays inside this folder. A step of the rules is one majority write of its
//! session's document (`step.rs`, `commit.rs`), for whole sessions a transaction; the turn log and the
//! marks beside it are single-document writes (`log.rs`, `relay.rs`).

mod commit;
mod connect;
mod documents;
mod embeddings;
mod failures;
mod feed;
mod house;
mod keys;
mod ledger;
mod list;
mod log;
mod messages;
mod moving;
mod nodes;
mod order;
mod pages;
mod paths;
mod projects;
mod queue;
mod relay;
mod requests;
mod responses;
mod schema;
mod search;
mod sessions;
mod step;
mod summaries;
mod transfer;
mod tree;
mod turns;
mod work;

use super::Store;
use crate::domain::TurnId;
use crate::error::{Error, Result};
use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection, Database};
use order::Order;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use step::Seen;
use tokio::time::timeout;

/// How long a call to the database may take, repeats included, before it counts as unavailable.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a step may take that writes a whole session; MongoDB ends a transaction after a minute.
const LONG_PATIENCE: Duration = Duration::from_secs(50);
/// How long the question whether it is there may take.
const READY_PATIENCE: Duration = Duration::from_secs(2);

/// A store in a MongoDB database.
pub struct MongoStore {
    client: Client,
    tables: Tables,
    /// Where it is, without secrets.
    place: String,
    /// Silence after which an instance counts as gone.
    lease: Duration,
    /// Turns that this instance claimed and does not run, and since when that is known.
    suspects: Mutex<HashMap<TurnId, Instant>>,
    /// Who of this instance goes first in a session.
    order: Order,
    /// How far it has seen the database.
    seen: Mutex<Option<Seen>>,
}

/// The collections.
#[derive(Debug, Clone)]
pub(super) struct Tables {
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

impl Tables {
    fn of(database: Database) -> Self {
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
        format!("mongodb {}", self.place)
    }

    async fn ready(&self) -> Result<()> {
        let hello = self.tables.database.run_command(doc! { "hello": 1 });
        let hello = match timeout(READY_PATIENCE, hello).await {
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
        let _ = timeout(READY_PATIENCE, self.client.clone().shutdown()).await;
    }
}

impl From<mongodb::error::Error> for Error {
    fn from(error: mongodb::error::Error) -> Self {
        Self::store_unavailable(error)
    }
}
