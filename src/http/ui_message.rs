//! Conversion between stored messages and the AI SDK's `UIMessage`s, for `useChat({messages})`.
//!
//! Shape: <https://ai-sdk.dev/docs/reference/ai-sdk-core/ui-message>.

use super::body::check_raw_field;
use crate::domain::image::{MessageImage, parse_image};
use crate::domain::message::{MAX_PARTS, MessageParts, Status};
use crate::domain::tool::NewToolResult;
use crate::domain::{Message, MessageId, Role, Timestamp, Usage};
use crate::error::{Error, Result};
use crate::json::StrictObject;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use std::collections::HashMap;
use utoipa::ToSchema;

/// A UIMessage of the AI SDK.
#[derive(Serialize, ToSchema)]
pub(super) struct UiMessage {
    #[schema(value_type = String)]
    id: MessageId,
    role: Role,
    metadata: UiMessageMetadata,
    /// Parts of the AI SDK: `text`, `reasoning`, `file`, `step-start` and `tool-NAME`.
    #[schema(value_type = Vec<Object>)]
    parts: Vec<Value>,
}

/// Metadata of a UIMessage.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UiMessageMetadata {
    status: Status,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// The model that wrote the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Token usage of the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    /// Present if the message came with an import.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    imported: bool,
}

/// Converts messages of one path, oldest first.
///
/// Tool results become part of the calls they belong to, and the reply that follows them is
/// appended to the reply that made the calls: `useChat` streams it into the same message.
pub(super) fn to_ui_messages(messages: Vec<Message>) -> Vec<UiMessage> {
    let mut ui_messages: Vec<UiMessage> = Vec::new();
    // For each stored message: the index of the UIMessage that contains it, and its role.
    let mut indexes: HashMap<MessageId, (usize, Role)> = HashMap::new();
    for message in messages {
        let parent = message.parent_id.as_ref().and_then(|parent| indexes.get(parent)).copied();
        let index = match (message.role, parent) {
            (Role::Tool, Some((index, _))) => {
                ui_messages[index].apply_tool_results(&message.parts);
                index
            }
            // Results whose call is not on this page have nothing to be shown with.
            (Role::Tool, None) => continue,
            (Role::Assistant, Some((index, Role::Tool))) => {
                indexes.insert(message.id.clone(), (index, Role::Assistant));
                ui_messages[index].append_reply(message);
                continue;
            }
            _ => {
                indexes.insert(message.id.clone(), (ui_messages.len(), message.role));
                ui_messages.push(to_ui_message(message));
                continue;
            }
        };
        indexes.insert(message.id, (index, Role::Tool));
    }
    ui_messages
}

fn to_ui_message(message: Message) -> UiMessage {
    let mut parts = to_ui_parts(&message);
    if parts.is_empty() {
        // Versions of `ai` before 6.0.226 refuse a history that contains a message without parts.
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
            imported: message.imported,
        },
        parts,
    }
}

/// The parts of a message in display order: reasoning, text, attachments, tool calls, unless a
/// reply was stored with an order of its own.
fn to_ui_parts(message: &Message) -> Vec<Value> {
    let stored: Vec<Value> = serde_json::from_str(message.parts.as_json()).unwrap_or_default();
    if let Some(stored) = message.ordered_parts() {
        let to_ui_part = |part: &Value| match part["type"].as_str() {
            Some("tool-call") => to_ui_tool_call(part),
            _ => to_ui_file(part).unwrap_or(part.clone()),
        };
        return stored.iter().map(to_ui_part).collect();
    }
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

/// Converts a picture in the format of another API to a `file` part. `None` if it already is one,
/// or is no picture.
fn to_ui_file(part: &Value) -> Option<Value> {
    if part["type"] == "file" {
        return None;
    }
    let MessageImage { url, .. } = parse_image(part)?;
    let data = url.strip_prefix("data:").and_then(|data| data.split([';', ',']).next());
    Some(json!({ "type": "file", "mediaType": data.unwrap_or("image/*"), "url": &*url }))
}

/// Converts a stored tool call to a `tool-NAME` part that has no output yet.
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
        // `useChat` executes the tool calls after the last `step-start` only.
        self.parts.push(json!({ "type": "step-start" }));
        self.parts.extend(to_ui_parts(&message));
        let Message { status, model, usage, imported, .. } = message;
        let created_at = self.metadata.created_at;
        self.metadata = UiMessageMetadata { status, model, usage, created_at, imported };
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
    /// Outputs of the tool calls in an assistant message.
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

/// The result of a tool call; other fields are ignored.
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
    /// `None` if there is no result yet. A call that the user denied becomes an error result.
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

/// Parses one UIMessage. Its text parts become the content. `field` is its position in the body.
pub(super) fn parse_ui_message(field: &'static str, raw: &RawValue) -> Result<ParsedUiMessage> {
    let wrong = |error: serde_json::Error| {
        let text = error.to_string();
        Error::invalid_field(field, format!("must be a UIMessage {{id, role, parts}}: {text}"))
    };
    check_raw_field(field, raw)?;
    let StrictObject(input): StrictObject<UiMessageInput<'_>> =
        serde_json::from_str(raw.get()).map_err(wrong)?;
    if input.parts.len() > MAX_PARTS {
        let message = format!("must not have more than {MAX_PARTS} parts");
        return Err(Error::invalid_field(field, message));
    }
    let mut texts = Vec::new();
    let mut others = Vec::new();
    let mut results = Vec::new();
    for part in input.parts {
        let StrictObject(kind): StrictObject<UiPartInput> =
            serde_json::from_str(part.get()).map_err(wrong)?;
        match (kind.kind.as_str(), kind.text) {
            ("text", Some(text)) => texts.push(text),
            ("text", None) => {
                return Err(Error::invalid_field(field, "must have text in each text part"));
            }
            // Marks the beginning of a model step; it has no content.
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
        id: MessageId::parse("id", &input.id).map_err(|invalid| invalid.within(field))?,
        role: input.role,
        content: texts.join("\n"),
        parts: MessageParts::parse("parts", &others)?,
        results,
    })
}
