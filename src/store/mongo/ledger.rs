//! The usage ledger in MongoDB: one document per turn or background call, and totals per quota key
//! and day.
//! `ledger_entries.rs` records the entries.

use super::MongoStore;
use super::documents::to_bson_date;
use super::ledger_entries::{LedgerEntryDoc, apply_usage, to_entry_document};
use super::transaction::MongoTransaction;
use super::turn_log::with_timeout;
use crate::domain::quota::MAX_CALL_COST;
use crate::domain::usage::MAX_TOKEN_COUNT;
use crate::domain::{CallKind, TurnId, UserId};
use crate::error::Result;
use crate::store::transaction::UsageTransaction;
use crate::store::{GroupBy, LedgerEntry, LedgerStore, UsageGroup, UsageQuery, UsageTotal};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use serde::{Deserialize, Deserializer};

#[derive(Debug, Deserialize)]
struct UsageTotalDoc {
    #[serde(deserialize_with = "deserialize_sum")]
    tokens: i64,
    #[serde(deserialize_with = "deserialize_sum")]
    cost: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsageGroupDoc {
    #[serde(rename = "_id")]
    key: Option<String>,
    turns: i64,
    estimated: i64,
    background_calls: i64,
    #[serde(deserialize_with = "deserialize_sum")]
    prompt: i64,
    #[serde(deserialize_with = "deserialize_sum")]
    cached: i64,
    #[serde(deserialize_with = "deserialize_sum")]
    completion: i64,
    #[serde(deserialize_with = "deserialize_sum")]
    reasoning: i64,
    #[serde(deserialize_with = "deserialize_sum")]
    cost: i64,
    priced: i64,
}

#[async_trait]
impl LedgerStore for MongoStore {
    async fn record_usage(&self, entry: LedgerEntry) -> Result<()> {
        let entry = to_entry_document(&entry)?;
        with_timeout(async { Ok(apply_usage(&self.collections, &entry).await?) }).await
    }

    async fn usage_total(&self, quota_key: &str, since_day: i64) -> Result<UsageTotal> {
        let sums = self.collections.spent.aggregate(total_pipeline(quota_key, since_day));
        let sums: Vec<UsageTotalDoc> =
            with_timeout(async { Ok(sums.await?.with_type().try_collect().await?) }).await?;
        Ok(to_usage_total(&sums))
    }

    async fn query_usage(&self, query: UsageQuery) -> Result<Vec<UsageGroup>> {
        let lines = self.collections.usage.aggregate(report_pipeline(&query));
        let lines: Vec<UsageGroupDoc> =
            with_timeout(async { Ok(lines.await?.with_type().try_collect().await?) }).await?;
        Ok(lines.into_iter().map(UsageGroupDoc::into_usage_group).collect())
    }

    async fn delete_usage(&self, user: &UserId, now_on: &TurnId) -> Result<u64> {
        let of_user = doc! { "_id": user.as_str() };
        let mark = doc! { "$max": { "nowOn": now_on.as_str() } };
        let mark = self.collections.forgotten.update_one(of_user, mark).upsert(true);
        let deleted = self.collections.usage.delete_many(doc! { "userId": user.as_str() });
        // The mark comes first. An entry that is inserted after the deletion finds the mark and
        // deletes itself (see `apply_usage`).
        with_timeout(async {
            mark.await?;
            Ok(deleted.await?.deleted_count)
        })
        .await
    }

    async fn list_ledger_entries(
        &self,
        after: Option<&TurnId>,
        limit: u32,
    ) -> Result<Vec<LedgerEntry>> {
        let after = after.map(ToString::to_string).unwrap_or_default();
        let entries = self.collections.usage.clone_with_type::<LedgerEntryDoc>();
        let found = entries
            .find(doc! { "_id": { "$gt": after } })
            .sort(doc! { "_id": 1 })
            .limit(i64::from(limit));
        let found: Vec<LedgerEntryDoc> =
            with_timeout(async { Ok(found.await?.try_collect().await?) }).await?;
        found.into_iter().map(LedgerEntryDoc::into_ledger_entry).collect()
    }
}

impl UsageTransaction for MongoTransaction {
    /// The usage is part of the commit. With `at_once` it is recorded before the operation returns,
    /// otherwise in the background.
    async fn record_usage(&mut self, entry: &LedgerEntry, at_once: bool) -> Result<()> {
        self.ledger_entry = Some(to_entry_document(entry)?);
        self.applies_usage_first = at_once;
        Ok(())
    }

