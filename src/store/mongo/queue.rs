//! Queued turns in MongoDB.
//!
//! The session's document holds their ids in order. Their content is in documents of the collection
//! `queue`, because a message may be large. Content without an id in a session's document is
//! ignored, so it may be written before the commit and deleted after it.

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
    /// The queued turns of the loaded session, next one first.
    pub(super) async fn load_queued_turns(&mut self) -> Result<Vec<QueuedTurn>> {
        let turns = self.queued_turn_ids();
        if turns.is_empty() {
            return Ok(Vec::new());
        }
        let queue = self.collections.queue.clone();
        let pipeline = vec![doc! { "$match": { "_id": { "$in": &turns } } }];
        let found: Vec<QueuedTurnDoc> = self.run_pipeline(&queue, pipeline).await?;
        let mut texts: HashMap<_, _> =
            found.into_iter().map(|queued| (queued.id, queued.turn)).collect();
        let texts = turns.iter().filter_map(|turn| texts.remove(turn));
        Ok(texts.filter_map(|text| QueuedTurn::decode_or_skip(&text)).collect())
    }

    /// Adds a turn at the end of the queue or, with `first`, at its beginning.
    pub(super) async fn stage_queued_turn(
        &mut self,
        session: &SessionId,
        queued: &QueuedTurn,
        first: bool,
    ) -> Result<()> {
        let turn = queued.turn.turn_id.as_str();
        let queue = self.collections.queue.clone();
        // Written before the commit, so that no session names a turn without content. An upsert,
        // because a retry writes the same document again.
        let text = doc! { "sessionId": session.as_str(), "turn": queued.to_json()? };
        let written = queue
            .replace_one(doc! { "_id": turn }, text)
            .upsert(true)
            .session(&mut self.client_session)
            .await;
        self.check_result(written)?;
        let mut turns = self.queued_turn_ids();
        turns.insert(if first { 0 } else { turns.len() }, turn.to_owned());
        self.set_fields(doc! { "queue": turns });
        Ok(())
    }

    /// Removes a turn from the queue. Returns whether it was queued.
    pub(super) fn unstage_queued_turn(&mut self, turn: &TurnId) -> bool {
        let mut turns = self.queued_turn_ids();
        let Some(position) = turns.iter().position(|queued| queued == turn.as_str()) else {
            return false;
        };
        self.dequeued_turns.push(turns.remove(position));
        match turns.is_empty() {
            true => self.unset_field("queue"),
            false => self.set_fields(doc! { "queue": turns }),
        }
        true
    }

    /// Finds a session with queued turns and no running turn.
    pub(super) async fn find_idle_session(&mut self) -> Result<Option<SessionId>> {
        self.commit_session().await?;
        let sessions = self.collections.sessions.clone();
        let filter = doc! { "queue": { "$exists": true }, "activeTurn": null };
        let found: Option<IdDoc> =
            self.find_one(&sessions, filter, Some(doc! { "_id": 1 })).await?;
        Ok(found.map(|session| SessionId::new_unchecked(session.id)))
    }
}
