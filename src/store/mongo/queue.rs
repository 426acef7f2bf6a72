//! Turns that wait in MongoDB: a document each. Their session's document counts them, so that a
//! session without any costs no question, and so that two steps on one queue meet.

use super::step::Step;
use crate::domain::{SessionId, TurnId};
use crate::error::Result;
use crate::store::queued::Waiting;
use mongodb::bson::doc;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct WaitingDoc {
    position: i64,
    turn: String,
}

#[derive(Debug, Deserialize)]
struct IdDoc {
    #[serde(rename = "_id")]
    id: String,
}

impl Step {
    /// Those of a session, the next one first.
    pub(super) async fn queued(&mut self, session: &SessionId) -> Result<Vec<Waiting>> {
        if self.waiting.as_ref().is_some_and(|(known, count)| known == session && *count == 0) {
            return Ok(Vec::new());
        }
        let waiting = self.queue_of(session).await?.into_iter().filter_map(|waiting| {
            let read = Waiting::from_json(&waiting.turn);
            // It must not keep the session from everything else.
            read.inspect_err(|error| tracing::error!(%error, "a waiting turn cannot be read")).ok()
        });
        Ok(waiting.collect())
    }

    async fn queue_of(&mut self, session: &SessionId) -> Result<Vec<WaitingDoc>> {
        let queue = self.tables.queue.clone();
        let pipeline = vec![
            doc! { "$match": { "sessionId": session.as_str() } },
            doc! { "$sort": { "position": 1 } },
        ];
        self.all(&queue, pipeline).await
    }

    /// Puts a turn behind the others, or before them.
    pub(super) async fn enqueue(
        &mut self,
        session: &SessionId,
        waiting: &Waiting,
        before_all: bool,
    ) -> Result<()> {
        let others = self.queue_of(session).await?;
        let (first, last) = match (others.first(), others.last()) {
            (Some(first), Some(last)) => (first.position, last.position),
            _ => (0, 0),
        };
        let position = if before_all { first - 1 } else { last + 1 };
        let queue = self.tables.queue.clone();
        let document = doc! {
            "_id": waiting.turn.turn_id.as_str(),
            "sessionId": session.as_str(),
            "position": position,
            "replyId": waiting.turn.reply_id.as_str(),
            "turn": waiting.to_json()?,
        };
        self.insert(&queue, document).await?;
        self.count_waiting(session, others.len() as i64 + 1).await
    }

    /// Drops one that waits. Whether it still did.
    pub(super) async fn dequeue(&mut self, session: &SessionId, turn: &TurnId) -> Result<bool> {
        let queue = self.tables.queue.clone();
        let filter = doc! { "_id": turn.as_str(), "sessionId": session.as_str() };
        if self.delete(&queue, filter).await? == 0 {
            return Ok(false);
        }
        let left = self.queue_of(session).await?.len();
        self.count_waiting(session, left as i64).await?;
        Ok(true)
    }

    async fn count_waiting(&mut self, session: &SessionId, count: i64) -> Result<()> {
        self.waiting = Some((session.clone(), count));
        match count {
            0 => self.unset(session.as_str(), "waiting").await,
            _ => self.set(session.as_str(), doc! { "waiting": count }).await,
        }
    }

    /// A session in which turns wait and none runs.
    pub(super) async fn idle(&mut self) -> Result<Option<SessionId>> {
        self.flush().await?;
        let sessions = self.tables.sessions.clone();
        let filter = doc! { "waiting": { "$gt": 0_i64 }, "activeTurn": null };
        let found: Option<IdDoc> = self.one(&sessions, filter, Some(doc! { "_id": 1 })).await?;
        Ok(found.map(|session| SessionId::trusted(session.id)))
    }
}
