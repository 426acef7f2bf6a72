//! What is asked of a store about responses: what a turn was asked for in the words of OpenAI's
//! Responses, kept beside its messages.

use crate::domain::{MessageId, Principal, SessionId, Timestamp, TurnId, UserId};
use crate::error::Result;
use async_trait::async_trait;
use serde::Serialize;

/// What is kept of a response. What it says is the reply; this is what else was asked of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct StoredResponse {
    /// The turn, which names the response.
    pub turn_id: TurnId,
    /// The id that its reply has, or will have.
    pub reply_id: MessageId,
    /// The message that it answers.
    pub user_message_id: MessageId,
    /// Who asked.
    pub user: UserId,
    /// When.
    pub created_at: Timestamp,
    /// The request as its answer repeats it: JSON that only the dialect reads.
    pub request: String,
    /// What was heard of the reply, piece by piece, where a stream of it may be read again: JSON that
    /// only the turns read. Comes once the reply has ended.
    pub recording: Option<String>,
}

/// Responses: written when a turn begins, read as long as its session is there.
#[async_trait]
pub trait ResponseStore: Send + Sync {
    /// Keeps a response, unless there is one of the same reply. The one that is kept. Errors:
    /// `session_not_found`.
    async fn save_response(
        &self,
        session: &SessionId,
        response: &StoredResponse,
    ) -> Result<StoredResponse>;

    /// The response of a turn, and its session, which `who` may read. Errors: `response_not_found`.
    async fn get_response(
        &self,
        principal: &Principal,
        turn: &TurnId,
    ) -> Result<(SessionId, StoredResponse)>;

    /// The session of a response, by its reply. Errors: `response_not_found`.
    async fn find_session_by_reply(&self, reply: &MessageId) -> Result<SessionId>;

    /// Adds the tape of a response that is there.
    async fn save_recording(&self, turn: &TurnId, tape: &str) -> Result<()>;

    /// Forgets a response; its messages stay. Whether it was there.
    async fn delete_response(&self, turn: &TurnId) -> Result<bool>;
}
