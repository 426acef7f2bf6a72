//! The indexes and the version of what is stored, brought up to date by whichever instance starts
//! first.
//!
//! The document `schema` holds the version and, while somebody works on it, a lock that the
//! database's clock lets expire. A migration may only add, so that an instance of the version
//! before goes on working beside it; one that cannot keep to that raises `readableFrom`, and older
//! instances then refuse to start.

use super::Collections;
use super::connect::startup_error;
use crate::error::Result;
use mongodb::IndexModel;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{IndexOptions, ReturnDocument};
use std::time::Duration;
use tokio::time::sleep;
use uuid::Uuid;

/// The version that this program writes.
const SCHEMA_VERSION: i64 = 1;
/// A lock that is older than this belongs to an instance that died.
const LOCK_LEASE_MS: i64 = 60_000;
/// How long requests that may be repeated are kept: a day, and an hour so that no clock is too early.
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(25 * 60 * 60);
/// How long the others can hear what an instance told.
const EVENT_TTL: Duration = Duration::from_secs(5 * 60);
/// How often to look whether another instance is done, and how many times.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const MAX_POLLS: usize = 600;

/// Brings the database to the present version, or says why it cannot.
pub(super) async fn migrate_schema(tables: &Collections, place: &str) -> Result<()> {
    let me = Uuid::now_v7().to_string();
    for _ in 0..MAX_POLLS {
        let found = tables.schema.find_one(doc! { "_id": "schema" }).await?.unwrap_or_default();
        let number = |field| found.get_i64(field).unwrap_or_default();
        if number("readableFrom") > SCHEMA_VERSION {
            return Err(startup_error(format!(
                "MongoDB at {place} was written by a newer Echoic that this one cannot work beside; start the newer \
                 version"
            )));
        }
        if number("version") >= SCHEMA_VERSION {
            return Ok(());
        }
        if try_lock_schema(tables, &me).await? {
            for (collection, indexes) in build_indexes(tables) {
                collection.create_indexes(indexes).await?;
            }
            let done = doc! { "$set": { "version": SCHEMA_VERSION, "readableFrom": 1_i64 }, "$unset": { "lock": "" } };
            tables.schema.update_one(doc! { "_id": "schema", "lock.by": &me }, done).await?;
            continue;
        }
        sleep(POLL_INTERVAL).await;
    }
    Err(startup_error(format!("another Echoic has been preparing MongoDB at {place} for too long")))
}

/// Takes the lock, if it is free. Its age is told by the database's clock.
async fn try_lock_schema(tables: &Collections, me: &str) -> Result<bool> {
    let schema = doc! { "_id": "schema" };
    let here = doc! { "$setOnInsert": { "version": 0_i64, "readableFrom": 0_i64 } };
    match tables.schema.update_one(schema.clone(), here).upsert(true).await {
        // Two that add it at the same moment: one of them has.
        Err(error) if !super::errors::is_duplicate_key(&error) => return Err(error.into()),
        _ => {}
    }
    let look = vec![doc! { "$set": { "lookedAt": "$$NOW" } }];
    let found = tables
        .schema
        .find_one_and_update(schema.clone(), look)
        .return_document(ReturnDocument::After)
        .await?
        .unwrap_or_default();
    let now = found.get_datetime("lookedAt").map_or(0, |now| now.timestamp_millis());
    let old = DateTime::from_millis(now - LOCK_LEASE_MS);
    let mut free = schema;
    free.insert("$or", vec![doc! { "lock": null }, doc! { "lock.at": { "$lt": old } }]);
    let take = vec![doc! { "$set": { "lock": { "by": me, "at": "$$NOW" } } }];
    Ok(tables.schema.update_one(free, take).await?.modified_count == 1)
}

fn build_indexes(tables: &Collections) -> Vec<(&mongodb::Collection<Document>, Vec<IndexModel>)> {
    let order = |first: &str| {
        doc! { first: 1, "archived": 1, "pinned": -1, "activityAt": -1, "_id": -1 }
    };
    vec![
        (
            &tables.sessions,
            vec![
                plain_index(order("userId")),
                plain_index(order("participants")),
                plain_index(doc! { "userId": 1, "titleWords": 1 }),
                plain_index(doc! { "projectId": 1, "lastMessageAt": -1 }),
                sparse_index(doc! { "activeTurn.boot": 1 }),
                sparse_index(doc! { "queue": 1 }),
                sparse_index(doc! { "unkept": 1 }),
            ],
        ),
        (
            &tables.nodes,
            vec![
                unique_index(doc! { "sessionId": 1, "number": 1 }),
                unique_index(doc! { "sessionId": 1, "messages.id": 1 }),
                plain_index(doc! { "sessionId": 1, "messages.clientMessageId": 1 }),
                plain_index(doc! { "sessionId": 1, "prev.seq": 1 }),
                plain_index(doc! { "sessionId": 1, "lastSeq": 1 }),
            ],
        ),
        (&tables.queue, vec![plain_index(doc! { "sessionId": 1 })]),
        (&tables.embeddings, vec![plain_index(doc! { "sessionId": 1 })]),
        (
            &tables.responses,
            vec![
                unique_index(doc! { "sessionId": 1, "replyId": 1 }),
                plain_index(doc! { "replyId": 1 }),
            ],
        ),
        (&tables.summaries, vec![plain_index(doc! { "sessionId": 1, "last.seq": -1 })]),
        (
            &tables.turn_log,
            vec![
                unique_index(doc! { "turnId": 1, "batch": 1 }),
                plain_index(doc! { "sessionId": 1 }),
                sparse_index(doc! { "endedAt": 1 }),
            ],
        ),
        (
            &tables.idempotency_keys,
            vec![
                plain_index(doc! { "sessionId": 1 }),
                ttl_index(doc! { "createdAt": 1 }, IDEMPOTENCY_TTL),
            ],
        ),
        (
            &tables.words,
            vec![
                plain_index(doc! { "owner": 1, "words": 1 }),
                plain_index(doc! { "sessionId": 1, "seq": 1 }),
            ],
        ),
        (
            &tables.events,
            vec![
                plain_index(doc! { "boot": 1, "number": 1 }),
                ttl_index(doc! { "at": 1 }, EVENT_TTL),
            ],
        ),
        (&tables.tickets, vec![ttl_index(doc! { "expiresAt": 1 }, Duration::ZERO)]),
        (
            &tables.usage,
            vec![plain_index(doc! { "userId": 1, "at": 1 }), plain_index(doc! { "at": 1 })],
        ),
        (&tables.spent, vec![plain_index(doc! { "purse": 1, "day": 1 })]),
        (&tables.projects, vec![plain_index(doc! { "userId": 1, "updatedAt": -1, "_id": -1 })]),
        (&tables.project_files, vec![plain_index(doc! { "projectId": 1 })]),
    ]
}

fn plain_index(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

fn unique_index(keys: Document) -> IndexModel {
    let options = IndexOptions::builder().unique(true).build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Only the documents that have the field.
fn sparse_index(keys: Document) -> IndexModel {
    let options = IndexOptions::builder().sparse(true).build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Documents go once the date in their field is this old.
fn ttl_index(keys: Document, age: Duration) -> IndexModel {
    let options = IndexOptions::builder().expire_after(age).build();
    IndexModel::builder().keys(keys).options(options).build()
}
