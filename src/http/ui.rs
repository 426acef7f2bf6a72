//! Stored messages as the AI SDK's `UIMessage`s, ready for `useChat({messages})`, and back.
//!
//! Shape: <https://ai-sdk.dev/docs/reference/ai-sdk-core/ui-message>.

use crate::domain::message::{Parts, Status};
use crate::domain::{Message, MessageId, Role, Timestamp, Usage};
use crate::error::{Error, Result};
use crate::json::Object;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// A message as `useChat` keeps it.
#[derive(Serialize, ToSchema)]
pub(super) struct UiMessage {
    #[schema(value_type = String)]
    id: MessageId,
    role: Role,
    metadata: Metadata,
    #[schema(value_type = Vec<Object>)]
    parts: Vec<Value>,
}

/// What `useChat` shows beside a message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    status: Status,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

/// `None` for what the AI SDK has no role for.
pub(super) fn ui_message(message: Message) -> Option<UiMessage> {
    if message.role == Role::Tool {
        return None;
    }
    let mut parts: Vec<Value> = serde_json::from_str(message.parts.as_json()).unwrap_or_default();
    if !message.content.is_empty() {
        // Thoughts stand before the answer, attachments behind the question.
        let at = parts.iter().take_while(|part| part["type"] == "reasoning").count();
        parts.insert(at, json!({ "type": "text", "text": message.content }));
    }
    if parts.is_empty() {
        // Clients before ai 6.0.226 refuse a history with a message of no parts.
        parts.push(json!({ "type": "step-start" }));
    }
    Some(UiMessage {
        id: message.id,
        role: message.role,
        metadata: Metadata {
            status: message.status,
            created_at: message.created_at,
            model: message.model,
            usage: message.usage,
        },
        parts,
    })
}

/// The last message of a `useChat` request.
pub(super) struct LastMessage {
    pub(super) id: MessageId,
    pub(super) role: Role,
    pub(super) content: String,
    pub(super) parts: Parts,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    id: String,
    role: Role,
    #[serde(borrow, default)]
    parts: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// Reads one UIMessage; `field` is where it stood in the body. Its text parts become the content.
pub(super) fn read(field: &'static str, raw: &RawValue) -> Result<LastMessage> {
    let wrong = |error: serde_json::Error| {
        let text = error.to_string();
        Error::invalid(field, format!("must be a UIMessage {{id, role, parts}}: {text}"))
    };
    let Object(incoming): Object<Incoming<'_>> = serde_json::from_str(raw.get()).map_err(wrong)?;
    let mut texts = Vec::new();
    let mut others = Vec::new();
    for part in incoming.parts {
        let Object(kind): Object<Kind> = serde_json::from_str(part.get()).map_err(wrong)?;
        match (kind.kind.as_str(), kind.text) {
            ("text", Some(text)) => texts.push(text),
            ("text", None) => {
                return Err(Error::invalid(field, "must have a text in each text part"));
            }
            // A mark of where a step of the model began: no content.
            ("step-start", _) => {}
            _ => others.push(part),
        }
    }
    let others = to_raw_value(&others).map_err(Error::internal)?;
    Ok(LastMessage {
        id: MessageId::parse("id", &incoming.id).map_err(|invalid| invalid.within(field))?,
        role: incoming.role,
        content: texts.join("\n"),
        parts: Parts::parse("parts", &others)?,
    })
}
