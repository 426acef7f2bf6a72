//! Turns: a user message and the reply that is generated for it.

use super::{MessageId, Timestamp, TurnId};
use serde::Serialize;
use utoipa::ToSchema;

/// The reply in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveTurn {
    /// Turn id. The ids of its stream events start with it, and stopping a reply accepts it.
    #[schema(value_type = String)]
    pub turn_id: TurnId,
    /// Id that the reply will have.
    #[schema(value_type = String)]
    pub message_id: MessageId,
    /// Message that is being answered.
    #[schema(value_type = Option<String>)]
    pub user_message_id: Option<MessageId>,
    /// Time the turn started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
}
