//! The usage ledger in SQLite: one row per turn or background call, and totals by
//! quota key and day.

use super::SqliteStore;
use super::transaction::SqliteTransaction;
use super::writer::StepBudget;
use crate::domain::quota::MAX_CALL_COST;
use crate::domain::usage::MAX_TOKEN_COUNT;
use crate::domain::{Timestamp, TurnId, UserId};
use crate::error::Result;
use crate::store::ledger::LedgerColumns;
use crate::store::transaction::UsageTransaction;
use crate::store::{GroupBy, LedgerEntry, LedgerStore, UsageGroup, UsageQuery, UsageTotal};
use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

/// Totals stop growing here, so that adding to one never overflows.
const MAX_TOTAL: i64 = i64::MAX / 2;

#[async_trait]
impl LedgerStore for SqliteStore {
    async fn record_usage(&self, entry: LedgerEntry) -> Result<()> {
        self.run_write(move |db| record_usage(db, &entry)).await
    }

    async fn usage_total(&self, quota_key: &str, since_day: i64) -> Result<UsageTotal> {
        let quota_key = quota_key.to_owned();
        self.run_read(move |db| usage_total(db, &quota_key, since_day)).await
    }

    async fn query_usage(&self, query: UsageQuery) -> Result<Vec<UsageGroup>> {
        self.run_read(move |db| query_usage(db, &query)).await
    }

    async fn delete_usage(&self, user: &UserId, now_on: &TurnId) -> Result<u64> {
        let mark = [user.to_string(), now_on.to_string()];
        self.run_write(move |db| {
            let sql = "INSERT OR REPLACE INTO forgotten VALUES (?1, ?2)";
            db.prepare_cached(sql)?.execute(mark)?;
            Ok(())
        })
        .await?;
        let mut deleted = 0;
        loop {
            let user = user.clone();
            let some = self.run_step(move |db| delete_some_usage(db, &user)).await?;
            deleted += some;
            if some == 0 {
                return Ok(deleted);
            }
        }
    }

    async fn list_ledger_entries(
        &self,
        after: Option<&TurnId>,
        limit: u32,
    ) -> Result<Vec<LedgerEntry>> {
        let after = after.map(ToString::to_string).unwrap_or_default();
        self.run_read(move |db| {
            let sql = "SELECT turn_id, kind, session_id, owner, project_id, user_id, key_id, model, status, \
                       prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, estimated, \
                       cost, at FROM usage WHERE turn_id > ?1 ORDER BY turn_id LIMIT ?2";
            let mut statement = db.prepare_cached(sql)?;
            let mut rows = statement.query(params![after, limit])?;
            let mut entries = Vec::new();
            while let Some(row) = rows.next()? {
                entries.push(decode_entry(row)?);
            }
            Ok(entries)
        })
        .await
    }
}

impl UsageTransaction for SqliteTransaction<'_> {
    async fn record_usage(&mut self, entry: &LedgerEntry, _at_once: bool) -> Result<()> {
        // The totals are updated in this transaction, so they are always current.
        record_usage(self.db, entry)
    }

    async fn usage_total(&mut self, quota_key: &str, since_day: i64) -> Result<UsageTotal> {
        usage_total(self.db, quota_key, since_day)
    }
}

/// Deletes entries of a user, as many as one step may.
fn delete_some_usage(db: &Connection, user: &UserId) -> Result<u64> {
    let sql = "DELETE FROM usage WHERE turn_id IN \
               (SELECT turn_id FROM usage WHERE user_id = ?1 LIMIT 64)";
    let mut statement = db.prepare_cached(sql)?;
    let mut budget = StepBudget::new();
    let mut deleted = 0;
    loop {
        let some = statement.execute([user.as_str()])?;
        deleted += some as u64;
        if some == 0 || !budget.spend(some) {
            return Ok(deleted);
        }
    }
}

/// Records the usage of a turn or background call, at most once.
fn record_usage(db: &Connection, entry: &LedgerEntry) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO usage VALUES \
               (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
    let columns = LedgerColumns::from_entry(entry);
    let added = db.prepare_cached(sql)?.execute(params![
        entry.turn_id.as_str(),
        columns.kind,
        columns.session_id,
        columns.owner,
        columns.project_id,
        columns.user_id,
        columns.key_id,
        columns.model,
        columns.status,
        columns.prompt_tokens,
        columns.cached_tokens,
        columns.completion_tokens,
        columns.reasoning_tokens,
        columns.estimated,
        columns.cost,
        entry.ended_at.as_millis(),
    ])?;
    // Already recorded: adding it to the totals again would count it twice.
    if added == 0 {
        return Ok(());
    }
    let sql = "INSERT INTO spent VALUES (?1, ?2, ?3, ?4) ON CONFLICT (purse, day) \
               DO UPDATE SET tokens = min(tokens + excluded.tokens, ?5), \
               cost = min(cost + excluded.cost, ?5)";
    let mut statement = db.prepare_cached(sql)?;
    for quota_key in entry.quota_keys() {
        statement.execute(params![
            quota_key,
            entry.ended_at.day_number(),
            entry.total_tokens(),
            entry.total_cost(),
            MAX_TOTAL,
        ])?;
    }
    // If the user has deleted their usage since this turn began, its tokens count toward quotas,
    // but no entry remains.
    let sql = "DELETE FROM usage WHERE turn_id = ?1 \
               AND EXISTS (SELECT 1 FROM forgotten WHERE user_id = ?2 AND now_on > ?1)";
    let ids = [entry.turn_id.as_str(), entry.payer.user.as_str()];
    db.prepare_cached(sql)?.execute(ids)?;
    Ok(())
}

