//! The usage ledger in SQLite: a row for each turn or call beside one, and sums by purse and day.

use super::SqliteStore;
use super::rows::word;
use crate::domain::key::KeyId;
use crate::domain::quota::UsagePayer;
use crate::domain::{CallKind, ProjectId, SessionId, Status, Timestamp, TurnId, Usage, UserId};
use crate::error::Result;
use crate::store::ledger::number;
use crate::store::{GroupBy, LedgerEntry, LedgerStore, Spent, UsageLine, UsageQuery};
use async_trait::async_trait;
use rusqlite::{Connection, Row, params};

#[async_trait]
impl LedgerStore for SqliteStore {
    async fn book(&self, entry: LedgerEntry) -> Result<()> {
        self.write(move |db| book(db, &entry)).await
    }

    async fn spent(&self, purse: &str, since_day: i64) -> Result<Spent> {
        let purse = purse.to_owned();
        self.read(move |db| spent(db, &purse, since_day)).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageLine>> {
        self.read(move |db| usage(db, &query)).await
    }

    async fn forget_usage(&self, user: &UserId, now_on: &TurnId) -> Result<u64> {
        let (user, now_on) = (user.clone(), now_on.clone());
        self.write(move |db| {
            let sql = "INSERT OR REPLACE INTO forgotten VALUES (?1, ?2)";
            db.prepare_cached(sql)?.execute([user.as_str(), now_on.as_str()])?;
            let sql = "DELETE FROM usage WHERE user_id = ?1";
            Ok(db.prepare_cached(sql)?.execute([user.as_str()])? as u64)
        })
        .await
    }

    async fn ledger(&self, behind: Option<&TurnId>, most: u32) -> Result<Vec<LedgerEntry>> {
        let behind = behind.map(ToString::to_string).unwrap_or_default();
        self.read(move |db| {
            let sql = "SELECT turn_id, kind, session_id, owner, project_id, user_id, key_id, model, status, \
                       prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, estimated, \
                       cost, at FROM usage WHERE turn_id > ?1 ORDER BY turn_id LIMIT ?2";
            let mut statement = db.prepare_cached(sql)?;
            let mut rows = statement.query(params![behind, most])?;
            let mut entries = Vec::new();
            while let Some(row) = rows.next()? {
                entries.push(entry(row)?);
            }
            Ok(entries)
        })
        .await
    }
}

/// Books a turn or a call beside one, once.
pub(super) fn book(db: &Connection, entry: &LedgerEntry) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO usage VALUES \
               (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
    let usage = &entry.usage;
    let added = db.prepare_cached(sql)?.execute(params![
        entry.turn_id.as_str(),
        entry.kind.as_str(),
        entry.session_id.as_str(),
        entry.owner.as_str(),
        entry.project_id.as_ref().map(ProjectId::as_str),
        entry.payer.user.as_str(),
        entry.payer.key.as_ref().map(KeyId::as_str),
        entry.model,
        entry.status.as_str(),
        number(usage.prompt_tokens),
        number(usage.cached_tokens),
        number(usage.completion_tokens),
        number(usage.reasoning_tokens),
        usage.estimated,
        entry.cost,
        entry.at.as_millis(),
    ])?;
    if added == 0 {
        return Ok(());
    }
    let sql = "INSERT INTO spent VALUES (?1, ?2, ?3, ?4) ON CONFLICT (purse, day) \
               DO UPDATE SET tokens = tokens + excluded.tokens, cost = cost + excluded.cost";
    let mut statement = db.prepare_cached(sql)?;
    for purse in entry.purses() {
        let cost = entry.cost.unwrap_or_default();
        statement.execute(params![purse, entry.at.day_number(), entry.tokens(), cost])?;
    }
    let sql = "DELETE FROM usage WHERE turn_id = ?1 \
               AND EXISTS (SELECT 1 FROM forgotten WHERE user_id = ?2 AND now_on > ?1)";
    let whose = [entry.turn_id.as_str(), entry.payer.user.as_str()];
    db.prepare_cached(sql)?.execute(whose)?;
    Ok(())
}

pub(super) fn spent(db: &Connection, purse: &str, since_day: i64) -> Result<Spent> {
    let sql = "SELECT coalesce(sum(tokens), 0), coalesce(sum(cost), 0) FROM spent \
               WHERE purse = ?1 AND day >= ?2";
    let sum = db.prepare_cached(sql)?.query_row(params![purse, since_day], |row| {
        Ok(Spent { tokens: row.get(0)?, cost: row.get(1)? })
    });
    Ok(sum?)
}

fn usage(db: &Connection, query: &UsageQuery) -> Result<Vec<UsageLine>> {
    let key = match query.group_by {
        GroupBy::Day => "strftime('%Y-%m-%d', at / 1000, 'unixepoch')",
        GroupBy::Model => "coalesce(model, '')",
        GroupBy::Project => "coalesce(project_id, '')",
        GroupBy::Session => "session_id",
        GroupBy::User => "user_id",
        GroupBy::All => "''",
    };
    let order = match query.group_by {
        GroupBy::Day => "key",
        _ => "sum(prompt_tokens + completion_tokens) DESC, key",
    };
    let whose = if query.user.is_some() { "user_id = ?4 AND" } else { "?4 IS NULL AND" };
    let sql = format!(
        "SELECT {key} AS key, sum(kind = 'reply'), sum(kind = 'reply' AND estimated), \
         sum(kind <> 'reply'), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens), \
         sum(reasoning_tokens), sum(cost) FROM usage \
         WHERE {whose} at >= ?1 AND at < ?2 GROUP BY 1 ORDER BY {order} LIMIT ?3"
    );
    let (from, to) = (query.from.as_millis(), query.to.as_millis());
    let user = query.user.as_ref().map(UserId::as_str);
    let mut statement = db.prepare_cached(&sql)?;
    let lines = statement.query_map(params![from, to, query.most, user], |row| {
        let count = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
        Ok(UsageLine {
            key: row.get(0)?,
            turns: count(1)?,
            estimated_turns: count(2)?,
            side_calls: count(3)?,
            prompt_tokens: count(4)?,
            cached_tokens: count(5)?,
            completion_tokens: count(6)?,
            reasoning_tokens: count(7)?,
            cost: row.get(8)?,
        })
    })?;
    Ok(lines.collect::<Result<_, _>>()?)
}

fn entry(row: &Row<'_>) -> Result<LedgerEntry> {
    let count = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
    Ok(LedgerEntry {
        turn_id: TurnId::trusted(row.get::<_, String>(0)?),
        kind: word(CallKind::from_word, row, 1)?,
        session_id: SessionId::trusted(row.get::<_, String>(2)?),
        owner: UserId::trusted(row.get::<_, String>(3)?),
        project_id: row.get::<_, Option<String>>(4)?.map(ProjectId::trusted),
        payer: UsagePayer {
            user: UserId::trusted(row.get::<_, String>(5)?),
            key: row.get::<_, Option<String>>(6)?.map(KeyId::new_unchecked),
        },
        model: row.get(7)?,
        status: word(Status::from_word, row, 8)?,
        usage: Usage {
            prompt_tokens: count(9)?,
            cached_tokens: count(10)?,
            completion_tokens: count(11)?,
            reasoning_tokens: count(12)?,
            estimated: row.get(13)?,
            ..Usage::default()
        },
        cost: row.get(14)?,
        at: Timestamp::from_millis(row.get(15)?),
    })
}
