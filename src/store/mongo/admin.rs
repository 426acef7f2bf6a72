//! Statistics about users, and deletion of inactive sessions, in MongoDB.

use super::MongoStore;
use super::documents::{to_bson_date, to_timestamp};
use super::transaction::{TransactionMode, transact};
use super::turn_log::with_timeout;
use crate::domain::page::Pagination;
use crate::domain::{SessionId, Timestamp, UserId};
use crate::error::Result;
use crate::store::{AdminStore, DeletionResult, UserStats, UserStatsPage, rules};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{DateTime, doc};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct UserStatsDoc {
    #[serde(rename = "_id")]
    user: String,
    sessions: i64,
    messages: i64,
    active: DateTime,
}

#[derive(Debug, Deserialize)]
struct UserCountDoc {
    total: i64,
}

#[derive(Debug, Deserialize)]
struct IdleSessionDoc {
    #[serde(rename = "_id")]
    id: String,
}

#[async_trait]
impl AdminStore for MongoStore {
    async fn list_user_stats(&self, page: u32, limit: u32) -> Result<UserStatsPage> {
        let one = || doc! { "$toLong": 1 };
        let group = doc! { "$group": {
            "_id": "$userId",
            "sessions": { "$sum": one() },
            "messages": { "$sum": { "$toLong": "$messages" } },
            "active": { "$max": "$activityAt" },
        } };
        let count = vec![
            doc! { "$group": { "_id": "$userId" } },
            doc! { "$group": { "_id": null, "total": { "$sum": one() } } },
        ];
        let skip = i64::from(page - 1) * i64::from(limit);
        let find = vec![
            group,
            doc! { "$sort": { "_id": 1 } },
            doc! { "$skip": skip },
            doc! { "$limit": i64::from(limit) },
        ];
        let sessions = &self.collections.sessions;
        let counted: Vec<UserCountDoc> = with_timeout(async {
            Ok(sessions.aggregate(count).await?.with_type().try_collect().await?)
        })
        .await?;
        let found: Vec<UserStatsDoc> = with_timeout(async {
            Ok(sessions.aggregate(find).await?.with_type().try_collect().await?)
        })
        .await?;
        let owner = |owner: UserStatsDoc| UserStats {
            user: UserId::new_unchecked(owner.user),
            sessions: owner.sessions.unsigned_abs(),
            messages: owner.messages.unsigned_abs(),
            last_active_at: to_timestamp(owner.active),
        };
        let total = counted.first().map_or(0, |count| count.total.unsigned_abs());
        let owners = found.into_iter().map(owner).collect();
        Ok(UserStatsPage { users: owners, pagination: Pagination::new(page, limit, total) })
    }

    async fn count_sessions(&self) -> Result<u64> {
        let count = self.collections.sessions.count_documents(doc! {});
        with_timeout(async { Ok(count.await?) }).await
    }

    async fn list_inactive_sessions(&self, since: Timestamp, limit: u32) -> Result<Vec<SessionId>> {
        let collection = self.collections.sessions.clone_with_type::<IdleSessionDoc>();
        let idle = collection
            .find(doc! { "activityAt": { "$lt": to_bson_date(since) } })
            .projection(doc! { "_id": 1 })
            .limit(i64::from(limit));
        let found: Vec<IdleSessionDoc> =
            with_timeout(async { Ok(idle.await?.try_collect().await?) }).await?;
        Ok(found.into_iter().map(|session| SessionId::new_unchecked(session.id)).collect())
    }

    async fn delete_if_inactive(
        &self,
        id: &SessionId,
        since: Timestamp,
    ) -> Result<Option<DeletionResult>> {
        transact!(self, TransactionMode::MULTI_DOCUMENT, |tx| rules::delete_if_inactive(
            tx, id, since
        )
        .await)
    }
}
