//! Stored messages as OpenAI's items, and back: a message, the functions it calls, and what came of
//! calls are items of their own there.
//!
//! Ids: `msg_<messageId>` is what a message says, `fc_<n>_<messageId>` its nth call, `fco_<n>_<messageId>`
//! the nth output in it.

use super::message_content::MessageContent;
use crate::domain::content::{ContentError, MessageBody};
use crate::domain::image::find_images;
use crate::domain::message::{FinishReason, MessagePart, MessageParts, Status};
use crate::domain::tool::{self, NewToolResult, ToolCall};
use crate::domain::{FieldError, Message, MessageId, MessageType, Role};
use crate::error::{Error, Result};
use crate::json::StrictObject;
use crate::store::ReplyFields;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What stands before a message's id.
const MESSAGE_PREFIX: &str = "msg_";
/// The same for a call, and its number.
const CALL_PREFIX: &str = "fc_";
/// The same for an output, and its number.
const OUTPUT_PREFIX: &str = "fco_";

/// An item as OpenAI calls it: a message, a function call, or the output of one.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::http) struct ConversationItem {
    pub(super) id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    status: &'static str,
    #[serde(flatten)]
    payload: ItemPayload,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(untagged)]
enum ItemPayload {
    Message {
        role: Role,
        #[schema(value_type = Vec<Object>)]
        content: Vec<Value>,
    },
    Call {
        call_id: String,
        name: String,
        arguments: String,
    },
    Output {
        call_id: String,
        output: String,
    },
}

/// The items that a stored message is.
pub(super) fn to_items(message: &Message) -> Vec<ConversationItem> {
    let status = match message.status {
        Status::Complete => "completed",
        Status::Interrupted | Status::Failed => "incomplete",
    };
    let (calls, results) = (tool::parse_calls(&message.parts), tool::parse_results(&message.parts));
    let mut items = Vec::new();
    if calls.is_empty() && results.is_empty() || !message.content.is_empty() && results.is_empty() {
        let (role, content) = (message.role, encode_content(message));
        let id = format!("{MESSAGE_PREFIX}{}", message.id);
        items.push(ConversationItem {
            id,
            kind: "message",
            status,
            payload: ItemPayload::Message { role, content },
        });
    }
    items.extend(
        (1..).zip(calls).map(|(number, call)| build_call_item(number, &message.id, call, status)),
    );
    items.extend((1..).zip(results).map(|(number, result)| ConversationItem {
        id: format!("{OUTPUT_PREFIX}{number}_{}", message.id),
        kind: "function_call_output",
        status,
        payload: ItemPayload::Output { call_id: result.call_id, output: result.output },
    }));
    items
}

/// The nth call of a reply.
pub(super) fn build_call_item(
    number: usize,
    message: &MessageId,
    call: ToolCall,
    status: &'static str,
) -> ConversationItem {
    let ToolCall { id: call_id, name, input: arguments } = call;
    let said = ItemPayload::Call { call_id, name, arguments };
    ConversationItem {
        id: format!("{CALL_PREFIX}{number}_{message}"),
        kind: "function_call",
        status,
        payload: said,
    }
}

fn encode_content(message: &Message) -> Vec<Value> {
    let text = match message.role {
        Role::Assistant => {
            json!({"type": "output_text", "text": message.content, "annotations": [], "logprobs": []})
        }
        _ => json!({"type": "input_text", "text": message.content}),
    };
    let pictures = find_images(&message.parts).into_iter().map(|image| {
        let detail = image.detail.as_deref().unwrap_or("auto");
        json!({"type": "input_image", "image_url": image.url, "detail": detail, "file_id": null})
    });
    let text = (!message.content.is_empty()).then_some(text);
    text.into_iter().chain(pictures).collect()
}

