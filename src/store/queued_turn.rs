//! Queued turns as JSON, the same in every store.

use super::{DuplicateIdPolicy, MessageParent, NewMessage, ReplyFields, TurnInput, TurnSpec};
use crate::domain::content::MessageBody;
use crate::domain::extra_params::ExtraParams;
use crate::domain::key::KeyId;
use crate::domain::message::{MessageParts, MessageType};
use crate::domain::session::SessionSettings;
use crate::domain::{MessageId, Principal, Role, Timestamp, TurnId, UserId};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A turn in the queue and the identity it will run under.
#[derive(Debug, Clone)]
pub struct QueuedTurn {
    pub principal: Principal,
    pub turn: TurnSpec,
    /// API key that the caller authenticated with.
    pub key_id: Option<KeyId>,
}

#[derive(Serialize, Deserialize)]
/// The stored form. Serde attributes keep the stored names, so that turns queued by another version
/// remain readable.
struct QueuedTurnRecord {
    user: String,
    is_admin: bool,
    key: Option<String>,
    turn_id: String,
    reply_id: String,
    options: SessionSettings,
    /// Provider parameters, which the serialized settings do not include.
    #[serde(rename = "further")]
    extra_params: ExtraParams,
    #[serde(rename = "ask")]
    input: TurnInputRecord,
}

#[derive(Serialize, Deserialize)]
enum TurnInputRecord {
    #[serde(rename = "Say")]
    Send {
        id: String,
        client_message_id: Option<String>,
        role: Role,
        content: String,
        parts: String,
        kind: MessageType,
        tokens: u32,
        created_at: Timestamp,
        parent: ParentRecord,
        is_edit: bool,
    },
    #[serde(rename = "Again")]
    Regenerate { reply: Option<String> },
}

#[derive(Serialize, Deserialize)]
enum ParentRecord {
    Head,
    Root,
    Message(String),
}

impl QueuedTurn {
    pub fn to_json(&self) -> Result<String> {
        let Self { principal, turn, key_id: key } = self;
        let record = QueuedTurnRecord {
            user: principal.user.to_string(),
            is_admin: principal.is_admin,
            key: key.as_ref().map(ToString::to_string),
            turn_id: turn.turn_id.to_string(),
            reply_id: turn.reply_id.to_string(),
            options: turn.options.clone(),
            extra_params: turn.options.extra_params.clone(),
            input: match &turn.input {
                TurnInput::Send { message, parent, on_duplicate_id } => {
                    build_send_record(message, parent, *on_duplicate_id)
                }
                TurnInput::Regenerate { reply_id: reply } => {
                    TurnInputRecord::Regenerate { reply: reply.as_ref().map(ToString::to_string) }
                }
            },
        };
        serde_json::to_string(&record).map_err(Error::internal)
    }

    pub fn from_json(text: &str) -> Result<Self> {
        let record: QueuedTurnRecord =
            serde_json::from_str(text).map_err(Error::store_unavailable)?;
        let principal =
            Principal { user: UserId::new_unchecked(record.user), is_admin: record.is_admin };
        let input = match record.input {
            TurnInputRecord::Regenerate { reply } => {
                TurnInput::Regenerate { reply_id: reply.map(MessageId::new_unchecked) }
            }
            TurnInputRecord::Send {
                id,
                client_message_id,
                role,
                content,
                parts,
                kind,
                tokens,
                created_at,
                parent,
                is_edit,
            } => {
                let parts = MessageParts::from_stored(parts)
                    .ok_or_else(|| Error::store_unavailable("parts cannot be read"))?;
                let message = NewMessage {
                    id: MessageId::new_unchecked(id),
                    client_message_id: client_message_id.map(MessageId::new_unchecked),
                    role,
                    // Not stored: a queued message is sent by the user who queued it.
                    sender_id: principal.user.clone(),
                    body: MessageBody { content, parts, kind },
                    tokens,
                    created_at,
                    reply: ReplyFields::default(),
                };
                let parent = match parent {
                    ParentRecord::Head => MessageParent::Head,
                    ParentRecord::Root => MessageParent::Root,
                    ParentRecord::Message(id) => {
                        MessageParent::Message(MessageId::new_unchecked(id))
                    }
                };
                let on_duplicate_id =
                    if is_edit { DuplicateIdPolicy::Edit } else { DuplicateIdPolicy::Reject };
                TurnInput::Send { message: Box::new(message), parent, on_duplicate_id }
            }
        };
        let turn = TurnSpec {
            turn_id: TurnId::new_unchecked(record.turn_id),
            reply_id: MessageId::new_unchecked(record.reply_id),
            input,
            options: SessionSettings { extra_params: record.extra_params, ..record.options },
        };
        Ok(Self { principal, turn, key_id: record.key.map(KeyId::new_unchecked) })
    }
}

fn build_send_record(
    message: &NewMessage,
    parent: &MessageParent,
    on_duplicate_id: DuplicateIdPolicy,
) -> TurnInputRecord {
    TurnInputRecord::Send {
        id: message.id.to_string(),
        client_message_id: message.client_message_id.as_ref().map(ToString::to_string),
        role: message.role,
        content: message.body.content.clone(),
        parts: message.body.parts.as_json().to_owned(),
        kind: message.body.kind,
        tokens: message.tokens,
        created_at: message.created_at,
        parent: match parent {
            MessageParent::Head => ParentRecord::Head,
            MessageParent::Root => ParentRecord::Root,
            MessageParent::Message(id) => ParentRecord::Message(id.to_string()),
        },
        is_edit: on_duplicate_id == DuplicateIdPolicy::Edit,
    }
}