    async fn usage_total(&mut self, quota_key: &str, since_day: i64) -> Result<UsageTotal> {
        let collection = self.collections.spent.clone();
        let sums: Vec<UsageTotalDoc> =
            self.run_pipeline(&collection, total_pipeline(quota_key, since_day)).await?;
        Ok(to_usage_total(&sums))
    }
}

fn total_pipeline(quota_key: &str, since_day: i64) -> Vec<Document> {
    vec![
        doc! { "$match": { "purse": quota_key, "day": { "$gte": since_day } } },
        doc! { "$group": {
            "_id": null, "tokens": { "$sum": "$tokens" }, "cost": { "$sum": "$cost" },
        } },
    ]
}

fn to_usage_total(sums: &[UsageTotalDoc]) -> UsageTotal {
    sums.first().map(|sum| UsageTotal { tokens: sum.tokens, cost: sum.cost }).unwrap_or_default()
}

fn report_pipeline(query: &UsageQuery) -> Vec<Document> {
    let mut filter =
        doc! { "at": { "$gte": to_bson_date(query.from), "$lt": to_bson_date(query.to) } };
    if let Some(user) = &query.user {
        filter.insert("userId", user.as_str());
    }
    let key = match query.group_by {
        GroupBy::Day => {
            Bson::Document(doc! { "$dateToString": { "format": "%Y-%m-%d", "date": "$at" } })
        }
        GroupBy::Model => "$model".into(),
        GroupBy::Project => "$projectId".into(),
        GroupBy::Session => "$sessionId".into(),
        GroupBy::User => "$userId".into(),
        GroupBy::All => Bson::Null,
    };
    let count = |field: &str| plausible_or_zero(field, MAX_TOKEN_COUNT as i64);
    let sum = |field: &str| doc! { "$sum": count(field) };
    let one_if = |test: Document| {
        doc! { "$sum": { "$toLong": { "$cond": [test, 1, 0] } } }
    };
    let is_reply = doc! { "$eq": ["$kind", CallKind::Reply.as_str()] };
    let order = match query.group_by {
        GroupBy::Day => doc! { "_id": 1 },
        _ => doc! { "tokens": -1, "_id": 1 },
    };
    vec![
        doc! { "$match": filter },
        doc! { "$group": {
            "_id": key,
            "turns": one_if(is_reply.clone()),
            "estimated": one_if(doc! { "$and": [is_reply.clone(), { "$eq": ["$estimated", true] }] }),
            "backgroundCalls": one_if(doc! { "$not": [is_reply] }),
            "prompt": sum("$promptTokens"),
            "cached": sum("$cachedTokens"),
            "completion": sum("$completionTokens"),
            "reasoning": sum("$reasoningTokens"),
            "tokens": { "$sum": { "$add": [count("$promptTokens"), count("$completionTokens")] } },
            "cost": { "$sum": plausible_or_zero("$cost", MAX_CALL_COST) },
            "priced": one_if(doc! { "$gt": ["$cost", null] }),
        } },
        doc! { "$sort": order },
        doc! { "$limit": i64::from(query.limit) },
    ]
}

/// A count of an entry, or zero in place of an absurd one that an earlier version has recorded.
pub(super) fn plausible_or_zero(field: &str, max: i64) -> Document {
    let is_plausible = doc! { "$and": [{ "$gte": [field, 0] }, { "$lte": [field, max] }] };
    doc! { "$toLong": { "$cond": [is_plausible, field, 0] } }
}

/// A sum, which MongoDB makes a double where it does not fit 64 bits.
pub(super) fn saturate_sum(sum: Option<&Bson>) -> i64 {
    match sum {
        Some(Bson::Int32(sum)) => i64::from(*sum),
        Some(Bson::Int64(sum)) => *sum,
        Some(Bson::Double(sum)) => *sum as i64,
        _ => 0,
    }
}

fn deserialize_sum<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Bson::deserialize(deserializer).map(|sum| saturate_sum(Some(&sum)))
}

impl UsageGroupDoc {
    fn into_usage_group(self) -> UsageGroup {
        UsageGroup {
            key: self.key.unwrap_or_default(),
            turns: self.turns.unsigned_abs(),
            estimated_turns: self.estimated.unsigned_abs(),
            background_calls: self.background_calls.unsigned_abs(),
            prompt_tokens: self.prompt.unsigned_abs(),
            cached_tokens: self.cached.unsigned_abs(),
            completion_tokens: self.completion.unsigned_abs(),
            reasoning_tokens: self.reasoning.unsigned_abs(),
            cost: (self.priced > 0).then_some(self.cost),
        }
    }
}
