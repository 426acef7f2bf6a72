//! Store operations on OpenAI-style responses: the data of their requests, kept
//! alongside the messages.

use crate::domain::{MessageId, Principal, SessionId, Timestamp, TurnId, UserId};
use crate::error::Result;
use async_trait::async_trait;
use serde::Serialize;

/// Request data of a response. The output is the stored reply.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct StoredResponse {
    /// Turn of the response, which also names it.
    pub turn_id: TurnId,
    /// Id of the reply, assigned in advance.
    pub reply_id: MessageId,
    /// Message that the reply answers.
    pub user_message_id: MessageId,
    /// User who sent the request.
    pub user: UserId,
    pub created_at: Timestamp,
    /// JSON of the request as the response object repeats it, opaque to the store.
    pub request: String,
    /// JSON of the recorded reply events, for streams that can be replayed. Added once the
    /// reply has ended.
    pub recording: Option<String>,
}

/// Responses: saved when a turn begins, readable as long as its session exists.
#[async_trait]
pub trait ResponseStore: Send + Sync {
    /// Saves a response unless the reply already has one. Returns the stored one. Errors:
    /// `session_not_found`.
    async fn save_response(
        &self,
        session: &SessionId,
        response: &StoredResponse,
    ) -> Result<StoredResponse>;

    /// Returns the response of a turn and its session. Errors: `response_not_found`, also if
    /// `principal` may not see the session.
    async fn get_response(
        &self,
        principal: &Principal,
        turn: &TurnId,
    ) -> Result<(SessionId, StoredResponse)>;

    /// Returns the session of a response, found by its reply. Errors: `response_not_found`.
    async fn find_session_by_reply(&self, reply: &MessageId) -> Result<SessionId>;

    /// Adds the recorded events to a stored response.
    async fn save_recording(&self, turn: &TurnId, recording: &str) -> Result<()>;

    /// Deletes a response; its messages remain. Returns whether it existed.
    async fn delete_response(&self, turn: &TurnId) -> Result<bool>;
}
