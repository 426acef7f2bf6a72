//! Turns that wait in MongoDB. Which ones, and in which order, is part of their session's document;
//! what they are lies beside it, for a message may be large. A text that no session names means
//! nothing, so it may come before a commit and go behind it.

use super::documents::IdDoc;
use super::transaction::MongoTransaction;
use crate::domain::{SessionId, TurnId};
use crate::error::Result;
use crate::store::queued_turn::QueuedTurn;
use mongodb::bson::doc;
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Debug, Deserialize)]
struct QueuedTurnDoc {
    #[serde(rename = "_id")]
    id: String,
    turn: String,
}

impl MongoTransaction {
    /// Those of the session, the next one first.
    pub(super) async fn load_queued_turns(&mut self) -> Result<Vec<QueuedTurn>> {
        let turns = self.queued_turn_ids();
        if turns.is_empty() {
            return Ok(Vec::new());
        }
        let queue = self.collections.queue.clone();
        let pipeline = vec![doc! { "$match": { "_id": { "$in": &turns } } }];
        let found: Vec<QueuedTurnDoc> = self.run_pipeline(&queue, pipeline).await?;
        let mut texts: HashMap<_, _> =
            found.into_iter().map(|waiting| (waiting.id, waiting.turn)).collect();
        let waiting = turns.iter().filter_map(|turn| {
            let read = QueuedTurn::from_json(&texts.remove(turn)?);
            // It must not keep the session from everything else.
            read.inspect_err(|error| tracing::error!(%error, "a waiting turn cannot be read")).ok()
        });
        Ok(waiting.collect())
    }

    /// Puts a turn behind the others, or before them.
    pub(super) async fn stage_queued_turn(
        &mut self,
        session: &SessionId,
        waiting: &QueuedTurn,
        before_all: bool,
    ) -> Result<()> {
        let turn = waiting.turn.turn_id.as_str();
        let queue = self.collections.queue.clone();
        let text = doc! { "sessionId": session.as_str(), "turn": waiting.to_json()? };
        let written = queue
            .replace_one(doc! { "_id": turn }, text)
            .upsert(true)
            .session(&mut self.client_session)
            .await;
        self.check_result(written)?;
        let mut turns = self.queued_turn_ids();
        turns.insert(if before_all { 0 } else { turns.len() }, turn.to_owned());
        self.set_fields(doc! { "queue": turns });
        Ok(())
    }

    /// Drops one that waits. Whether it still did.
    pub(super) fn unstage_queued_turn(&mut self, turn: &TurnId) -> bool {
        let mut turns = self.queued_turn_ids();
        let Some(place) = turns.iter().position(|waiting| waiting == turn.as_str()) else {
            return false;
        };
        self.dequeued_turns.push(turns.remove(place));
        match turns.is_empty() {
            true => self.unset_field("queue"),
            false => self.set_fields(doc! { "queue": turns }),
        }
        true
    }

    /// A session in which turns wait and none runs.
    pub(super) async fn find_idle_session(&mut self) -> Result<Option<SessionId>> {
        self.commit_session().await?;
        let sessions = self.collections.sessions.clone();
        let filter = doc! { "queue": { "$exists": true }, "activeTurn": null };
        let found: Option<IdDoc> =
            self.find_one(&sessions, filter, Some(doc! { "_id": 1 })).await?;
        Ok(found.map(|session| SessionId::new_unchecked(session.id)))
    }
}