/// The message that an item belongs to.
pub(super) fn parse_item_id(field: &'static str, item: &str) -> Result<MessageId, FieldError> {
    let wants = "must be an ID that begins with msg_, fc_ or fco_";
    let numbered = |prefix| item.strip_prefix(prefix).and_then(|rest: &str| rest.split_once('_'));
    let id =
        match (item.strip_prefix(MESSAGE_PREFIX), numbered(CALL_PREFIX), numbered(OUTPUT_PREFIX)) {
            (Some(id), ..) | (_, Some((_, id)), _) | (.., Some((_, id))) => id,
            _ => return Err(FieldError::new(field, wants)),
        };
    MessageId::parse(field, id)
}

/// A message to store of items that a client adds.
pub(super) struct NewItemMessage {
    pub(super) role: Role,
    pub(super) body: MessageBody,
    /// The reply's fields, where it calls functions.
    pub(super) reply: ReplyFields,
}

/// One item as it was sent.
pub(super) enum InputItem {
    Message(Role, MessageContent),
    Call(ToolCall),
    Output(NewToolResult),
    /// One that was told before, by its id.
    Reference(String),
    /// What a model thought, which clients send back with what it said: it is shown to no model.
    Reasoning,
}

/// An item, and where it stood: in a list, or alone as a text.
pub(super) struct PositionedItem {
    pub(super) position: String,
    pub(super) item: InputItem,
}

/// The fields of an item, told apart and no more.
type ItemFields<'a> = BTreeMap<String, &'a RawValue>;

impl PositionedItem {
    /// Reads the item at a place.
    pub(super) fn parse(place: String, item: &RawValue) -> Result<Self> {
        let Ok(StrictObject(fields)) =
            serde_json::from_str::<StrictObject<ItemFields<'_>>>(item.get())
        else {
            return Err(Error::invalid_field(place, "must be an object, such as {role, content}"));
        };
        let sent = InputItem::parse(&fields).map_err(|error| error.within(&place))?;
        Ok(Self { position: place, item: sent })
    }
}

impl InputItem {
    fn parse(fields: &ItemFields<'_>) -> Result<Self> {
        match read_optional_text(fields, "type")?.as_deref() {
            None if fields.contains_key("id") && !fields.contains_key("role") => {
                read_text(fields, "id").map(Self::Reference)
            }
            None | Some("message") => read_message(fields),
            Some("function_call") => {
                let (id, name) = (read_text(fields, "call_id")?, read_text(fields, "name")?);
                Ok(Self::Call(ToolCall { id, name, input: read_text(fields, "arguments")? }))
            }
            Some("function_call_output") => read_output(fields).map(Self::Output),
            Some("item_reference") => read_text(fields, "id").map(Self::Reference),
            Some("reasoning") => Ok(Self::Reasoning),
            Some(_) => Err(Error::invalid_field(
                "type",
                "must be message, function_call, function_call_output, item_reference or reasoning",
            )),
        }
    }

    /// The same item as it was told.
    pub(super) fn from_item(item: ConversationItem) -> Self {
        match item.payload {
            ItemPayload::Call { call_id: id, name, arguments: input } => {
                Self::Call(ToolCall { id, name, input })
            }
            ItemPayload::Message { role, content } => {
                let texts = content.iter().filter_map(|part| part["text"].as_str());
                let text = texts.collect::<Vec<_>>().join("\n");
                Self::Message(role, MessageContent { text, parts: MessageParts::default() })
            }
            // It belongs to its call, which clients do not leave out.
            ItemPayload::Output { .. } => Self::Reasoning,
        }
    }
}

fn read_optional_text(fields: &ItemFields<'_>, name: &'static str) -> Result<Option<String>> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    serde_json::from_str(value.get()).map_err(|_| Error::invalid_field(name, "must be a string"))
}

fn read_text(fields: &ItemFields<'_>, name: &'static str) -> Result<String> {
    read_optional_text(fields, name)?.ok_or_else(|| Error::invalid_field(name, "is missing"))
}

