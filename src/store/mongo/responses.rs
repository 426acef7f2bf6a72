//! Responses in MongoDB: a document for each, named by its turn.
//!
//! They are written beside the session's steps. One that is written while its session is deleted is
//! taken away by whoever wrote it.

use super::MongoStore;
use super::documents::{date, time};
use super::failures::is_duplicate;
use super::log::in_time;
use super::step::{Manner, step};
use crate::domain::principal::AccessLevel;
use crate::domain::{MessageId, Principal, SessionId, TurnId, UserId};
use crate::error::{Error, Kind, Result};
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
    async fn put_response(
        &self,
        session: &SessionId,
        response: &StoredResponse,
    ) -> Result<StoredResponse> {
        let table = self.tables.responses.clone_with_type::<ResponseDoc>();
        let of_reply =
            doc! { "sessionId": session.as_str(), "replyId": response.reply_id.as_str() };
        let new = document(session, response);
        in_time(async {
            match self.tables.responses.insert_one(new).await {
                Err(error) if !is_duplicate(&error) => Err(error.into()),
                _ => Ok(()),
            }
        })
        .await?;
        if !self.has_session(session).await? {
            let gone = self.tables.responses.delete_many(doc! { "sessionId": session.as_str() });
            in_time(async { Ok(gone.await?) }).await?;
            return Err(Error::session_not_found());
        }
        let kept = in_time(async { Ok(table.find_one(of_reply).await?) }).await?;
        kept.map(ResponseDoc::into_stored).ok_or_else(Error::session_not_found)
    }

    async fn response(
        &self,
        who: &Principal,
        turn: &TurnId,
    ) -> Result<(SessionId, StoredResponse)> {
        let table = self.tables.responses.clone_with_type::<ResponseDoc>();
        let found = table.find_one(doc! { "_id": turn.as_str() });
        let found = in_time(async { Ok(found.await?) }).await?;
        let found = found.ok_or_else(Error::response_not_found)?;
        let session = SessionId::trusted(found.session_id.as_str());
        let id = &session;
        let seen = step!(self, Manner::LOOK, |step| {
            rules::get(step, who, id, AccessLevel::Participant).await
        });
        match seen {
            Ok(_) => Ok((session, found.into_stored())),
            Err(error) if error.kind == Kind::SessionNotFound => Err(Error::response_not_found()),
            Err(error) => Err(error),
        }
    }

    async fn session_of_reply(&self, reply: &MessageId) -> Result<SessionId> {
        let table = self.tables.responses.clone_with_type::<ResponseDoc>();
        let found = table.find_one(doc! { "replyId": reply.as_str() });
        let found = in_time(async { Ok(found.await?) }).await?;
        let found = found.ok_or_else(Error::response_not_found)?;
        Ok(SessionId::trusted(found.session_id))
    }

    async fn put_tape(&self, turn: &TurnId, tape: &str) -> Result<()> {
        let kept = doc! { "$set": { "tape": tape } };
        let kept = self.tables.responses.update_one(doc! { "_id": turn.as_str() }, kept);
        in_time(async { Ok(kept.await.map(|_| ())?) }).await
    }

    async fn delete_response(&self, turn: &TurnId) -> Result<bool> {
        let deleted = self.tables.responses.delete_one(doc! { "_id": turn.as_str() });
        in_time(async { Ok(deleted.await?.deleted_count == 1) }).await
    }
}

impl MongoStore {
    async fn has_session(&self, id: &SessionId) -> Result<bool> {
        step!(self, Manner::LOOK, |step| Ok(step.find_session(id).await?.is_some()))
    }
}

/// A response as a document.
pub(super) fn document(session: &SessionId, response: &StoredResponse) -> Document {
    let StoredResponse { turn_id, reply_id, question_id, asker, created_at, request, tape } =
        response;
    doc! {
        "_id": turn_id.as_str(),
        "sessionId": session.as_str(),
        "replyId": reply_id.as_str(),
        "questionId": question_id.as_str(),
        "asker": asker.as_str(),
        "createdAt": date(*created_at),
        "request": request,
        "tape": tape.as_deref(),
    }
}

impl ResponseDoc {
    pub(super) fn into_stored(self) -> StoredResponse {
        StoredResponse {
            turn_id: TurnId::trusted(self.id),
            reply_id: MessageId::trusted(self.reply_id),
            question_id: MessageId::trusted(self.question_id),
            asker: UserId::trusted(self.asker),
            created_at: time(self.created_at),
            request: self.request,
            tape: self.tape,
        }
    }
}
