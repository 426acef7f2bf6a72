//! Turns of other instances: reading their progress and cancelling them, through MongoDB.

use super::MongoStore;
use super::documents::IdDoc;
use super::pending_writes::apply_pending;
use super::turn_log::{LogBatchDoc, with_timeout};
use crate::domain::TurnId;
use crate::error::Result;
use crate::store::{LogUpdate, RelayStore, RemoteTurn, RemoteTurnState};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use std::collections::HashSet;

/// The turns of a session that have not ended, and the unapplied rest of its last commit.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpenTurnsDoc {
    active_turn: Option<RunningTurnDoc>,
    #[serde(default)]
    queue: Vec<String>,
    pending: Option<Document>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunningTurnDoc {
    turn_id: String,
}

#[async_trait]
impl RelayStore for MongoStore {
    fn is_shared(&self) -> bool {
        true
    }

    async fn request_cancellation(&self, turn: &TurnId) -> Result<()> {
        let requested = vec![doc! { "$set": { "askedAt": "$$NOW" } }];
        with_timeout(async {
            self.collections
                .stops
                .update_one(doc! { "_id": turn.as_str() }, requested)
                .upsert(true)
                .await?;
            Ok(())
        })
        .await
    }

    async fn list_cancellations(&self) -> Result<Vec<TurnId>> {
        let stops = self.collections.stops.clone_with_type::<IdDoc>();
        let found: Vec<_> =
            with_timeout(async { Ok(stops.find(doc! {}).await?.try_collect().await?) }).await?;
        Ok(found.into_iter().map(|stop| TurnId::new_unchecked(stop.id)).collect())
    }

    async fn delete_cancellations(&self, turns: &[TurnId]) -> Result<()> {
        let turns: Vec<_> = turns.iter().map(TurnId::as_str).collect();
        with_timeout(async {
            self.collections.stops.delete_many(doc! { "_id": { "$in": turns } }).await?;
            Ok(())
        })
        .await
    }

    async fn poll_remote_turns(&self, turns: Vec<RemoteTurn>) -> Result<Vec<LogUpdate>> {
        // The order matters: the last batch of a log is written no later than its turn ends. A turn
        // that is gone in the first read has its complete log in the second.
        let open = with_timeout(self.find_open_turns(&turns)).await?;
        let mut batches = with_timeout(self.read_new_batches(&turns)).await?;
        let news = turns.into_iter().map(|followed| {
            let turn = followed.turn_id.as_str();
            let (own, rest): (Vec<_>, Vec<_>) =
                std::mem::take(&mut batches).into_iter().partition(|batch| batch.turn_id == turn);
            batches = rest;
            let has_ended = own.iter().any(|batch| batch.ended_at.is_some());
            let state = match open.contains(turn) {
                _ if has_ended => RemoteTurnState::Ended,
                true => RemoteTurnState::Open,
                false => RemoteTurnState::Gone,
            };
            let next_batch = own.last().map_or(followed.next_batch, LogBatchDoc::next_number);
            let batches = own.into_iter().map(LogBatchDoc::into_frames).collect();
            LogUpdate { turn_id: followed.turn_id, batches, next_batch, state }
        });
        Ok(news.collect())
    }
}

impl MongoStore {
    /// Ids of all turns that are running or queued in the sessions of these turns.
    async fn find_open_turns(&self, turns: &[RemoteTurn]) -> Result<HashSet<String>> {
        let ids: Vec<_> = turns.iter().map(|followed| followed.session_id.as_str()).collect();
        let found: Vec<OpenTurnsDoc> = self
            .collections
            .sessions
            .clone_with_type()
            .find(doc! { "_id": { "$in": ids } })
            .projection(doc! { "activeTurn.turnId": 1, "queue": 1, "pending": 1 })
            .await?
            .try_collect()
            .await?;
        let mut open = HashSet::new();
        for session in found {
            // The end of a log may still be pending. Apply it, or a turn would seem to be gone
            // without an end.
            if let Some(pending) = session.pending {
                apply_pending(&self.collections, &pending, None).await?;
            }
            open.extend(session.queue);
            open.extend(session.active_turn.map(|claim| claim.turn_id));
        }
        Ok(open)
    }

    /// Batches that have not been read yet, in order.
    async fn read_new_batches(&self, turns: &[RemoteTurn]) -> Result<Vec<LogBatchDoc>> {
        let unread = turns.iter().map(|followed| {
            doc! {
                "turnId": followed.turn_id.as_str(),
                "batch": { "$gte": i64::from(followed.next_batch) },
            }
        });
        let log = self.collections.turn_log.clone_with_type();
        let found = log.find(doc! { "$or": unread.collect::<Vec<_>>() });
        Ok(found.sort(doc! { "turnId": 1, "batch": 1 }).await?.try_collect().await?)
    }
}
