//! Users and inactive sessions in SQLite.

use super::SqliteStore;
use crate::domain::page::Pagination;
use crate::domain::{SessionId, Timestamp, UserId};
use crate::error::Result;
use crate::store::stored_values::to_i64;
use crate::store::{AdminStore, DeletionResult, UserStats, UserStatsPage, rules};
use async_trait::async_trait;
use rusqlite::params;

#[async_trait]
impl AdminStore for SqliteStore {
    async fn list_user_stats(&self, page: u32, limit: u32) -> Result<UserStatsPage> {
        self.run_read(move |db| {
            let sql = "SELECT count(DISTINCT owner) FROM sessions";
            let total: i64 = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
            let sql = "SELECT owner, count(*), sum(messages), max(activity_at) FROM sessions \
                       GROUP BY owner ORDER BY owner LIMIT ?1 OFFSET ?2";
            let mut statement = db.prepare_cached(sql)?;
            let skip = to_i64(u64::from(page - 1) * u64::from(limit));
            let owners = statement.query_map(params![limit, skip], |row| {
                Ok(UserStats {
                    user: UserId::new_unchecked(row.get::<_, String>(0)?),
                    sessions: row.get::<_, i64>(1)?.unsigned_abs(),
                    messages: row.get::<_, i64>(2)?.unsigned_abs(),
                    last_active_at: Timestamp::from_millis(row.get(3)?),
                })
            })?;
            let owners = owners.collect::<Result<_, _>>()?;
            let pagination = Pagination::new(page, limit, total.unsigned_abs());
            Ok(UserStatsPage { users: owners, pagination })
        })
        .await
    }

    async fn count_sessions(&self) -> Result<u64> {
        self.run_read(|db| {
            let sql = "SELECT count(*) FROM sessions";
            let count: i64 = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
            Ok(count.unsigned_abs())
        })
        .await
    }

    async fn list_inactive_sessions(&self, since: Timestamp, limit: u32) -> Result<Vec<SessionId>> {
        self.run_read(move |db| {
            let sql = "SELECT id FROM sessions WHERE activity_at < ?1 LIMIT ?2";
            let mut statement = db.prepare_cached(sql)?;
            let ids = statement
                .query_map(params![since.as_millis(), limit], |row| row.get::<_, String>(0))?;
            ids.map(|id| Ok(SessionId::new_unchecked(id?))).collect()
        })
        .await
    }

    async fn delete_if_inactive(
        &self,
        id: &SessionId,
        since: Timestamp,
    ) -> Result<Option<DeletionResult>> {
        let id = id.clone();
        self.transact(async move |tx| rules::delete_if_inactive(tx, &id, since).await).await
    }
}
