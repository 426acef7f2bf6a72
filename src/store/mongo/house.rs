//! House-keeping in MongoDB.

use super::MongoStore;
use super::documents::{date, time};
use super::log::in_time;
use super::step::{Manner, step};
use crate::domain::page::Pagination;
use crate::domain::{SessionId, Timestamp, UserId};
use crate::error::Result;
use crate::store::{Deleted, HouseStore, Owner, OwnerPage, rules};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{DateTime, doc};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct OwnerDoc {
    #[serde(rename = "_id")]
    user: String,
    sessions: i64,
    messages: i64,
    active: DateTime,
}

#[derive(Debug, Deserialize)]
struct CountDoc {
    total: i64,
}

#[derive(Debug, Deserialize)]
struct IdDoc {
    #[serde(rename = "_id")]
    id: String,
}

#[async_trait]
impl HouseStore for MongoStore {
    async fn owners(&self, page: u32, limit: u32) -> Result<OwnerPage> {
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
        let sessions = &self.tables.sessions;
        let counted: Vec<CountDoc> = in_time(async {
            Ok(sessions.aggregate(count).await?.with_type().try_collect().await?)
        })
        .await?;
        let found: Vec<OwnerDoc> =
            in_time(async { Ok(sessions.aggregate(find).await?.with_type().try_collect().await?) })
                .await?;
        let owner = |owner: OwnerDoc| Owner {
            user: UserId::trusted(owner.user),
            sessions: owner.sessions.unsigned_abs(),
            messages: owner.messages.unsigned_abs(),
            last_active_at: time(owner.active),
        };
        let total = counted.first().map_or(0, |count| count.total.unsigned_abs());
        let owners = found.into_iter().map(owner).collect();
        Ok(OwnerPage { owners, pagination: Pagination::new(page, limit, total) })
    }

    async fn idle_sessions(&self, since: Timestamp, most: u32) -> Result<Vec<SessionId>> {
        let table = self.tables.sessions.clone_with_type::<IdDoc>();
        let idle = table
            .find(doc! { "activityAt": { "$lt": date(since) } })
            .projection(doc! { "_id": 1 })
            .limit(i64::from(most));
        let found: Vec<IdDoc> = in_time(async { Ok(idle.await?.try_collect().await?) }).await?;
        Ok(found.into_iter().map(|session| SessionId::trusted(session.id)).collect())
    }

    async fn delete_idle(&self, id: &SessionId, since: Timestamp) -> Result<Option<Deleted>> {
        step!(self, Manner::LONG_STEP, |step| rules::delete_idle(step, id, since).await)
    }
}
