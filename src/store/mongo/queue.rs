//! Queued turns in MongoDB.
//!
//! The session's document holds their ids in order. Their content is in documents of the collection
//! `queue`, because a message may be large. Content without an id in a session's document is
//! ignored, so it may be written before the commit and deleted after it.

use super::documents::{IdDoc, to_bson_date};
use super::errors::MAX_DOCUMENT_BYTES;
use super::transaction::MongoTransaction;
use crate::domain::key::KeyId;
use crate::domain::{SessionId, Timestamp, TurnId};
use crate::error::{Error, Result};
use crate::store::queued_turn::QueuedTurn;
use crate::store::transaction::{QueueTransaction, SessionRow};
use mongodb::bson::doc;
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Debug, Deserialize)]
struct QueuedTurnDoc {
    #[serde(rename = "_id")]
    id: String,
    turn: String,
}

impl QueueTransaction for MongoTransaction {
    async fn queued_turns(&mut self, _row: &SessionRow) -> Result<Vec<QueuedTurn>> {
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

    async fn enqueue(
        &mut self,
        row: &SessionRow,
        queued: &QueuedTurn,
        at_front: bool,
    ) -> Result<()> {
        let turn = queued.turn.turn_id.as_str();
        let queue = self.collections.queue.clone();
        // Written before the commit, so that no session names a turn without content. An upsert,
        // because a retry writes the same document again.
        let text = queued.to_json()?;
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(Error::too_large("a queued message with its tools", MAX_DOCUMENT_BYTES));
        }
        let mut text = doc! { "sessionId": row.session.id.as_str(), "turn": text };
        text.insert("born", self.loaded.as_ref().map(|session| session.created_revision));
        let written = queue
            .replace_one(doc! { "_id": turn }, text)
            .upsert(true)
            .session(&mut self.client_session)
            .await;
        self.check_result(written)?;
        let mut turns = self.queued_turn_ids();
        turns.insert(if at_front { 0 } else { turns.len() }, turn.to_owned());
        self.set_fields(doc! { "queue": turns });
        Ok(())
    }

    async fn dequeue(&mut self, _row: &SessionRow, turn: &TurnId) -> Result<bool> {
        let mut turns = self.queued_turn_ids();
        let Some(position) = turns.iter().position(|queued| queued == turn.as_str()) else {
            return Ok(false);
        };
        self.dequeued_turns.push(turns.remove(position));
        match turns.is_empty() {
            true => self.unset_field("queue"),
            false => self.set_fields(doc! { "queue": turns }),
        }
        Ok(true)
    }

    async fn find_startable_session(&mut self) -> Result<Option<SessionId>> {
        self.commit_session().await?;
        let sessions = self.collections.sessions.clone();
        let filter = doc! { "queue": { "$exists": true }, "activeTurn": null };
        let found: Option<IdDoc> =
            self.find_one(&sessions, filter, Some(doc! { "_id": 1 })).await?;
        Ok(found.map(|session| SessionId::new_unchecked(session.id)))
    }

    async fn is_key_valid(&mut self, key: &KeyId, now: Timestamp) -> Result<bool> {
        let keys = self.collections.keys.clone();
        let is_unexpired =
            vec![doc! { "expiresAt": null }, doc! { "expiresAt": { "$gt": to_bson_date(now) } }];
        let filter = doc! { "_id": key.as_str(), "$or": is_unexpired };
        let found: Option<IdDoc> = self.find_one(&keys, filter, Some(doc! { "_id": 1 })).await?;
        Ok(found.is_some())
    }
}
