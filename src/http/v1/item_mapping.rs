//! Conversion between stored messages and OpenAI's items. One message may be several items: its
//! text, each tool call and each tool output.

use super::encrypted_reasoning::{ENCRYPTED_CONTENT, IdentifiedOrigin, decode_origins};
use super::ids::{ItemType, format_item_id};
use super::message_content::MessageContent;
use crate::chat::PrecedingMessage;
use crate::domain::content::{ContentError, MessageBody};
use crate::domain::image::find_images;
use crate::domain::message::{CallOrigin, FinishReason, MessagePart, MessageParts, Status};
use crate::domain::tool::{self, NewToolResult, ToolCall};
use crate::domain::{Message, MessageId, MessageType, Role};
use crate::error::{Error, Result};
use crate::json::StrictObject;
use crate::store::ReplyFields;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An item of the OpenAI API: a message, a function call or the output of one.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::http) struct ConversationItem {
    /// `msg_<messageId>`, `fc_<n>_<messageId>` or `fco_<n>_<messageId>`.
    pub(super) id: String,
    /// `message`, `function_call` or `function_call_output`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// `completed`, or `incomplete` for a reply that was stopped or failed.
    status: &'static str,
    #[serde(flatten)]
    payload: ItemPayload,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(untagged)]
enum ItemPayload {
    Message {
        role: Role,
        /// Parts of the types `input_text`, `output_text` and `input_image`.
        #[schema(value_type = Vec<Object>)]
        content: Vec<Value>,
    },
    Call {
        /// The ID of the call, which its output refers to.
        call_id: String,
        /// Name of the function.
        name: String,
        /// Arguments of the function as JSON.
        arguments: String,
        /// Not shown; kept for items that a later request refers to.
        #[serde(skip)]
        origin: Option<CallOrigin>,
    },
    Output {
        /// The ID that the model gave the call.
        call_id: String,
        /// The output as text.
        output: String,
    },
}

/// Converts a stored message to its items.
pub(super) fn to_items(message: &Message) -> Vec<ConversationItem> {
    let status = match message.status {
        Status::Complete => "completed",
        Status::Interrupted | Status::Failed => "incomplete",
    };
    let calls = tool::parse_calls(&message.parts);
    let results = tool::parse_results(&message.parts);
    let mut items = Vec::new();
    // The text of a tool message repeats its results, and a reply that only calls tools has none.
    // An empty reply without calls still becomes an item.
    if calls.is_empty() && results.is_empty() || !message.content.is_empty() && results.is_empty() {
        items.push(ConversationItem {
            id: format_item_id(ItemType::Message, &message.id, 0),
            kind: "message",
            status,
            payload: ItemPayload::Message { role: message.role, content: encode_content(message) },
        });
    }
    items.extend(
        calls
            .into_iter()
            .enumerate()
            .map(|(nth, call)| build_call_item(nth, &message.id, call, status)),
    );
    items.extend(results.into_iter().enumerate().map(|(nth, result)| ConversationItem {
        id: format_item_id(ItemType::Output, &message.id, nth),
        kind: "function_call_output",
        status,
        payload: ItemPayload::Output { call_id: result.call_id, output: result.output },
    }));
    items
}

/// Builds the item of a reply's `nth` tool call, counted from 0.
fn build_call_item(
    nth: usize,
    message: &MessageId,
    call: ToolCall,
    status: &'static str,
) -> ConversationItem {
    let ToolCall { id: call_id, name, input: arguments, origin } = call;
    ConversationItem {
        id: format_item_id(ItemType::Call, message, nth),
        kind: "function_call",
        status,
        payload: ItemPayload::Call { call_id, name, arguments, origin },
    }
}

fn encode_content(message: &Message) -> Vec<Value> {
    let text = match message.role {
        Role::Assistant => {
            json!({"type": "output_text", "text": message.content, "annotations": [], "logprobs": []})
        }
        _ => json!({"type": "input_text", "text": message.content}),
    };
    let images = find_images(&message.parts).into_iter().map(|image| {
        let detail = image.detail.as_deref().unwrap_or("auto");
        json!({"type": "input_image", "image_url": image.url, "detail": detail, "file_id": null})
    });
    let text = (!message.content.is_empty()).then_some(text);
    text.into_iter().chain(images).collect()
}

/// An item sent by a client.
pub(super) enum InputItem {
    Message(Role, MessageContent),
    Call(ToolCall),
    Output(NewToolResult),
    /// The ID of an item in an earlier response.
    Reference(String),
    /// Reasoning, or any other item that is skipped. Clients send reasoning back with the rest of a
    /// response; it is not shown to a model again.
    Reasoning,
    /// Reasoning with the data that the model wants back with its calls.
    EncryptedReasoning(Vec<IdentifiedOrigin>),
}

