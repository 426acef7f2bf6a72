//! Stored messages as OpenAI's items, and back: a message, the functions it calls, and what came of
//! calls are items of their own there.
//!
//! Ids: `msg_<messageId>` is what a message says, `fc_<n>_<messageId>` its nth call, `fco_<n>_<messageId>`
//! the nth output in it.

use super::content::Content;
use crate::domain::image::find_images;
use crate::domain::message::{
    ContentError, FinishReason, MessageBody, MessagePart, MessageParts, Status,
};
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
const MESSAGE: &str = "msg_";
/// The same for a call, and its number.
const CALL: &str = "fc_";
/// The same for an output, and its number.
const OUTPUT: &str = "fco_";

/// An item as OpenAI calls it: a message, a function call, or the output of one.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::http) struct Item {
    pub(super) id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    status: &'static str,
    #[serde(flatten)]
    said: Said,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(untagged)]
enum Said {
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
pub(super) fn items_of(message: &Message) -> Vec<Item> {
    let status = match message.status {
        Status::Complete => "completed",
        Status::Interrupted | Status::Failed => "incomplete",
    };
    let (calls, results) = (tool::parse_calls(&message.parts), tool::parse_results(&message.parts));
    let mut items = Vec::new();
    if calls.is_empty() && results.is_empty() || !message.content.is_empty() && results.is_empty() {
        let (role, content) = (message.role, content(message));
        let id = format!("{MESSAGE}{}", message.id);
        items.push(Item { id, kind: "message", status, said: Said::Message { role, content } });
    }
    items.extend(
        (1..).zip(calls).map(|(number, call)| call_item(number, &message.id, call, status)),
    );
    items.extend((1..).zip(results).map(|(number, result)| Item {
        id: format!("{OUTPUT}{number}_{}", message.id),
        kind: "function_call_output",
        status,
        said: Said::Output { call_id: result.call_id, output: result.output },
    }));
    items
}

/// The nth call of a reply.
pub(super) fn call_item(
    number: usize,
    message: &MessageId,
    call: ToolCall,
    status: &'static str,
) -> Item {
    let ToolCall { id: call_id, name, input: arguments } = call;
    let said = Said::Call { call_id, name, arguments };
    Item { id: format!("{CALL}{number}_{message}"), kind: "function_call", status, said }
}

fn content(message: &Message) -> Vec<Value> {
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
pub(super) fn message_of(field: &'static str, item: &str) -> Result<MessageId, FieldError> {
    let wants = "must be an ID that begins with msg_, fc_ or fco_";
    let numbered = |prefix| item.strip_prefix(prefix).and_then(|rest: &str| rest.split_once('_'));
    let id = match (item.strip_prefix(MESSAGE), numbered(CALL), numbered(OUTPUT)) {
        (Some(id), ..) | (_, Some((_, id)), _) | (.., Some((_, id))) => id,
        _ => return Err(FieldError::new(field, wants)),
    };
    MessageId::parse(field, id)
}

/// A message to store of items that a client adds.
pub(super) struct NewItem {
    pub(super) role: Role,
    pub(super) body: MessageBody,
    /// The reply's fields, where it calls functions.
    pub(super) reply: ReplyFields,
}

/// One item as it was sent.
pub(super) enum Sent {
    Message(Role, Content),
    Call(ToolCall),
    Output(NewToolResult),
    /// One that was told before, by its id.
    Reference(String),
    /// What a model thought, which clients send back with what it said: it is shown to no model.
    Thought,
}

/// An item, and where it stood: in a list, or alone as a text.
pub(super) struct Placed {
    pub(super) place: String,
    pub(super) sent: Sent,
}

/// The fields of an item, told apart and no more.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

impl Placed {
    /// Reads the item at a place.
    pub(super) fn read(place: String, item: &RawValue) -> Result<Self> {
        let Ok(StrictObject(fields)) = serde_json::from_str::<StrictObject<Fields<'_>>>(item.get())
        else {
            return Err(Error::invalid_field(place, "must be an object, such as {role, content}"));
        };
        let sent = Sent::read(&fields).map_err(|error| error.within(&place))?;
        Ok(Self { place, sent })
    }
}

impl Sent {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        match optional(fields, "type")?.as_deref() {
            None if fields.contains_key("id") && !fields.contains_key("role") => {
                text(fields, "id").map(Self::Reference)
            }
            None | Some("message") => message(fields),
            Some("function_call") => {
                let (id, name) = (text(fields, "call_id")?, text(fields, "name")?);
                Ok(Self::Call(ToolCall { id, name, input: text(fields, "arguments")? }))
            }
            Some("function_call_output") => output(fields).map(Self::Output),
            Some("item_reference") => text(fields, "id").map(Self::Reference),
            Some("reasoning") => Ok(Self::Thought),
            Some(_) => Err(Error::invalid_field(
                "type",
                "must be message, function_call, function_call_output, item_reference or reasoning",
            )),
        }
    }

    /// The same item as it was told.
    pub(super) fn of(item: Item) -> Self {
        match item.said {
            Said::Call { call_id: id, name, arguments: input } => {
                Self::Call(ToolCall { id, name, input })
            }
            Said::Message { role, content } => {
                let texts = content.iter().filter_map(|part| part["text"].as_str());
                let text = texts.collect::<Vec<_>>().join("\n");
                Self::Message(role, Content { text, parts: MessageParts::default() })
            }
            // It belongs to its call, which clients do not leave out.
            Said::Output { .. } => Self::Thought,
        }
    }
}

fn optional(fields: &Fields<'_>, name: &'static str) -> Result<Option<String>> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    serde_json::from_str(value.get()).map_err(|_| Error::invalid_field(name, "must be a string"))
}

