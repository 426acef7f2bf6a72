//! Responses in MongoDB: a document for each, named by its turn.
//!
//! They are written beside the session's steps. One that is written while its session is deleted is
//! taken away by whoever wrote it.

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
    reply_id: String,
    question_id: String,
    asker: String,
    created_at: DateTime,
    request: String,
    tape: Option<String>,
}

#[async_trait]
impl ResponseStore for MongoStore {
    async fn save_response(
        &self,
        session: &SessionId,
        response: &StoredResponse,
    ) -> Result<StoredResponse> {
        let table = self.collections.responses.clone_with_type::<ResponseDoc>();
        let of_reply =
            doc! { "sessionId": session.as_str(), "replyId": response.reply_id.as_str() };
        let new = to_response_document(session, response);
        with_timeout(async {
            match self.collections.responses.insert_one(new).await {
                Err(error) if !is_duplicate_key(&error) => Err(error.into()),
                _ => Ok(()),
            }
        })
        .await?;
        if !self.has_session(session).await? {
            let gone =
                self.collections.responses.delete_many(doc! { "sessionId": session.as_str() });
            with_timeout(async { Ok(gone.await?) }).await?;
            return Err(Error::session_not_found());
        }
        let kept = with_timeout(async { Ok(table.find_one(of_reply).await?) }).await?;
        kept.map(ResponseDoc::into_stored_response).ok_or_else(Error::session_not_found)
    }

    async fn get_response(
        &self,
        who: &Principal,
        turn: &TurnId,
    ) -> Result<(SessionId, StoredResponse)> {
        let table = self.collections.responses.clone_with_type::<ResponseDoc>();
        let found = table.find_one(doc! { "_id": turn.as_str() });
        let found = with_timeout(async { Ok(found.await?) }).await?;
        let found = found.ok_or_else(Error::response_not_found)?;
        let session = SessionId::new_unchecked(found.session_id.as_str());
        let id = &session;
        let seen = transact!(self, TransactionMode::READ, |step| {
            rules::get_session(step, who, id, AccessLevel::Participant).await
        });
        match seen {
            Ok(_) => Ok((session, found.into_stored_response())),
            Err(error) if error.kind == ErrorKind::SessionNotFound => {
                Err(Error::response_not_found())
            }
            Err(error) => Err(error),
        }
    }

    async fn find_session_by_reply(&self, reply: &MessageId) -> Result<SessionId> {
        let table = self.collections.responses.clone_with_type::<ResponseDoc>();
        let found = table.find_one(doc! { "replyId": reply.as_str() });
        let found = with_timeout(async { Ok(found.await?) }).await?;
        let found = found.ok_or_else(Error::response_not_found)?;
        Ok(SessionId::new_unchecked(found.session_id))
    }

    async fn save_recording(&self, turn: &TurnId, tape: &str) -> Result<()> {
        let kept = doc! { "$set": { "tape": tape } };
        let kept = self.collections.responses.update_one(doc! { "_id": turn.as_str() }, kept);
        with_timeout(async { Ok(kept.await.map(|_| ())?) }).await
    }

    async fn delete_response(&self, turn: &TurnId) -> Result<bool> {
        let deleted = self.collections.responses.delete_one(doc! { "_id": turn.as_str() });
        with_timeout(async { Ok(deleted.await?.deleted_count == 1) }).await
    }
}

impl MongoStore {
    async fn has_session(&self, id: &SessionId) -> Result<bool> {
        transact!(self, TransactionMode::READ, |step| Ok(step.load_session(id).await?.is_some()))
    }
}

/// A response as a document.
pub(super) fn to_response_document(session: &SessionId, response: &StoredResponse) -> Document {
    let StoredResponse {
        turn_id,
        reply_id,
        user_message_id: question_id,
        user: asker,
        created_at,
        request,
        recording: tape,
    } = response;
    doc! {
        "_id": turn_id.as_str(),
        "sessionId": session.as_str(),
        "replyId": reply_id.as_str(),
        "questionId": question_id.as_str(),
        "asker": asker.as_str(),
        "createdAt": to_bson_date(*created_at),
        "request": request,
        "tape": tape.as_deref(),
    }
}

impl ResponseDoc {
    pub(super) fn into_stored_response(self) -> StoredResponse {
        StoredResponse {
            turn_id: TurnId::new_unchecked(self.id),
            reply_id: MessageId::new_unchecked(self.reply_id),
            user_message_id: MessageId::new_unchecked(self.question_id),
            user: UserId::new_unchecked(self.asker),
            created_at: to_timestamp(self.created_at),
            request: self.request,
            recording: self.tape,
        }
    }
}
