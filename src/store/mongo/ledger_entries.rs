//! Recording of ledger entries, each counted once.
//!
//! The usage of a turn is part of the commit that ends it (`pending`) and is recorded after it, by
//! any instance and possibly more than once. It is still counted once: each total keeps the ids of
//! the last turns that it includes, and the turn's own document, written last, marks all totals as
//! done.

use super::Collections;
use super::documents::{to_bson_date, to_document, to_timestamp};
use super::errors::is_duplicate_key;
use crate::domain::TurnId;
use crate::error::Result;
use crate::store::LedgerEntry;
use crate::store::ledger::LedgerColumns;
use mongodb::bson::{DateTime, Document, deserialize_from_document, doc};
use serde::{Deserialize, Serialize};

/// A total keeps the ids of its last 64 turns: more turns than can end, for one quota key, between
/// two attempts to record the same turn.
const COUNTED_TURNS_SLICE: i32 = -64;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LedgerEntryDoc {
    #[serde(rename = "_id")]
    turn_id: String,
    #[serde(flatten)]
    columns: LedgerColumns,
    at: DateTime,
}

pub(super) fn to_entry_document(entry: &LedgerEntry) -> Result<Document> {
    to_document(&LedgerEntryDoc {
        turn_id: entry.turn_id.to_string(),
        columns: LedgerColumns::from_entry(entry),
        at: to_bson_date(entry.ended_at),
    })
}

impl LedgerEntryDoc {
    pub(super) fn into_ledger_entry(self) -> Result<LedgerEntry> {
        self.columns.into_entry(TurnId::new_unchecked(self.turn_id), to_timestamp(self.at))
    }
}

/// Records the usage of a turn or background call; does nothing if it is recorded already.
pub(super) async fn apply_usage(
    collections: &Collections,
    entry: &Document,
) -> mongodb::error::Result<()> {
    let Some(turn) = entry.get("_id").cloned() else { return Ok(()) };
    // The turn's own document is written last, so all totals have this turn.
    if collections.usage.find_one(doc! { "_id": &turn }).await?.is_some() {
        return Ok(());
    }
    // Entries are written by `to_entry_document` only. An unreadable one would block the session's
    // `pending` for ever, so it is skipped.
    let Ok(Ok(usage)) = deserialize_from_document::<LedgerEntryDoc>(entry.clone())
        .map(LedgerEntryDoc::into_ledger_entry)
    else {
        return Ok(());
    };
    for quota_key in usage.quota_keys() {
        let day = usage.ended_at.day_number();
        let id = format!("{day}|{quota_key}");
        // Finds the total only if it does not include this turn yet.
        let without_turn = doc! { "_id": &id, "turns": { "$ne": &turn } };
        let add = doc! {
            "$inc": { "tokens": usage.total_tokens(), "cost": usage.total_cost() },
            "$push": { "turns": { "$each": [&turn], "$slice": COUNTED_TURNS_SLICE } },
        };
        let mut insert_or_add = add.clone();
        insert_or_add.insert("$setOnInsert", doc! { "purse": &quota_key, "day": day });
        let upsert = collections.spent.update_one(without_turn.clone(), insert_or_add).upsert(true);
        match upsert.await {
            // The upsert tried to insert a total that exists: it includes this turn already, or
            // another writer has just inserted it. A plain update settles both.
            Err(error) if is_duplicate_key(&error) => {
                collections.spent.update_one(without_turn, add).await?;
            }
            updated => drop(updated?),
        }
    }
    match collections.usage.insert_one(entry).await {
        Err(error) if is_duplicate_key(&error) => {}
        inserted => drop(inserted?),
    }
    // The user's data was deleted while this turn was running or waiting to be recorded.
    let forgotten = doc! { "_id": usage.payer.user.as_str(), "nowOn": { "$gt": &turn } };
    if collections.forgotten.find_one(forgotten).await?.is_some() {
        collections.usage.delete_one(doc! { "_id": &turn }).await?;
    }
    Ok(())
}
