//! Repairs a ledger that holds counts no reply can have. Earlier versions recorded whatever a
//! provider reported; one such count filled every quota that it was added to.

use super::Collections;
use super::ledger::{plausible_or_zero, saturate_sum};
use crate::domain::quota::{MAX_CALL_COST, QuotaSubject, parse_quota_key};
use crate::domain::usage::MAX_TOKEN_COUNT;
use crate::error::Result;
use crate::store::rules::is_impossible_total;
use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, doc};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Computes totals again that include an absurd count, from the entries without it. A total that
/// cannot be explained by its entries stays: users may have deleted these.
pub(super) async fn repair_totals(collections: &Collections) -> Result<()> {
    let outside =
        |field: &str, max: i64| [doc! { field: { "$lt": 0 } }, doc! { field: { "$gt": max } }];
    let suspect = [outside("tokens", MAX_TOKEN_COUNT as i64), outside("cost", MAX_CALL_COST)];
    let filter = doc! { "$or": suspect.concat() };
    let suspects: Vec<Document> = collections.spent.find(filter).await?.try_collect().await?;
    for total in &suspects {
        repair_total(collections, total).await?;
    }
    Ok(())
}

async fn repair_total(collections: &Collections, total: &Document) -> Result<()> {
    let quota_key = total.get_str("purse").unwrap_or_default();
    let mut filter = match parse_quota_key(quota_key) {
        Some(QuotaSubject::User(user)) => doc! { "userId": user },
        Some(QuotaSubject::Key(key)) => doc! { "keyId": key },
        Some(QuotaSubject::Project { project, owner }) => {
            doc! { "projectId": project, "owner": owner }
        }
        None => return Ok(()),
    };
    let day = saturate_sum(total.get("day"));
    let at = |day: i64| DateTime::from_millis(day.saturating_mul(DAY_MS));
    filter.insert("at", doc! { "$gte": at(day), "$lt": at(day.saturating_add(1)) });
    let prompt = plausible_or_zero("$promptTokens", MAX_TOKEN_COUNT as i64);
    let completion = plausible_or_zero("$completionTokens", MAX_TOKEN_COUNT as i64);
    let cost = plausible_or_zero("$cost", MAX_CALL_COST);
    let is_absurd = doc! { "$or": [
        { "$ne": ["$promptTokens", &prompt] },
        { "$ne": ["$completionTokens", &completion] },
        { "$ne": [{ "$ifNull": ["$cost", 0] }, &cost] },
    ] };
    let sums = vec![
        doc! { "$match": filter },
        doc! { "$group": {
            "_id": null,
            "tokens": { "$sum": { "$add": [prompt, completion] } },
            "cost": { "$sum": cost },
            "absurd": { "$sum": { "$cond": [is_absurd, 1, 0] } },
        } },
    ];
    let sums: Vec<Document> = collections.usage.aggregate(sums).await?.try_collect().await?;
    let sum = |field: &str| sums.first().map_or(0, |sums| saturate_sum(sums.get(field)));
    if sum("absurd") > 0
        || is_impossible_total(read_integer(total, "tokens"), read_integer(total, "cost"))
    {
        tracing::warn!(quota = quota_key, "total recomputed: it contained impossible usage");
        // Only if nothing was added meanwhile. Then the next start repairs it.
        let same = doc! { "_id": total.get("_id"), "tokens": total.get("tokens") };
        let set = doc! { "$set": { "tokens": sum("tokens"), "cost": sum("cost") } };
        collections.spent.update_one(same, set).await?;
    }
    Ok(())
}

/// `None` for a sum that became a floating-point number.
fn read_integer(total: &Document, field: &str) -> Option<i64> {
    match total.get(field) {
        None | Some(Bson::Null) => Some(0),
        Some(Bson::Double(_)) => None,
        sum => Some(saturate_sum(sum)),
    }
}
