//! The indexes and the version of what is stored, brought up to date by whichever instance starts
//! first.
//!
//! The document `schema` holds the version and, while somebody works on it, a lock that the
//! database's clock lets expire. A migration may only add, so that an instance of the version
//! before goes on working beside it; one that cannot keep to that raises `readableFrom`, and older
//! instances then refuse to start.

use super::Tables;
use super::connect::refused;
use crate::error::Result;
use mongodb::IndexModel;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{IndexOptions, ReturnDocument};
use std::time::Duration;
use tokio::time::sleep;
use uuid::Uuid;

/// The version that this program writes.
const VERSION: i64 = 1;
/// A lock that is older than this belongs to an instance that died.
const LOCK_LEASE: i64 = 60_000;
/// How long requests that may be repeated are kept: a day, and an hour so that no clock is too early.
const KEYS: Duration = Duration::from_secs(25 * 60 * 60);
/// How long the others can hear what an instance told.
const EVENTS: Duration = Duration::from_secs(5 * 60);
/// How often to look whether another instance is done, and how many times.
const LOOK: Duration = Duration::from_millis(200);
const LOOKS: usize = 600;

/// Brings the database to the present version, or says why it cannot.
pub(super) async fn prepare(tables: &Tables, place: &str) -> Result<()> {
    let me = Uuid::now_v7().to_string();
    for _ in 0..LOOKS {
        let found = tables.schema.find_one(doc! { "_id": "schema" }).await?.unwrap_or_default();
        let number = |field| found.get_i64(field).unwrap_or_default();
        if number("readableFrom") > VERSION {
            return Err(refused(format!(
                "MongoDB at {place} was written by a newer Echoic that this one cannot work beside; start the newer \
                 version"
            )));
        }
        if number("version") >= VERSION {
            return Ok(());
        }
        if lock(tables, &me).await? {
            for (collection, indexes) in indexes(tables) {
                collection.create_indexes(indexes).await?;
            }
            let done = doc! { "$set": { "version": VERSION, "readableFrom": 1_i64 }, "$unset": { "lock": "" } };
            tables.schema.update_one(doc! { "_id": "schema", "lock.by": &me }, done).await?;
            continue;
        }
        sleep(LOOK).await;
    }
    Err(refused(format!("another Echoic has been preparing MongoDB at {place} for too long")))
}

/// Takes the lock, if it is free. Its age is told by the database's clock.
async fn lock(tables: &Tables, me: &str) -> Result<bool> {
    let schema = doc! { "_id": "schema" };
    let here = doc! { "$setOnInsert": { "version": 0_i64, "readableFrom": 0_i64 } };
    match tables.schema.update_one(schema.clone(), here).upsert(true).await {
        // Two that add it at the same moment: one of them has.
        Err(error) if !super::failures::is_duplicate(&error) => return Err(error.into()),
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
    let old = DateTime::from_millis(now - LOCK_LEASE);
    let mut free = schema;
    free.insert("$or", vec![doc! { "lock": null }, doc! { "lock.at": { "$lt": old } }]);
    let take = vec![doc! { "$set": { "lock": { "by": me, "at": "$$NOW" } } }];
    Ok(tables.schema.update_one(free, take).await?.modified_count == 1)
}

fn indexes(tables: &Tables) -> Vec<(&mongodb::Collection<Document>, Vec<IndexModel>)> {
    let order = |first: &str| {
        doc! { first: 1, "archived": 1, "pinned": -1, "activityAt": -1, "_id": -1 }
    };
    vec![
        (
            &tables.sessions,
            vec![
                plain(order("userId")),
                plain(order("participants")),
                plain(doc! { "userId": 1, "titleWords": 1 }),
                plain(doc! { "projectId": 1, "lastMessageAt": -1 }),
                sparse(doc! { "activeTurn.boot": 1 }),
                sparse(doc! { "queue": 1 }),
                sparse(doc! { "unkept": 1 }),
            ],
        ),
        (
            &tables.nodes,
            vec![
                unique(doc! { "sessionId": 1, "number": 1 }),
                unique(doc! { "sessionId": 1, "messages.id": 1 }),
                plain(doc! { "sessionId": 1, "messages.clientMessageId": 1 }),
                plain(doc! { "sessionId": 1, "prev.seq": 1 }),
                plain(doc! { "sessionId": 1, "lastSeq": 1 }),
            ],
        ),
        (&tables.queue, vec![plain(doc! { "sessionId": 1 })]),
        (&tables.embeddings, vec![plain(doc! { "sessionId": 1 })]),
        (
            &tables.responses,
            vec![unique(doc! { "sessionId": 1, "replyId": 1 }), plain(doc! { "replyId": 1 })],
        ),
        (&tables.summaries, vec![plain(doc! { "sessionId": 1, "last.seq": -1 })]),
        (
            &tables.turn_log,
            vec![
                unique(doc! { "turnId": 1, "batch": 1 }),
                plain(doc! { "sessionId": 1 }),
                sparse(doc! { "endedAt": 1 }),
            ],
        ),
        (
            &tables.idempotency_keys,
            vec![plain(doc! { "sessionId": 1 }), expiring(doc! { "createdAt": 1 }, KEYS)],
        ),
        (
            &tables.words,
            vec![plain(doc! { "owner": 1, "words": 1 }), plain(doc! { "sessionId": 1, "seq": 1 })],
        ),
        (
            &tables.events,
            vec![plain(doc! { "boot": 1, "number": 1 }), expiring(doc! { "at": 1 }, EVENTS)],
        ),
        (&tables.tickets, vec![expiring(doc! { "expiresAt": 1 }, Duration::ZERO)]),
        (&tables.usage, vec![plain(doc! { "userId": 1, "at": 1 }), plain(doc! { "at": 1 })]),
        (&tables.spent, vec![plain(doc! { "purse": 1, "day": 1 })]),
        (&tables.projects, vec![plain(doc! { "userId": 1, "updatedAt": -1, "_id": -1 })]),
        (&tables.project_files, vec![plain(doc! { "projectId": 1 })]),
    ]
}

fn plain(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

fn unique(keys: Document) -> IndexModel {
    let options = IndexOptions::builder().unique(true).build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Only the documents that have the field.
fn sparse(keys: Document) -> IndexModel {
    let options = IndexOptions::builder().sparse(true).build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Documents go once the date in their field is this old.
fn expiring(keys: Document, age: Duration) -> IndexModel {
    let options = IndexOptions::builder().expire_after(age).build();
    IndexModel::builder().keys(keys).options(options).build()
}
