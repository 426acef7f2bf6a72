//! A turn: one user message and the reply being produced for it.

use super::{MessageId, Timestamp, TurnId};
use serde::Serialize;
use utoipa::ToSchema;

/// The reply a session is waiting for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveTurn {
    /// The turn.
    #[schema(value_type = String)]
    pub turn_id: TurnId,
    /// The id the reply will have.
    #[schema(value_type = String)]
    pub message_id: MessageId,
    /// The message it answers.
    #[schema(value_type = Option<String>)]
    pub user_message_id: Option<MessageId>,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
}