fn usage_total(db: &Connection, quota_key: &str, since_day: i64) -> Result<UsageTotal> {
    // `total` never overflows, and the cast saturates.
    let sql = "SELECT CAST(total(tokens) AS INTEGER), CAST(total(cost) AS INTEGER) FROM spent \
               WHERE purse = ?1 AND day >= ?2";
    let sum = db.prepare_cached(sql)?.query_row(params![quota_key, since_day], |row| {
        Ok(UsageTotal { tokens: row.get(0)?, cost: row.get(1)? })
    });
    Ok(sum?)
}

fn query_usage(db: &Connection, query: &UsageQuery) -> Result<Vec<UsageGroup>> {
    let key = match query.group_by {
        GroupBy::Day => "strftime('%Y-%m-%d', at / 1000, 'unixepoch')",
        GroupBy::Model => "coalesce(model, '')",
        GroupBy::Project => "coalesce(project_id, '')",
        GroupBy::Session => "session_id",
        GroupBy::User => "user_id",
        GroupBy::All => "''",
    };
    // Days in the order of time, other groups by their tokens.
    let order = match query.group_by {
        GroupBy::Day => "key",
        _ => "prompt + completion DESC, key",
    };
    // Both variants use ?4, so that the list of parameters is the same.
    let user_condition = if query.user.is_some() { "user_id = ?4 AND" } else { "?4 IS NULL AND" };
    let count = |column| plausible_or_zero(column, MAX_TOKEN_COUNT);
    let prompt = count("prompt_tokens");
    let cached = count("cached_tokens");
    let completion = count("completion_tokens");
    let reasoning = count("reasoning_tokens");
    let cost = plausible_or_zero("cost", MAX_CALL_COST as u64);
    let sql = format!(
        "SELECT {key} AS key, sum(kind = 'reply'), sum(kind = 'reply' AND estimated), \
         sum(kind <> 'reply'), sum({prompt}) AS prompt, sum({cached}), \
         sum({completion}) AS completion, sum({reasoning}), \
         CASE WHEN count(cost) > 0 THEN CAST(total({cost}) AS INTEGER) END FROM usage \
         WHERE {user_condition} at >= ?1 AND at < ?2 GROUP BY 1 ORDER BY {order} LIMIT ?3"
    );
    let from = query.from.as_millis();
    let to = query.to.as_millis();
    let user = query.user.as_ref().map(UserId::as_str);
    let mut statement = db.prepare_cached(&sql)?;
    let lines = statement.query_map(params![from, to, query.limit, user], |row| {
        let count = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
        Ok(UsageGroup {
            key: row.get(0)?,
            turns: count(1)?,
            estimated_turns: count(2)?,
            background_calls: count(3)?,
            prompt_tokens: count(4)?,
            cached_tokens: count(5)?,
            completion_tokens: count(6)?,
            reasoning_tokens: count(7)?,
            cost: row.get(8)?,
        })
    })?;
    Ok(lines.collect::<Result<_, _>>()?)
}

/// The SQL of a count in `usage`, or zero in place of an absurd one that an earlier version has
/// recorded. Sums of it cannot overflow.
pub(super) fn plausible_or_zero(column: &str, max: u64) -> String {
    format!("CASE WHEN {column} BETWEEN 0 AND {max} THEN {column} ELSE 0 END")
}

fn decode_entry(row: &Row<'_>) -> Result<LedgerEntry> {
    let columns = LedgerColumns {
        kind: row.get(1)?,
        session_id: row.get(2)?,
        owner: row.get(3)?,
        project_id: row.get(4)?,
        user_id: row.get(5)?,
        key_id: row.get(6)?,
        model: row.get(7)?,
        status: row.get(8)?,
        prompt_tokens: row.get(9)?,
        cached_tokens: row.get(10)?,
        completion_tokens: row.get(11)?,
        reasoning_tokens: row.get(12)?,
        estimated: row.get(13)?,
        cost: row.get(14)?,
    };
    let turn_id = TurnId::new_unchecked(row.get::<_, String>(0)?);
    columns.into_entry(turn_id, Timestamp::from_millis(row.get(15)?))
}
