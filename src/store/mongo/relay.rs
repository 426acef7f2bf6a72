//! Turns that other instances run, followed and stopped through MongoDB.

use super::MongoStore;
use super::documents::IdDoc;
use super::log::{BatchDoc, in_time};
use super::nodes::carry_out;
use crate::domain::TurnId;
use crate::error::Result;
use crate::store::{Followed, FollowedState, News, RelayStore};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use std::collections::HashSet;

/// The turns of a session that are not over, and what its last commit may still have to do.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpenDoc {
    active_turn: Option<RunningDoc>,
    #[serde(default)]
    queue: Vec<String>,
    pending: Option<Document>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunningDoc {
    turn_id: String,
}

#[async_trait]
impl RelayStore for MongoStore {
    fn is_shared(&self) -> bool {
        true
    }

    async fn ask_stop(&self, turn: &TurnId) -> Result<()> {
        let asked = vec![doc! { "$set": { "askedAt": "$$NOW" } }];
        in_time(async {
            self.tables.stops.update_one(doc! { "_id": turn.as_str() }, asked).upsert(true).await?;
            Ok(())
        })
        .await
    }

    async fn asked_stops(&self) -> Result<Vec<TurnId>> {
        let stops = self.tables.stops.clone_with_type::<IdDoc>();
        let asked: Vec<_> =
            in_time(async { Ok(stops.find(doc! {}).await?.try_collect().await?) }).await?;
        Ok(asked.into_iter().map(|stop| TurnId::trusted(stop.id)).collect())
    }

    async fn forget_stops(&self, turns: &[TurnId]) -> Result<()> {
        let turns: Vec<_> = turns.iter().map(TurnId::as_str).collect();
        in_time(async {
            self.tables.stops.delete_many(doc! { "_id": { "$in": turns } }).await?;
            Ok(())
        })
        .await
    }

    async fn follow(&self, turns: Vec<Followed>) -> Result<Vec<News>> {
        // First who runs, then the log: the end of a log comes no later than the end of its turn.
        let open = in_time(self.still_open(&turns)).await?;
        let mut batches = in_time(self.batches_behind(&turns)).await?;
        let news = turns.into_iter().map(|followed| {
            let turn = followed.turn_id.as_str();
            let (own, others): (Vec<_>, Vec<_>) =
                std::mem::take(&mut batches).into_iter().partition(|batch| batch.turn_id == turn);
            batches = others;
            let has_ended = own.iter().any(|batch| batch.ended_at.is_some());
            let state = match open.contains(turn) {
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
    /// Which of these turns run, or wait to.
    async fn still_open(&self, turns: &[Followed]) -> Result<HashSet<String>> {
        let ids: Vec<_> = turns.iter().map(|followed| followed.session_id.as_str()).collect();
        let found: Vec<OpenDoc> = self
            .tables
            .sessions
            .clone_with_type()
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "activeTurn.turnId": 1, "queue": 1, "pending": 1 })
            .await?
            .try_collect()
            .await?;
        let mut open = HashSet::new();
        for session in found {
            if let Some(pending) = session.pending {
                carry_out(&self.tables, &pending, None).await?;
            }
            open.extend(session.queue);
            open.extend(session.active_turn.map(|claim| claim.turn_id));
        }
        Ok(open)
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
