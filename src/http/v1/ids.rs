//! IDs of the OpenAI API: a prefix, and an ID of this server.
//!
//! A message may be several items. `msg_<messageId>` is the text of a message, `rs_<messageId>` its
//! reasoning, `fc_<n>_<messageId>` its nth tool call and `fco_<n>_<messageId>` its nth tool output,
//! counted from 1. Text after a tool call is an item of its own in a stream,
//! `msg_<messageId>_<n>`; stored, it is one text with the first.

use crate::domain::{FieldError, MessageId, SessionId, TurnId};
use crate::http::param::{ParseParam, parse_param};
use serde::Deserialize;
use utoipa::IntoParams;

const CONVERSATION_PREFIX: &str = "conv_";
const RESPONSE_PREFIX: &str = "resp_";

/// `conv_<sessionId>`: a conversation is a session.
pub(super) struct ConversationId(pub(super) SessionId);

impl ConversationId {
    pub(super) fn parse(field: &'static str, text: &str) -> Result<Self, FieldError> {
        let id = text.strip_prefix(CONVERSATION_PREFIX);
        let id =
            id.ok_or_else(|| FieldError::new(field, "must be an ID that begins with conv_"))?;
        SessionId::parse(field, id).map(Self)
    }
}

pub(super) fn format_conversation_id(session: &SessionId) -> String {
    format!("{CONVERSATION_PREFIX}{session}")
}

impl ParseParam for ConversationId {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        Self::parse("", text)
    }
}

/// `resp_<turnId>`: a response is a turn.
pub(super) struct ResponseId(pub(super) TurnId);

impl ResponseId {
    pub(super) fn parse(field: &'static str, text: &str) -> Result<Self, FieldError> {
        let id = text.strip_prefix(RESPONSE_PREFIX);
        let id =
            id.ok_or_else(|| FieldError::new(field, "must be an ID that begins with resp_"))?;
        TurnId::parse(field, id).map(Self)
    }
}

/// The ID of a response, from the ID of its turn or, for one that is not stored, of its reply.
pub(super) fn format_response_id(turn_or_reply: &str) -> String {
    format!("{RESPONSE_PREFIX}{turn_or_reply}")
}

impl ParseParam for ResponseId {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        Self::parse("", text)
    }
}

/// The type of an item, which is the prefix of its ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemType {
    Message,
    Reasoning,
    Call,
    Output,
}

/// The ID of the `nth` item of a type in a message, counted from 0.
pub(super) fn format_item_id(item_type: ItemType, message: &MessageId, nth: usize) -> String {
    match (item_type, nth) {
        (ItemType::Call, nth) => format!("fc_{}_{message}", nth + 1),
        (ItemType::Output, nth) => format!("fco_{}_{message}", nth + 1),
        (ItemType::Message, 0) => format!("msg_{message}"),
        (ItemType::Reasoning, 0) => format!("rs_{message}"),
        (ItemType::Message, nth) => format!("msg_{message}_{nth}"),
        (ItemType::Reasoning, nth) => format!("rs_{message}_{nth}"),
    }
}

/// An item's ID as sent by a client, and the message that the item belongs to.
#[derive(Clone)]
pub(super) struct ItemId {
    pub(super) text: String,
    pub(super) message: MessageId,
}

impl ItemId {
    pub(super) fn parse(field: &'static str, text: &str) -> Result<Self, FieldError> {
        let numbered = |prefix| text.strip_prefix(prefix)?.split_once('_').map(|(_, id)| id);
        let id = text.strip_prefix("msg_").or_else(|| numbered("fc_")).or_else(|| numbered("fco_"));
        let expected = "must be an ID that begins with msg_, fc_ or fco_";
        let id = id.ok_or_else(|| FieldError::new(field, expected))?;
        Ok(Self { text: text.to_owned(), message: MessageId::parse(field, id)? })
    }
}

impl ParseParam for ItemId {
    fn parse_param(text: &str) -> Result<Self, FieldError> {
        Self::parse("", text)
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct ConversationPath {
    /// `conv_<sessionId>`
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) conversation: ConversationId,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct ItemPath {
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) conversation: ConversationId,
    /// `msg_<messageId>`, `fc_<n>_<messageId>` or `fco_<n>_<messageId>`
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) item: ItemId,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct ResponsePath {
    /// `resp_<turnId>`
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) response: ResponseId,
}
