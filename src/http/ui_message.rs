//! Stored messages as the AI SDK's `UIMessage`s, ready for `useChat({messages})`, and back.
//!
//! Shape: <https://ai-sdk.dev/docs/reference/ai-sdk-core/ui-message>.

use crate::domain::image::{MessageImage, parse_image};
use crate::domain::message::{MessageParts, Status};
use crate::domain::tool::NewToolResult;
use crate::domain::{Message, MessageId, Role, Timestamp, Usage};
use crate::error::{Error, Result};
use crate::json::StrictObject;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use std::collections::HashMap;
use utoipa::ToSchema;

/// A message as `useChat` keeps it.
#[derive(Serialize, ToSchema)]
pub(super) struct UiMessage {
    #[schema(value_type = String)]
    id: MessageId,
    role: Role,
    metadata: UiMessageMetadata,
    #[schema(value_type = Vec<Object>)]
    parts: Vec<Value>,
}

/// What `useChat` shows beside a message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UiMessageMetadata {
    status: Status,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

/// Messages of one path, oldest first. What the tools returned is shown with their calls, and a reply
/// that goes on behind that belongs to the one it continues: `useChat` streams it into that message.
pub(super) fn to_ui_messages(messages: Vec<Message>) -> Vec<UiMessage> {
    let mut shown: Vec<UiMessage> = Vec::new();
    // Where messages are shown, and which of them are results.
    let mut places: HashMap<MessageId, (usize, Role)> = HashMap::new();
    for message in messages {
        let parent = message.parent_id.as_ref().and_then(|parent| places.get(parent)).copied();
        let place = match (message.role, parent) {
            (Role::Tool, Some((place, _))) => {
                shown[place].apply_tool_results(&message.parts);
                place
            }
            (Role::Tool, None) => continue,
            (Role::Assistant, Some((place, Role::Tool))) => {
                places.insert(message.id.clone(), (place, Role::Assistant));
                shown[place].append_reply(message);
                continue;
            }
            _ => {
                places.insert(message.id.clone(), (shown.len(), message.role));
                shown.push(to_ui_message(message));
                continue;
            }
        };
        places.insert(message.id, (place, Role::Tool));
    }
    shown
}

fn to_ui_message(message: Message) -> UiMessage {
    let mut parts = to_ui_parts(&message);
    if parts.is_empty() {
        // Clients before ai 6.0.226 refuse a history with a message of no parts.
        parts.push(json!({ "type": "step-start" }));
    }
    UiMessage {
        id: message.id,
        role: message.role,
        metadata: UiMessageMetadata {
            status: message.status,
            created_at: message.created_at,
            model: message.model,
            usage: message.usage,
        },
        parts,
    }
}

/// Thoughts stand before the answer, calls and attachments behind the text.
fn to_ui_parts(message: &Message) -> Vec<Value> {
    let stored: Vec<Value> = serde_json::from_str(message.parts.as_json()).unwrap_or_default();
    let is_call = |part: &Value| part["type"] == "tool-call";
    let others = stored.iter().filter(|part| !is_call(part));
    let mut parts: Vec<Value> =
        others.map(|part| to_ui_file(part).unwrap_or(part.clone())).collect();
    if !message.content.is_empty() {
        let at = parts.iter().take_while(|part| part["type"] == "reasoning").count();
        parts.insert(at, json!({ "type": "text", "text": message.content }));
    }
    parts.extend(stored.iter().filter(|part| is_call(part)).map(to_ui_tool_call));
    parts
}

/// A picture in another spelling, as the AI SDK knows it.
fn to_ui_file(part: &Value) -> Option<Value> {
    if part["type"] == "file" {
        return None;
    }
    let MessageImage { url, .. } = parse_image(part)?;
    let data = url.strip_prefix("data:").and_then(|data| data.split([';', ',']).next());
    Some(json!({ "type": "file", "mediaType": data.unwrap_or("image/*"), "url": &*url }))
}

/// A call as `useChat` shows it, waiting for its result.
fn to_ui_tool_call(call: &Value) -> Value {
    let kind = format!("tool-{}", call["toolName"].as_str().unwrap_or_default());
    let id = &call["toolCallId"];
    match &call["input"] {
        Value::String(raw) => json!({
            "type": kind, "toolCallId": id, "state": "output-error", "rawInput": raw,
            "errorText": "the arguments of the call are not JSON",
        }),
        input => json!({
            "type": kind, "toolCallId": id, "state": "input-available", "input": input,
        }),
    }
}

