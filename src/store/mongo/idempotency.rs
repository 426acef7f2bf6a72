//! Requests that may be repeated, in MongoDB: a note each, written just before the commit that it
//! belongs to and confirmed right behind it. An unconfirmed note of which nothing can be found means
//! nothing; while it is fresh, its commit may still come.

use super::documents::{SessionDoc, to_bson_date};
use super::paths::NameLookup;
use super::transaction::MongoTransaction;
use crate::domain::{MessageId, Principal, SessionId, Timestamp, TurnId};
use crate::error::Result;
use crate::store::IdempotencyKey;
use crate::store::transaction::PriorRequest;
use mongodb::bson::{DateTime, Document, doc};
use serde::Deserialize;
use std::time::Duration;

/// How long a commit may come behind its note.
const COMMIT_GRACE: Duration = Duration::from_secs(10);

/// A request and what it led to.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdempotencyDoc {
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
fn request_key(who: &Principal, key: &IdempotencyKey) -> Document {
    doc! { "user": who.user.as_str(), "route": key.route, "key": &key.key }
}

impl MongoTransaction {
    pub(super) async fn load_request(
        &mut self,
        who: &Principal,
        key: &IdempotencyKey,
        since: Timestamp,
    ) -> Result<Option<PriorRequest>> {
        let keys = self.collections.idempotency_keys.clone();
        let found: Option<IdempotencyDoc> =
            self.find_one(&keys, doc! { "_id": request_key(who, key) }, None).await?;
        let Some(request) = found else { return Ok(None) };
        // The same look at time as in every store, however lazily old notes go; and what an earlier
        // try of this very step has noted says nothing new.
        if request.created_at <= to_bson_date(since)
            || self.written_requests.contains_key(&request.message_id)
        {
            self.stale_request = Some(request.message_id);
            return Ok(None);
        }
        if !request.is_confirmed && !self.has_taken_effect(&request).await? {
            let age = DateTime::now().timestamp_millis() - request.noted_at.timestamp_millis();
            if age > COMMIT_GRACE.as_millis() as i64 {
                self.stale_request = Some(request.message_id);
                return Ok(None);
            }
            return Err(self.record_conflict());
        }
        // Should nothing be left of what it led to, a new note takes its place.
        self.stale_request = Some(request.message_id.clone());
        Ok(Some(PriorRequest {
            fingerprint: request.fingerprint,
            session_id: SessionId::new_unchecked(request.session_id),
            message_id: MessageId::new_unchecked(request.message_id),
            turn_id: request.turn_id.map(TurnId::new_unchecked),
        }))
    }

    /// Whether anything of what the request led to is there.
    async fn has_taken_effect(&mut self, request: &IdempotencyDoc) -> Result<bool> {
        let sessions = self.collections.sessions.clone();
        let filter = doc! { "_id": &request.session_id };
        let session: Option<SessionDoc> = self.find_one(&sessions, filter, None).await?;
        let Some(session) = session else { return Ok(false) };
        let running = session.active_turn.as_ref().map(|claim| &claim.turn_id);
        let turn = request.turn_id.as_ref();
        if turn.is_some()
            && (running == turn || turn.is_some_and(|turn| session.queue.contains(turn)))
        {
            return Ok(true);
        }
        let session = SessionId::new_unchecked(request.session_id.as_str());
        let message = MessageId::new_unchecked(request.message_id.as_str());
        self.load_session(&session).await?;
        Ok(!self.find_messages_by_name(&session, &message, NameLookup::IdOnly).await?.is_empty())
    }

    /// Notes a request. Two that come at once meet here: the note of the first stays, and the other
    /// one looks again.
    pub(super) async fn write_request(
        &mut self,
        who: &Principal,
        key: &IdempotencyKey,
        known: &PriorRequest,
        now: Timestamp,
    ) -> Result<()> {
        let keys = self.collections.idempotency_keys.clone();
        let mut request = doc! {
            "fingerprint": &known.fingerprint,
            "sessionId": known.session_id.as_str(),
            "messageId": known.message_id.as_str(),
            "turnId": known.turn_id.as_ref().map(|turn| turn.as_str()),
            "createdAt": to_bson_date(now),
            "notedAt": DateTime::now(),
        };
        let note = doc! { "_id": request_key(who, key), "messageId": known.message_id.as_str() };
        self.written_requests.insert(known.message_id.to_string(), note.clone());
        self.unconfirmed_request = Some(note);
        if let Some(message) = self.stale_request.take() {
            let past = doc! { "_id": request_key(who, key), "messageId": message };
            let replaced = keys.replace_one(past, request).session(&mut self.client_session).await;
            return match self.check_result(replaced)?.matched_count {
                1 => Ok(()),
                _ => Err(self.record_conflict()),
            };
        }
        request.insert("_id", request_key(who, key));
        let inserted = keys.insert_one(request).session(&mut self.client_session).await;
        self.check_result(inserted).map(|_| ())
    }

    /// Takes back what earlier tries of this step have noted: it was refused.
    pub(super) async fn delete_written_requests(&mut self) {
        let keys = self.collections.idempotency_keys.clone();
        for (_, mut own) in self.written_requests.drain() {
            own.insert("isConfirmed", doc! { "$ne": true });
            // One that stays means nothing after a while.
            let _ = keys.delete_one(own).await;
        }
    }
}
