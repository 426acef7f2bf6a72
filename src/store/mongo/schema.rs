//! Schema version and indexes. The first instance that starts migrates the database.
//!
//! The document `schema` holds the version and, during a migration, a lock that expires by the
//! clock of the database. Migrations only add, so that instances of the previous version keep
//! working during a rolling upgrade. A migration that cannot keep to that raises `readableFrom`,
//! and older instances then refuse to start.

use super::Collections;
use super::errors::{is_duplicate_key, startup_error};
use crate::error::Result;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{IndexOptions, ReturnDocument};
use mongodb::{Collection, IndexModel};
use std::time::Duration;
use tokio::time::sleep;
use uuid::Uuid;

/// The version that this build writes.
const SCHEMA_VERSION: i64 = 4;
/// Age in milliseconds at which a lock counts as left by a crashed instance.
const LOCK_LEASE_MS: i64 = 60_000;
/// Lifetime of idempotency records: the promised day, plus an hour for clocks that differ.
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(25 * 60 * 60);
/// Lifetime of an event bundle. An instance that does not poll for longer misses events.
const EVENT_TTL: Duration = Duration::from_secs(5 * 60);
/// Polls while another instance is migrating: 600 of them, two minutes in all.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const MAX_POLLS: usize = 600;

/// Migrates the database to [`SCHEMA_VERSION`], or waits until another instance has done so.
///
/// Errors: `store_unavailable`, if the database requires a newer version or the wait timed out.
pub(super) async fn migrate_schema(collections: &Collections, address: &str) -> Result<()> {
    let me = Uuid::now_v7().to_string();
    for _ in 0..MAX_POLLS {
        let found =
            collections.schema.find_one(doc! { "_id": "schema" }).await?.unwrap_or_default();
        let number = |field| found.get_i64(field).unwrap_or_default();
        if number("readableFrom") > SCHEMA_VERSION {
            return Err(startup_error(format!(
                "MongoDB at {address} was written by a newer Echoic and cannot be used by this version; \
                 start the newer version"
            )));
        }
        if number("version") >= SCHEMA_VERSION {
            return Ok(());
        }
        if try_lock_schema(collections, &me).await? {
            for (collection, indexes) in build_indexes(collections) {
                collection.create_indexes(indexes).await?;
            }
            // Only while the lock is still ours. After a migration that outlived its lock, another
            // instance repeats it: creating an index that exists does nothing.
            let done = doc! { "$set": { "version": SCHEMA_VERSION, "readableFrom": 1_i64 }, "$unset": { "lock": "" } };
            collections.schema.update_one(doc! { "_id": "schema", "lock.by": &me }, done).await?;
            continue;
        }
        sleep(POLL_INTERVAL).await;
    }
    Err(startup_error(format!(
        "timed out waiting for another instance to migrate MongoDB at {address}"
    )))
}

/// Tries to take the migration lock. Its age is measured by the clock of the database.
async fn try_lock_schema(collections: &Collections, me: &str) -> Result<bool> {
    let schema = doc! { "_id": "schema" };
    let defaults = doc! { "$setOnInsert": { "version": 0_i64, "readableFrom": 0_i64 } };
    match collections.schema.update_one(schema.clone(), defaults).upsert(true).await {
        // Two instances insert the document at the same moment, and one of them fails.
        Err(error) if !is_duplicate_key(&error) => return Err(error.into()),
        _ => {}
    }
    // Reads the database's clock, which a plain find cannot return.
    let read_clock = vec![doc! { "$set": { "lookedAt": "$$NOW" } }];
    let found = collections
        .schema
        .find_one_and_update(schema.clone(), read_clock)
        .return_document(ReturnDocument::After)
        .await?
        .unwrap_or_default();
    let now = found.get_datetime("lookedAt").map_or(0, |now| now.timestamp_millis());
    let old = DateTime::from_millis(now - LOCK_LEASE_MS);
    // One conditional update, so that of several instances one gets the lock.
    let mut free = schema;
    free.insert("$or", vec![doc! { "lock": null }, doc! { "lock.at": { "$lt": old } }]);
    let take = vec![doc! { "$set": { "lock": { "by": me, "at": "$$NOW" } } }];
    Ok(collections.schema.update_one(free, take).await?.modified_count == 1)
}

type CollectionIndexes<'a> = (&'a Collection<Document>, Vec<IndexModel>);

fn build_indexes(collections: &Collections) -> Vec<CollectionIndexes<'_>> {
    let mut indexes = session_indexes(collections);
    indexes.extend(turn_indexes(collections));
    indexes.extend(user_indexes(collections));
    indexes
}