fn text(fields: &Fields<'_>, name: &'static str) -> Result<String> {
    optional(fields, name)?.ok_or_else(|| Error::invalid_field(name, "is missing"))
}

fn message(fields: &Fields<'_>) -> Result<Sent> {
    let role = match optional(fields, "role")?.as_deref() {
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
    let content = Content::read(content, &["input_text", "output_text", "text"], "input_image")?;
    let content = content.ok_or_else(|| {
        let wants = "must be a string or a list of input_text, output_text and input_image parts";
        Error::invalid_field("content", wants)
    })?;
    Ok(Sent::Message(role, content))
}

/// A `function_call_output`; its output is a text, or a list of texts.
fn output(fields: &Fields<'_>) -> Result<NewToolResult> {
    let call_id = text(fields, "call_id")?;
    let output =
        fields.get("output").ok_or_else(|| Error::invalid_field("output", "is missing"))?;
    let content = Content::read(output, &["input_text", "output_text", "text"], "input_image")?;
    let content = content.filter(|content| content.parts.is_empty()).ok_or_else(|| {
        Error::invalid_field("output", "must be a string or a list of input_text parts")
    })?;
    let output = serde_json::value::to_raw_value(&content.text).map_err(Error::internal)?;
    Ok(NewToolResult::parse("call_id", call_id, output, false)?)
}

/// Makes messages of items. Calls in a row are of one reply, and outputs in a row one message, as
/// they are where this server's own replies call. A reply that says nothing is none.
pub(super) fn messages(items: Vec<Placed>, limit: usize) -> Result<Vec<NewItem>> {
    let mut messages = Vec::new();
    let mut items = items.into_iter().peekable();
    while let Some(Placed { place, sent }) = items.next() {
        let (role, text, parts, finish_reason) = match sent {
            Sent::Message(Role::Assistant, said) if said.is_empty() => continue,
            Sent::Message(role, Content { text, parts }) => (role, text, parts, None),
            Sent::Call(first) => {
                let mut calls = vec![first];
                let is_call = |next: &Placed| matches!(next.sent, Sent::Call(_));
                while let Some(Placed { sent: Sent::Call(call), .. }) = items.next_if(is_call) {
                    calls.push(call);
                }
                let parts =
                    MessageParts::from_parts(&calls.into_iter().map(part).collect::<Vec<_>>());
                (Role::Assistant, String::new(), parts, Some(FinishReason::ToolCalls))
            }
            Sent::Output(first) => {
                let mut results = vec![first];
                let is_output = |next: &Placed| matches!(next.sent, Sent::Output(_));
                while let Some(Placed { sent: Sent::Output(result), .. }) = items.next_if(is_output)
                {
                    results.push(result);
                }
                let (text, parts) = tool::build_result_message(&results, &[], None);
                (Role::Tool, text, parts, None)
            }
            Sent::Thought => continue,
            Sent::Reference(_) => {
                return Err(Error::invalid_field(place, "must not be a reference here"));
            }
        };
        let body = MessageBody::parse("content", text, parts, MessageType::Text, limit);
        let body = body.map_err(|error| match error {
            ContentError::InvalidField(invalid) => {
                Error::invalid_field(content_at(place), invalid.message)
            }
            too_large => too_large.into(),
        })?;
        let reply = ReplyFields { finish_reason, ..ReplyFields::default() };
        messages.push(NewItem { role, body, reply });
    }
    Ok(messages)
}

/// Where the text of what stood there was.
fn content_at(place: String) -> String {
    if place.ends_with(']') { format!("{place}.content") } else { place }
}

fn part(call: ToolCall) -> MessagePart {
    MessagePart::ToolCall {
        input: tool::encode_input(&call.input),
        tool_call_id: call.id,
        tool_name: call.name,
    }
}
