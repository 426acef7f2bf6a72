//! Records of idempotent requests in MongoDB.
//!
//! A record cannot be part of the session's document, so it is written right before the commit and
//! confirmed right after it. An unconfirmed record counts if the message or turn that it names
//! exists. If not, the commit may still be on its way while the record is fresh; after that it is
//! void.

use super::documents::{SessionDoc, to_bson_date};
use super::paths::NameLookup;
use super::transaction::MongoTransaction;
use crate::domain::{MessageId, Principal, SessionId, Timestamp, TurnId};
use crate::error::Result;
use crate::store::IdempotencyKey;
use crate::store::transaction::{PriorRequest, RequestTransaction};
use mongodb::bson::{DateTime, Document, doc};
use serde::Deserialize;
use std::time::Duration;

/// Age of a record up to which its commit may still arrive: more than the limit of an operation.
const COMMIT_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdempotencyDoc {
    fingerprint: String,
    session_id: String,
    message_id: String,
    turn_id: Option<String>,
    created_at: DateTime,
    noted_at: DateTime,
    /// Set once the commit has succeeded.
    #[serde(default)]
    is_confirmed: bool,
}

/// A document as the id, so that no combination of user, route and key equals another one.
fn request_key(principal: &Principal, key: &IdempotencyKey) -> Document {
    doc! { "user": principal.user.as_str(), "route": key.route, "key": &key.key }
}

impl RequestTransaction for MongoTransaction {
    async fn find_request(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        since: Timestamp,
    ) -> Result<Option<PriorRequest>> {
        let keys = self.collections.idempotency_keys.clone();
        let found: Option<IdempotencyDoc> =
            self.find_one(&keys, doc! { "_id": request_key(principal, key) }, None).await?;
        let Some(request) = found else { return Ok(None) };
        // Expired records are deleted some time later by the TTL index; until then they are
        // ignored, as in every store. A record of an earlier attempt of this operation is not a
        // prior request.
        if request.created_at <= to_bson_date(since)
            || self.written_requests.contains_key(&request.message_id)
        {
            self.stale_request = Some(request.message_id);
            return Ok(None);
        }
        if !request.is_confirmed && !self.has_taken_effect(&request).await? {
            // Another request with the same key is being handled, or its instance has crashed
            // between the record and the commit. Retry until it is confirmed or void.
            let age = DateTime::now().timestamp_millis() - request.noted_at.timestamp_millis();
            if age > COMMIT_GRACE.as_millis() as i64 {
                self.stale_request = Some(request.message_id);
                return Ok(None);
            }
            return Err(self.record_conflict());
        }
        // If its session or message was deleted since, the rules handle the request as a new one,
        // and its record replaces this one.
        self.stale_request = Some(request.message_id.clone());
        Ok(Some(PriorRequest {
            fingerprint: request.fingerprint,
            session_id: SessionId::new_unchecked(request.session_id),
            message_id: MessageId::new_unchecked(request.message_id),
            turn_id: request.turn_id.map(TurnId::new_unchecked),
        }))
    }

    /// Two concurrent requests with the same key meet here: the second one finds the record and
    /// fails with a duplicate key or a conflict. Its retry then reads the first one's record.
    async fn record_request(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        known: &PriorRequest,
        now: Timestamp,
        _since: Timestamp,
    ) -> Result<()> {
        let keys = self.collections.idempotency_keys.clone();
        let mut request = doc! {
            "fingerprint": &known.fingerprint,
            "sessionId": known.session_id.as_str(),
            "messageId": known.message_id.as_str(),
            "turnId": known.turn_id.as_ref().map(|turn| turn.as_str()),
            "createdAt": to_bson_date(now),
            "notedAt": DateTime::now(),
            "born": self.loaded.as_ref().map(|session| session.created_revision),
        };
        let record =
            doc! { "_id": request_key(principal, key), "messageId": known.message_id.as_str() };
        self.written_requests.insert(known.message_id.to_string(), record.clone());
        self.unconfirmed_request = Some(record);
        if let Some(message) = self.stale_request.take() {
            // The filter names the void record, so that only one of two requests replaces it.
            let stale = doc! { "_id": request_key(principal, key), "messageId": message };
            let replaced = keys.replace_one(stale, request).session(&mut self.client_session).await;
            return match self.check_result(replaced)?.matched_count {
                1 => Ok(()),
                _ => Err(self.record_conflict()),
            };
        }
        request.insert("_id", request_key(principal, key));
        let inserted = keys.insert_one(request).session(&mut self.client_session).await;
        self.check_result(inserted).map(|_| ())
    }
}

impl MongoTransaction {
    /// Whether the message or turn of the request exists.
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

    /// Deletes the unconfirmed records of all attempts, after the rules have rejected the request.
    pub(super) async fn delete_written_requests(&mut self) {
        let keys = self.collections.idempotency_keys.clone();
        for (_, mut record) in self.written_requests.drain() {
            record.insert("isConfirmed", doc! { "$ne": true });
            // An error is ignored: a record that stays becomes void by itself.
            let _ = keys.delete_one(record).await;
        }
    }
}