/// Sessions, their messages, and what is derived from these.
fn session_indexes(collections: &Collections) -> Vec<CollectionIndexes<'_>> {
    let order = |first: &str| {
        doc! { first: 1, "archived": 1, "pinned": -1, "activityAt": -1, "_id": -1 }
    };
    vec![
        (
            &collections.sessions,
            vec![
                plain_index(order("userId")),
                plain_index(order("participants")),
                plain_index(doc! { "userId": 1, "titleWords": 1 }),
                plain_index(doc! { "projectId": 1, "lastMessageAt": -1 }),
                // Few sessions have invited users, a running turn, a queue or words to index.
                // Sparse indexes keep the queries for them small, however many sessions there are.
                sparse_index(doc! { "activeTurn.boot": 1 }),
                sparse_index(doc! { "queue": 1 }),
                sparse_index(doc! { "invited": 1 }),
                sparse_index(doc! { "unindexed": 1 }),
                // Sessions whose words are outdated, also by instances of version 0.1.0; see
                // `search_rebuild.rs`.
                plain_index(doc! { "wordsVersion": 1 }),
                sparse_index(doc! { "kept": 1 }),
                sparse_index(doc! { "unkept": 1 }),
            ],
        ),
        (
            &collections.nodes,
            vec![
                unique_index(doc! { "sessionId": 1, "number": 1 }),
                // MongoDB enforces this between nodes, not within the messages of one node.
                unique_index(doc! { "sessionId": 1, "messages.id": 1 }),
                plain_index(doc! { "sessionId": 1, "messages.clientMessageId": 1 }),
                plain_index(doc! { "sessionId": 1, "prev.seq": 1 }),
                plain_index(doc! { "sessionId": 1, "lastSeq": 1 }),
            ],
        ),
        (
            &collections.drafts,
            vec![
                plain_index(doc! { "sweptAt": 1, "touchedAt": 1 }),
                sparse_index(doc! { "sessionId": 1 }),
            ],
        ),
        (&collections.embeddings, vec![plain_index(doc! { "sessionId": 1 })]),
        (&collections.summaries, vec![plain_index(doc! { "sessionId": 1, "last.seq": -1 })]),
        (
            &collections.words,
            vec![
                plain_index(doc! { "owner": 1, "words": 1 }),
                plain_index(doc! { "sessionId": 1, "seq": 1 }),
            ],
        ),
    ]
}

/// Turns, their requests and responses, and the events that report them.
fn turn_indexes(collections: &Collections) -> Vec<CollectionIndexes<'_>> {
    vec![
        (&collections.queue, vec![plain_index(doc! { "sessionId": 1 })]),
        (
            &collections.turn_log,
            vec![
                // Invariant: a sealed turn accepts no more batches; see `turn_log.rs`.
                unique_index(doc! { "turnId": 1, "batch": 1 }),
                plain_index(doc! { "sessionId": 1 }),
                sparse_index(doc! { "endedAt": 1 }),
            ],
        ),
        (
            &collections.responses,
            vec![
                unique_index(doc! { "sessionId": 1, "replyId": 1 }),
                plain_index(doc! { "replyId": 1 }),
            ],
        ),
        (
            &collections.idempotency_keys,
            vec![
                plain_index(doc! { "sessionId": 1 }),
                ttl_index(doc! { "createdAt": 1 }, IDEMPOTENCY_TTL),
            ],
        ),
        (
            &collections.events,
            vec![
                plain_index(doc! { "boot": 1, "number": 1 }),
                ttl_index(doc! { "at": 1 }, EVENT_TTL),
            ],
        ),
    ]
}

/// Indexes of the data that belongs to users, not to sessions: projects, tickets and usage.
fn user_indexes(collections: &Collections) -> Vec<CollectionIndexes<'_>> {
    vec![
        (
            &collections.projects,
            vec![plain_index(doc! { "userId": 1, "updatedAt": -1, "_id": -1 })],
        ),
        (&collections.project_files, vec![plain_index(doc! { "projectId": 1 })]),
        (&collections.tickets, vec![ttl_index(doc! { "expiresAt": 1 }, Duration::ZERO)]),
        (
            &collections.usage,
            vec![plain_index(doc! { "userId": 1, "at": 1 }), plain_index(doc! { "at": 1 })],
        ),
        (&collections.spent, vec![plain_index(doc! { "purse": 1, "day": 1 })]),
    ]
}

fn plain_index(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

fn unique_index(keys: Document) -> IndexModel {
    let options = IndexOptions::builder().unique(true).build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Contains only the documents that have the field.
fn sparse_index(keys: Document) -> IndexModel {
    let options = IndexOptions::builder().sparse(true).build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// MongoDB deletes a document once the date in this field is older than `age`.
fn ttl_index(keys: Document, age: Duration) -> IndexModel {
    let options = IndexOptions::builder().expire_after(age).build();
    IndexModel::builder().keys(keys).options(options).build()
}