fn read_message(fields: &ItemFields<'_>) -> Result<InputItem> {
    let role = match read_optional_text(fields, "role")?.as_deref() {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system" | "developer") => Role::System,
        _ => {
            return Err(Error::invalid_field(
                "role",
                "must be user, assistant, system or developer",
            ));
        }
    };
    let content =
        fields.get("content").ok_or_else(|| Error::invalid_field("content", "is missing"))?;
    let content =
        MessageContent::parse(content, &["input_text", "output_text", "text"], "input_image")?;
    let content = content.ok_or_else(|| {
        let wants = "must be a string or a list of input_text, output_text and input_image parts";
        Error::invalid_field("content", wants)
    })?;
    Ok(InputItem::Message(role, content))
}

/// A `function_call_output`; its output is a text, or a list of texts.
fn read_output(fields: &ItemFields<'_>) -> Result<NewToolResult> {
    let call_id = read_text(fields, "call_id")?;
    let output =
        fields.get("output").ok_or_else(|| Error::invalid_field("output", "is missing"))?;
    let content =
        MessageContent::parse(output, &["input_text", "output_text", "text"], "input_image")?;
    let content = content.filter(|content| content.parts.is_empty()).ok_or_else(|| {
        Error::invalid_field("output", "must be a string or a list of input_text parts")
    })?;
    let output = serde_json::value::to_raw_value(&content.text).map_err(Error::internal)?;
    Ok(NewToolResult::parse("call_id", call_id, output, false)?)
}

/// Makes messages of items. Calls in a row are of one reply, and outputs in a row one message, as
/// they are where this server's own replies call. A reply that says nothing is none.
pub(super) fn build_messages(
    items: Vec<PositionedItem>,
    limit: usize,
) -> Result<Vec<NewItemMessage>> {
    let mut messages = Vec::new();
    let mut items = items.into_iter().peekable();
    while let Some(PositionedItem { position: place, item: sent }) = items.next() {
        let (role, text, parts, finish_reason) = match sent {
            InputItem::Message(Role::Assistant, said) if said.is_empty() => continue,
            InputItem::Message(role, MessageContent { text, parts }) => (role, text, parts, None),
            InputItem::Call(first) => {
                let mut calls = vec![first];
                let is_call = |next: &PositionedItem| matches!(next.item, InputItem::Call(_));
                while let Some(PositionedItem { item: InputItem::Call(call), .. }) =
                    items.next_if(is_call)
                {
                    calls.push(call);
                }
                let parts = MessageParts::from_parts(
                    &calls.into_iter().map(to_call_part).collect::<Vec<_>>(),
                );
                (Role::Assistant, String::new(), parts, Some(FinishReason::ToolCalls))
            }
            InputItem::Output(first) => {
                let mut results = vec![first];
                let is_output = |next: &PositionedItem| matches!(next.item, InputItem::Output(_));
                while let Some(PositionedItem { item: InputItem::Output(result), .. }) =
                    items.next_if(is_output)
                {
                    results.push(result);
                }
                let (text, parts) = tool::build_result_message(&results, &[], None);
                (Role::Tool, text, parts, None)
            }
            InputItem::Reasoning => continue,
            InputItem::Reference(_) => {
                return Err(Error::invalid_field(place, "must not be a reference here"));
            }
        };
        let body = MessageBody::parse("content", text, parts, MessageType::Text, limit);
        let body = body.map_err(|error| match error {
            ContentError::InvalidField(invalid) => {
                Error::invalid_field(content_position(place), invalid.message)
            }
            too_large => too_large.into(),
        })?;
        let reply = ReplyFields { finish_reason, ..ReplyFields::default() };
        messages.push(NewItemMessage { role, body, reply });
    }
    Ok(messages)
}

/// Where the text of what stood there was.
fn content_position(place: String) -> String {
    if place.ends_with(']') { format!("{place}.content") } else { place }
}

fn to_call_part(call: ToolCall) -> MessagePart {
    MessagePart::ToolCall {
        input: tool::encode_input(&call.input),
        tool_call_id: call.id,
        tool_name: call.name,
    }
}
