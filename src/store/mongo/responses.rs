//! Responses in MongoDB: one document each, with the id of its turn.
//!
//! They are written outside of the session's transactions. A writer checks afterwards that the
//! session still exists and otherwise deletes what it wrote.

use super::MongoStore;
use super::documents::{to_bson_date, to_timestamp};
use super::errors::is_duplicate_key;
use super::transaction::{TransactionMode, transact};
use super::turn_log::with_timeout;
use crate::domain::principal::AccessLevel;
use crate::domain::{MessageId, Principal, SessionId, TurnId, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{ResponseStore, StoredResponse, rules};
use async_trait::async_trait;
use mongodb::bson::{DateTime, Document, doc};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResponseDoc {
    #[serde(rename = "_id")]
    id: String,
    session_id: String,
    /// First revision of the session; absent in responses of version 0.1.0.
    #[serde(rename = "born")]
    created_revision: Option<i64>,
    reply_id: String,
    #[serde(rename = "questionId")]
    user_message_id: String,
    #[serde(rename = "asker")]
    user: String,
    created_at: DateTime,
    request: String,
    #[serde(rename = "tape")]
    recording: Option<String>,
}

#[async_trait]
impl ResponseStore for MongoStore {
    async fn save_response(
        &self,
        session: &SessionId,
        response: &StoredResponse,
    ) -> Result<StoredResponse> {
        let collection = self.collections.responses.clone_with_type::<ResponseDoc>();
        // The unique index on the reply decides between two writers; both return the first one's.
        let of_reply =
            doc! { "sessionId": session.as_str(), "replyId": response.reply_id.as_str() };
        let created_revision =
            self.find_content_key(session).await?.map(|key| key.created_revision);
        let new = to_response_document(session, created_revision, response);
        with_timeout(async {
            match self.collections.responses.insert_one(new).await {
                Err(error) if !is_duplicate_key(&error) => Err(error.into()),
                _ => Ok(()),
            }
        })
        .await?;
        // After the write: a deletion that ran before it has not seen the new document.
        if !self.has_session(session).await? {
            let orphaned =
                self.collections.responses.delete_many(doc! { "sessionId": session.as_str() });
            with_timeout(async { Ok(orphaned.await?) }).await?;
            return Err(Error::session_not_found());
        }
        let stored = with_timeout(async { Ok(collection.find_one(of_reply).await?) }).await?;
        stored.map(ResponseDoc::into_stored_response).ok_or_else(Error::session_not_found)
    }

    async fn get_response(
        &self,
        principal: &Principal,
        turn: &TurnId,
    ) -> Result<(SessionId, StoredResponse)> {
        let collection = self.collections.responses.clone_with_type::<ResponseDoc>();
        let found = collection.find_one(doc! { "_id": turn.as_str() });
        let found = with_timeout(async { Ok(found.await?) }).await?;
        let found = found.ok_or_else(Error::response_not_found)?;
        let session = SessionId::new_unchecked(found.session_id.as_str());
        let id = &session;
        let access = transact!(self, TransactionMode::READ, |tx| {
            rules::get_session(tx, principal, id, AccessLevel::Participant).await?;
            Ok(tx.loaded.as_ref().map(|session| session.created_revision))
        });
        match access {
            // Of a session that was deleted, whose id another one has now.
            Ok(created_revision)
                if found.created_revision.is_some()
                    && found.created_revision != created_revision =>
            {
                Err(Error::response_not_found())
            }
            Ok(_) => Ok((session, found.into_stored_response())),
            // A session that the principal may not read must look like a response that does not
            // exist.
            Err(error) if error.kind == ErrorKind::SessionNotFound => {
                Err(Error::response_not_found())
            }
            Err(error) => Err(error),
        }
    }

    async fn find_session_by_reply(&self, reply: &MessageId) -> Result<SessionId> {
        let collection = self.collections.responses.clone_with_type::<ResponseDoc>();
        let found = collection.find_one(doc! { "replyId": reply.as_str() });
        let found = with_timeout(async { Ok(found.await?) }).await?;
        let found = found.ok_or_else(Error::response_not_found)?;
        Ok(SessionId::new_unchecked(found.session_id))
    }

    async fn save_recording(&self, turn: &TurnId, recording: &str) -> Result<()> {
        let update = doc! { "$set": { "tape": recording } };
        let updated = self.collections.responses.update_one(doc! { "_id": turn.as_str() }, update);
        with_timeout(async { Ok(updated.await.map(|_| ())?) }).await
    }

    async fn delete_response(&self, turn: &TurnId) -> Result<bool> {
        let deleted = self.collections.responses.delete_one(doc! { "_id": turn.as_str() });
        with_timeout(async { Ok(deleted.await?.deleted_count == 1) }).await
    }
}

impl MongoStore {
    async fn has_session(&self, id: &SessionId) -> Result<bool> {
        transact!(self, TransactionMode::READ, |tx| Ok(tx.load_session(id).await?.is_some()))
    }
}

/// `created_revision` is the first revision of the session.
pub(super) fn to_response_document(
    session: &SessionId,
    created_revision: Option<i64>,
    response: &StoredResponse,
) -> Document {
    let StoredResponse { turn_id, reply_id, user_message_id, user, created_at, request, recording } =
        response;
    doc! {
        "_id": turn_id.as_str(),
        "sessionId": session.as_str(),
        "born": created_revision,
        "replyId": reply_id.as_str(),
        "questionId": user_message_id.as_str(),
        "asker": user.as_str(),
        "createdAt": to_bson_date(*created_at),
        "request": request,
        "tape": recording.as_deref(),
    }
}

impl ResponseDoc {
    pub(super) fn into_stored_response(self) -> StoredResponse {
        StoredResponse {
            turn_id: TurnId::new_unchecked(self.id),
            reply_id: MessageId::new_unchecked(self.reply_id),
            user_message_id: MessageId::new_unchecked(self.user_message_id),
            user: UserId::new_unchecked(self.user),
            created_at: to_timestamp(self.created_at),
            request: self.request,
            recording: self.recording,
        }
    }
}
