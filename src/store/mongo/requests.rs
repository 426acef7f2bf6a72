//! Requests that may be repeated, in MongoDB: a note each, written just before the commit that it
//! belongs to and confirmed right behind it. An unconfirmed note of which nothing can be found means
//! nothing; while it is fresh, its commit may still come.

use super::documents::{SessionDoc, date};
use super::paths::Named;
use super::step::Step;
use crate::domain::{MessageId, Principal, SessionId, Timestamp, TurnId};
use crate::error::Result;
use crate::store::IdempotencyKey;
use crate::store::work::KnownRequest;
use mongodb::bson::{DateTime, Document, doc};
use serde::Deserialize;
use std::time::Duration;

/// How long a commit may come behind its note.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// A request and what it led to.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestDoc {
    fingerprint: String,
    session_id: String,
    message_id: String,
    turn_id: Option<String>,
    created_at: DateTime,
    noted_at: DateTime,
    /// Whether its commit took place.
    #[serde(default)]
    is_confirmed: bool,
}

/// The name of a request: no user, route or key can look like two others.
fn name(who: &Principal, key: &IdempotencyKey) -> Document {
    doc! { "user": who.user.as_str(), "route": key.route, "key": &key.key }
}

impl Step {
    pub(super) async fn find_request(
        &mut self,
        who: &Principal,
        key: &IdempotencyKey,
        since: Timestamp,
    ) -> Result<Option<KnownRequest>> {
        let keys = self.tables.idempotency_keys.clone();
        let found: Option<RequestDoc> =
            self.one(&keys, doc! { "_id": name(who, key) }, None).await?;
        let Some(request) = found else { return Ok(None) };
        // The same look at time as in every store, however lazily old notes go; and what an earlier
        // try of this very step has noted says nothing new.
        if request.created_at <= date(since) || self.noted.contains_key(&request.message_id) {
            self.past_note = Some(request.message_id);
            return Ok(None);
        }
        if !request.is_confirmed && !self.took_effect(&request).await? {
            let age = DateTime::now().timestamp_millis() - request.noted_at.timestamp_millis();
            if age > ON_ITS_WAY.as_millis() as i64 {
                self.past_note = Some(request.message_id);
                return Ok(None);
            }
            return Err(self.overtaken());
        }
        // Should nothing be left of what it led to, a new note takes its place.
        self.past_note = Some(request.message_id.clone());
        Ok(Some(KnownRequest {
            fingerprint: request.fingerprint,
            session: SessionId::trusted(request.session_id),
            message_id: MessageId::trusted(request.message_id),
            turn_id: request.turn_id.map(TurnId::trusted),
        }))
    }

    /// Whether anything of what the request led to is there.
    async fn took_effect(&mut self, request: &RequestDoc) -> Result<bool> {
        let sessions = self.tables.sessions.clone();
        let filter = doc! { "_id": &request.session_id };
        let session: Option<SessionDoc> = self.one(&sessions, filter, None).await?;
        let Some(session) = session else { return Ok(false) };
        let running = session.active_turn.as_ref().map(|claim| &claim.turn_id);
        let turn = request.turn_id.as_ref();
        if turn.is_some()
            && (running == turn || turn.is_some_and(|turn| session.queue.contains(turn)))
        {
            return Ok(true);
        }
        let session = SessionId::trusted(request.session_id.as_str());
        let message = MessageId::trusted(request.message_id.as_str());
        self.find_session(&session).await?;
        Ok(!self.named(&session, &message, Named::ById).await?.is_empty())
    }

    /// Notes a request. Two that come at once meet here: the note of the first stays, and the other
    /// one looks again.
    pub(super) async fn note_request(
        &mut self,
        who: &Principal,
        key: &IdempotencyKey,
        known: &KnownRequest,
        now: Timestamp,
    ) -> Result<()> {
        let keys = self.tables.idempotency_keys.clone();
        let mut request = doc! {
            "fingerprint": &known.fingerprint,
            "sessionId": known.session.as_str(),
            "messageId": known.message_id.as_str(),
            "turnId": known.turn_id.as_ref().map(|turn| turn.as_str()),
            "createdAt": date(now),
            "notedAt": DateTime::now(),
        };
        let note = doc! { "_id": name(who, key), "messageId": known.message_id.as_str() };
        self.noted.insert(known.message_id.to_string(), note.clone());
        self.unconfirmed = Some(note);
        if let Some(message) = self.past_note.take() {
            let past = doc! { "_id": name(who, key), "messageId": message };
            let replaced = keys.replace_one(past, request).session(&mut self.session).await;
            return match self.check(replaced)?.matched_count {
                1 => Ok(()),
                _ => Err(self.overtaken()),
            };
        }
        request.insert("_id", name(who, key));
        let inserted = keys.insert_one(request).session(&mut self.session).await;
        self.check(inserted).map(|_| ())
    }

    /// Takes back what earlier tries of this step have noted: it was refused.
    pub(super) async fn withdraw_notes(&mut self) {
        let keys = self.tables.idempotency_keys.clone();
        for (_, mut own) in self.noted.drain() {
            own.insert("isConfirmed", doc! { "$ne": true });
            // One that stays means nothing after a while.
            let _ = keys.delete_one(own).await;
        }
    }
}