impl UiMessage {
    fn apply_tool_results(&mut self, parts: &MessageParts) {
        let results: Vec<Value> = serde_json::from_str(parts.as_json()).unwrap_or_default();
        for result in results.iter().filter(|part| part["type"] == "tool-result") {
            let id = &result["toolCallId"];
            let call = self.parts.iter_mut().rfind(|part| part["toolCallId"] == *id);
            let Some(Value::Object(call)) = call else { continue };
            let (state, field, output) = match result["isError"].as_bool() {
                Some(true) => ("output-error", "errorText", to_error_text(&result["output"])),
                _ => ("output-available", "output", result["output"].clone()),
            };
            call.insert("state".to_owned(), state.into());
            call.insert(field.to_owned(), output);
        }
    }

    fn append_reply(&mut self, message: Message) {
        // `useChat` looks for calls to carry out behind the last of these.
        self.parts.push(json!({ "type": "step-start" }));
        self.parts.extend(to_ui_parts(&message));
        let Message { status, model, usage, .. } = message;
        self.metadata =
            UiMessageMetadata { status, model, usage, created_at: self.metadata.created_at };
    }
}

fn to_error_text(output: &Value) -> Value {
    if output.is_string() { output.clone() } else { output.to_string().into() }
}

/// The last message of a `useChat` request.
pub(super) struct ParsedUiMessage {
    pub(super) id: MessageId,
    pub(super) role: Role,
    pub(super) content: String,
    pub(super) parts: MessageParts,
    /// What came of the calls of a reply.
    pub(super) results: Vec<NewToolResult>,
}

#[derive(Deserialize)]
struct UiMessageInput<'a> {
    id: String,
    role: Role,
    #[serde(borrow, default)]
    parts: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct UiPartInput {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// A call, as far as its result matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UiToolCallInput<'a> {
    tool_call_id: Option<String>,
    state: Option<String>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    error_text: Option<String>,
}

impl UiToolCallInput<'_> {
    /// `None` while there is no result. What a person would not allow is told as a failure.
    fn parse_result(self, field: &'static str) -> Result<Option<NewToolResult>> {
        let (Some(id), Some(state)) = (self.tool_call_id, self.state) else { return Ok(None) };
        let (output, is_error) = match (state.as_str(), self.output) {
            ("output-available", Some(output)) => (output.to_owned(), false),
            ("output-available", None) => (RawValue::NULL.to_owned(), false),
            ("output-error", _) => {
                let text = self.error_text.unwrap_or_else(|| "the call failed".to_owned());
                (to_raw_value(&text).map_err(Error::internal)?, true)
            }
            ("output-denied", _) => {
                (to_raw_value("the user does not allow this call").map_err(Error::internal)?, true)
            }
            _ => return Ok(None),
        };
        Ok(Some(NewToolResult::parse(field, id, output, is_error)?))
    }
}

/// Reads one UIMessage; `field` is where it stood in the body. Its text parts become the content.
pub(super) fn parse_ui_message(field: &'static str, raw: &RawValue) -> Result<ParsedUiMessage> {
    let wrong = |error: serde_json::Error| {
        let text = error.to_string();
        Error::invalid_field(field, format!("must be a UIMessage {{id, role, parts}}: {text}"))
    };
    let StrictObject(incoming): StrictObject<UiMessageInput<'_>> =
        serde_json::from_str(raw.get()).map_err(wrong)?;
    let mut texts = Vec::new();
    let mut others = Vec::new();
    let mut results = Vec::new();
    for part in incoming.parts {
        let StrictObject(kind): StrictObject<UiPartInput> =
            serde_json::from_str(part.get()).map_err(wrong)?;
        match (kind.kind.as_str(), kind.text) {
            ("text", Some(text)) => texts.push(text),
            ("text", None) => {
                return Err(Error::invalid_field(field, "must have a text in each text part"));
            }
            // A mark of where a step of the model began: no content.
            ("step-start", _) => {}
            (kind, _) if kind == "dynamic-tool" || kind.starts_with("tool-") => {
                let call: UiToolCallInput<'_> = serde_json::from_str(part.get()).map_err(wrong)?;
                results.extend(call.parse_result(field)?);
            }
            _ => others.push(part),
        }
    }
    let others = to_raw_value(&others).map_err(Error::internal)?;
    Ok(ParsedUiMessage {
        id: MessageId::parse("id", &incoming.id).map_err(|invalid| invalid.within(field))?,
        role: incoming.role,
        content: texts.join("\n"),
        parts: MessageParts::parse("parts", &others)?,
        results,
    })
}
