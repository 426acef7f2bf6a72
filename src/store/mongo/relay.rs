//! Turns that other instances run, followed and stopped through MongoDB.

use super::MongoStore;
use super::log::BatchDoc;
use crate::domain::TurnId;
use crate::error::Result;
use crate::store::{Followed, FollowedState, News, RelayStore};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use std::collections::HashSet;

#[derive(Debug, Deserialize)]
struct IdDoc {
    #[serde(rename = "_id")]
    id: String,
}

#[async_trait]
impl RelayStore for MongoStore {
    fn is_shared(&self) -> bool {
        true
    }

    async fn ask_stop(&self, turn: &TurnId) -> Result<()> {
        let asked = vec![doc! { "$set": { "askedAt": "$$NOW" } }];
        self.tables.stops.update_one(doc! { "_id": turn.as_str() }, asked).upsert(true).await?;
        Ok(())
    }

    async fn asked_stops(&self) -> Result<Vec<TurnId>> {
        let stops = self.tables.stops.clone_with_type::<IdDoc>();
        let asked: Vec<_> = stops.find(doc! {}).await?.try_collect().await?;
        Ok(asked.into_iter().map(|stop| TurnId::trusted(stop.id)).collect())
    }

    async fn forget_stops(&self, turns: &[TurnId]) -> Result<()> {
        let turns: Vec<_> = turns.iter().map(TurnId::as_str).collect();
        self.tables.stops.delete_many(doc! { "_id": { "$in": turns } }).await?;
        Ok(())
    }

    async fn follow(&self, turns: Vec<Followed>) -> Result<Vec<News>> {
        // In the order in which a turn leaves these: it cannot slip through between two questions.
        let waiting = self.waiting(&turns).await?;
        let running = self.running(&turns).await?;
        let mut batches = self.batches_behind(&turns).await?;
        let news = turns.into_iter().map(|followed| {
            let turn = followed.turn_id.as_str();
            let (own, others): (Vec<_>, Vec<_>) =
                std::mem::take(&mut batches).into_iter().partition(|batch| batch.turn_id == turn);
            batches = others;
            let has_ended = own.iter().any(|batch| batch.ended_at.is_some());
            let state = match waiting.contains(turn) || running.contains(turn) {
                _ if has_ended => FollowedState::Ended,
                true => FollowedState::Open,
                false => FollowedState::Gone,
            };
            let next_batch = own.last().map_or(followed.next_batch, BatchDoc::next);
            let batches = own.into_iter().map(BatchDoc::frames).collect();
            News { turn_id: followed.turn_id, batches, next_batch, state }
        });
        Ok(news.collect())
    }
}

impl MongoStore {
    async fn waiting(&self, turns: &[Followed]) -> Result<HashSet<String>> {
        let ids: Vec<_> = turns.iter().map(|followed| followed.turn_id.as_str()).collect();
        let queue = self.tables.queue.clone_with_type::<IdDoc>();
        let found = queue.find(doc! { "_id": { "$in": ids } }).projection(doc! { "_id": 1 });
        let found: Vec<_> = found.await?.try_collect().await?;
        Ok(found.into_iter().map(|waiting| waiting.id).collect())
    }

    async fn running(&self, turns: &[Followed]) -> Result<HashSet<String>> {
        let ids: Vec<_> = turns.iter().map(|followed| followed.session_id.as_str()).collect();
        let sessions: Vec<Document> = self
            .tables
            .sessions
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "activeTurn.turnId": 1 })
            .await?
            .try_collect()
            .await?;
        let turn = |session: &Document| {
            let claim = session.get_document("activeTurn").ok()?;
            claim.get_str("turnId").ok().map(str::to_owned)
        };
        Ok(sessions.iter().filter_map(turn).collect())
    }

    /// The batches that were not read, in order.
    async fn batches_behind(&self, turns: &[Followed]) -> Result<Vec<BatchDoc>> {
        let behind = turns.iter().map(|followed| {
            doc! {
                "turnId": followed.turn_id.as_str(),
                "batch": { "$gte": i64::from(followed.next_batch) },
            }
        });
        let log = self.tables.turn_log.clone_with_type();
        let found = log.find(doc! { "$or": behind.collect::<Vec<_>>() });
        Ok(found.sort(doc! { "turnId": 1, "batch": 1 }).await?.try_collect().await?)
    }
}