/// An input item with its position in the body, such as `input[2]`, for errors.
pub(super) struct PositionedItem {
    pub(super) position: String,
    /// The ID that the client gives the item, which is ours if the item is from a response.
    pub(super) id: Option<String>,
    pub(super) item: InputItem,
}

type ItemFields<'a> = BTreeMap<String, &'a RawValue>;

impl PositionedItem {
    pub(super) fn parse(position: String, item: &RawValue) -> Result<Self> {
        let Ok(StrictObject(fields)) =
            serde_json::from_str::<StrictObject<ItemFields<'_>>>(item.get())
        else {
            return Err(Error::invalid_field(
                position,
                "must be an object, such as {role, content}",
            ));
        };
        let item = InputItem::parse(&fields).map_err(|error| error.within(&position))?;
        let id = fields.get("id").and_then(|id| serde_json::from_str(id.get()).ok());
        Ok(Self { position, id, item })
    }
}

impl InputItem {
    fn parse(fields: &ItemFields<'_>) -> Result<Self> {
        match read_optional_text(fields, "type")?.as_deref() {
            // OpenAI's API allows to leave out the type of references and messages.
            None if fields.contains_key("id") && !fields.contains_key("role") => {
                read_text(fields, "id").map(Self::Reference)
            }
            None | Some("message") => read_message(fields),
            Some("function_call") => Ok(Self::Call(ToolCall {
                id: read_text(fields, "call_id")?,
                name: read_text(fields, "name")?,
                input: read_text(fields, "arguments")?,
                origin: None,
            })),
            Some("function_call_output") => read_output(fields).map(Self::Output),
            Some("item_reference") => read_text(fields, "id").map(Self::Reference),
            Some("reasoning") => Ok(match read_optional_text(fields, ENCRYPTED_CONTENT)? {
                Some(content) => Self::EncryptedReasoning(decode_origins(&content)?),
                None => Self::Reasoning,
            }),
            Some(_) => Err(Error::invalid_field(
                "type",
                "must be message, function_call, function_call_output, item_reference or reasoning",
            )),
        }
    }

    /// Converts an item of an earlier response that a client refers to by its ID.
    pub(super) fn from_item(item: ConversationItem) -> Self {
        match item.payload {
            ItemPayload::Call { call_id: id, name, arguments: input, origin } => {
                Self::Call(ToolCall { id, name, input, origin })
            }
            ItemPayload::Message { role, content } => {
                // Output items contain text only.
                let texts = content.iter().filter_map(|part| part["text"].as_str());
                let text = texts.collect::<Vec<_>>().join("\n");
                Self::Message(role, MessageContent { text, parts: MessageParts::default() })
            }
            // An output is sent again with the call it belongs to; the reference adds nothing.
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
        let expected =
            "must be a string or a list of input_text, output_text and input_image parts";
        Error::invalid_field("content", expected)
    })?;
    Ok(InputItem::Message(role, content))
}

/// Parses a `function_call_output`, whose output is a string or a list of text parts.
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

/// Groups items into messages. Consecutive calls become one reply and consecutive outputs one tool
/// message, as in turns of this server. Empty assistant messages are skipped.
pub(super) fn build_messages(
    items: Vec<PositionedItem>,
    limit: usize,
) -> Result<Vec<PrecedingMessage>> {
    let mut messages = Vec::new();
    let mut items = items.into_iter().peekable();
    while let Some(PositionedItem { position, item, .. }) = items.next() {
        let (role, text, parts, finish_reason) = match item {
            InputItem::Message(Role::Assistant, content) if content.is_empty() => continue,
            InputItem::Message(role, MessageContent { text, parts }) => (role, text, parts, None),
            InputItem::Call(first) => {
                // Parallel calls of one reply; each must be answered before the next reply.
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
            InputItem::Reasoning | InputItem::EncryptedReasoning(_) => continue,
            // Responses resolve references beforehand; conversations have none.
            InputItem::Reference(_) => {
                return Err(Error::invalid_field(position, "must not be an item_reference here"));
            }
        };
        let body = MessageBody::parse("content", text, parts, MessageType::Text, limit);
        let body = body.map_err(|error| match error {
            ContentError::InvalidField(invalid) => {
                Error::invalid_field(content_position(position), invalid.message)
            }
            too_large => too_large.into(),
        })?;
        let reply = ReplyFields { finish_reason, ..ReplyFields::default() };
        messages.push(PrecedingMessage { role, body, reply });
    }
    Ok(messages)
}

/// The position of a message's text: the `content` of an item in a list, or a plain string itself.
fn content_position(position: String) -> String {
    if position.ends_with(']') { format!("{position}.content") } else { position }
}

fn to_call_part(call: ToolCall) -> MessagePart {
    MessagePart::ToolCall {
        input: tool::encode_input(&call.input),
        tool_call_id: call.id,
        tool_name: call.name,
        origin: call.origin,
    }
}
