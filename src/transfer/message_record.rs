//! A message of a file, in the form that all formats are read into.

use super::lenient_values::to_hex_id;
use crate::domain::message::{FinishReason, MessageError};
use crate::domain::{MessageId, MessageType, Role, SessionId, Status, Timestamp, Usage};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

/// A message in an import file.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct MessageRecord {
    /// Message id, unique within the session. Messages that the session already has are skipped.
    pub(super) id: Option<String>,
    pub(super) role: Role,
    pub(super) sender_id: Option<String>,
    #[schema(required = false)]
    pub(super) content: String,
    #[schema(rename = "type", required = false)]
    pub(super) kind: MessageType,
    #[schema(value_type = Option<Vec<Object>>)]
    pub(super) parts: Option<Box<RawValue>>,
    /// Another message of the file or of the session; by default the preceding one.
    #[schema(value_type = Option<String>)]
    pub(super) parent_id: Option<Option<String>>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) created_at: Option<Timestamp>,
    pub(super) client_message_id: Option<String>,
    #[schema(required = false)]
    pub(super) status: Status,
    pub(super) model: Option<String>,
    pub(super) finish_reason: Option<FinishReason>,
    pub(super) error: Option<MessageError>,
    pub(super) usage: Option<Usage>,
    /// Path used in notes, if it is not `messages[i]`.
    #[schema(ignore)]
    pub(super) error_path: Option<String>,
}

impl MessageRecord {
    /// The path in the file.
    pub(super) fn place(&self) -> &str {
        self.error_path.as_deref().unwrap_or_default()
    }

    /// An empty message.
    pub(super) fn from_role(role: Role) -> Self {
        Self {
            id: None,
            role,
            sender_id: None,
            content: String::new(),
            kind: MessageType::Text,
            parts: None,
            parent_id: None,
            created_at: None,
            client_message_id: None,
            status: Status::Complete,
            model: None,
            finish_reason: None,
            error: None,
            usage: None,
            error_path: None,
        }
    }
}

/// Derives the id of a message without one from its content, so that importing it again finds it.
pub(super) fn derive_message_id(
    session: &SessionId,
    record: &MessageRecord,
    index: usize,
) -> MessageId {
    let role = role_name(record.role);
    let time = format_time(record.created_at);
    let content = &record.content;
    let text = format!("{session}\0{index}\0{role}\0{time}\0{content}");
    MessageId::new_unchecked(to_hex_id(Sha256::new_with_prefix(text)))
}

/// The name of a role in derived ids: that of the variant when they were first derived, whatever
/// it is called by now.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::User => "User",
        Role::Assistant => "Assistant",
        Role::System => "System",
        Role::Tool => "Tool",
    }
}

/// A time in derived ids, likewise as it was first written.
pub(super) fn format_time(time: Option<Timestamp>) -> String {
    match time {
        Some(time) => format!("Some(Timestamp({}))", time.as_millis()),
        None => "None".to_owned(),
    }
}
