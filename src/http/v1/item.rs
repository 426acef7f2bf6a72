//! Stored messages as OpenAI's items, and back: a message, the functions it calls, and what came of
//! calls are items of their own there.
//!
//! Ids: `msg_<messageId>` is what a message says, `fc_<n>_<messageId>` its nth call, `fco_<n>_<messageId>`
//! the nth output in it.

use super::content::Content;
use crate::domain::image::images;
use crate::domain::message::{Body, FinishReason, Part, Parts, Status};
use crate::domain::tool::{self, NewResult, ToolCall};
use crate::domain::{Invalid, Message, MessageId, MessageType, Role};
use crate::error::{Error, Result};
use crate::json::Object;
use crate::store::ReplyFields;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
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
    let (calls, results) = (tool::calls(&message.parts), tool::results(&message.parts));
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
    let pictures = images(&message.parts).into_iter().map(|image| {
        let detail = image.detail.as_deref().unwrap_or("auto");
        json!({"type": "input_image", "image_url": image.url, "detail": detail, "file_id": null})
    });
    let text = (!message.content.is_empty()).then_some(text);
    text.into_iter().chain(pictures).collect()
}

/// The message that an item belongs to.
pub(super) fn message_of(field: &'static str, item: &str) -> Result<MessageId, Invalid> {
    let wants = "must be an ID that begins with msg_, fc_ or fco_";
    let numbered = |prefix| item.strip_prefix(prefix).and_then(|rest: &str| rest.split_once('_'));
    let id = match (item.strip_prefix(MESSAGE), numbered(CALL), numbered(OUTPUT)) {
        (Some(id), ..) | (_, Some((_, id)), _) | (.., Some((_, id))) => id,
        _ => return Err(Invalid::new(field, wants)),
    };
    MessageId::parse(field, id)
}

/// A message to store of items that a client adds.
pub(super) struct NewItem {
    pub(super) role: Role,
    pub(super) body: Body,
    /// The reply's fields, where it calls functions.
    pub(super) reply: ReplyFields,
}

/// One item as it was sent.
pub(super) enum Sent {
    Message(Role, Content),
    Call(ToolCall),
    Output(NewResult),
}

impl Sent {
    /// Reads one.
    pub(super) fn read(item: &RawValue) -> Result<Self> {
        #[derive(Deserialize)]
        struct Incoming<'a> {
            #[serde(rename = "type", default)]
            kind: Option<String>,
            #[serde(default)]
            role: Option<String>,
            #[serde(borrow, default)]
            content: Option<&'a RawValue>,
        }
        let wants =
            |_| Invalid::new("item", "must be a message {role, content} or a function call");
        let Object(Incoming { kind, role, content }) =
            serde_json::from_str(item.get()).map_err(wants)?;
        match kind.as_deref() {
            None | Some("message") => {}
            Some("function_call") => return call(item).map(Self::Call),
            Some("function_call_output") => return output(item).map(Self::Output),
            Some(_) => {
                let wants = "must be message, function_call or function_call_output";
                return Err(Error::invalid("type", wants));
            }
        }
        let role = match role.as_deref() {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("system" | "developer") => Role::System,
            _ => {
                return Err(Error::invalid("role", "must be user, assistant, system or developer"));
            }
        };
        let content = content.ok_or_else(|| Error::invalid("content", "is missing"))?;
        let content =
            Content::read(content, &["input_text", "output_text", "text"], "input_image")?;
        let content = content.ok_or_else(|| {
            let wants =
                "must be a string or a list of input_text, output_text and input_image parts";
            Error::invalid("content", wants)
        })?;
        Ok(Self::Message(role, content))
    }
}

/// Makes messages of items. Calls in a row are of one reply, and outputs in a row one message, as
/// they are where this server's own replies call.
pub(super) fn messages(items: Vec<Sent>, limit: usize) -> Result<Vec<NewItem>> {
    let mut messages = Vec::new();
    let mut items = items.into_iter().peekable();
    while let Some(item) = items.next() {
        let (role, text, parts, finish_reason) = match item {
            Sent::Message(role, Content { text, parts }) => (role, text, parts, None),
            Sent::Call(first) => {
                let mut calls = vec![first];
                while let Some(Sent::Call(call)) = items.next_if(|it| matches!(it, Sent::Call(_))) {
                    calls.push(call);
                }
                let parts = Parts::of(&calls.into_iter().map(part).collect::<Vec<_>>());
                (Role::Assistant, String::new(), parts, Some(FinishReason::ToolCalls))
            }
            Sent::Output(first) => {
                let mut results = vec![first];
                while let Some(Sent::Output(result)) =
                    items.next_if(|it| matches!(it, Sent::Output(_)))
                {
                    results.push(result);
                }
                let (text, parts) = tool::message_of(&results, &[], None);
                (Role::Tool, text, parts, None)
            }
        };
        let body = Body::parse("content", text, parts, MessageType::Text, limit)?;
        let reply = ReplyFields { finish_reason, ..ReplyFields::default() };
        messages.push(NewItem { role, body, reply });
    }
    Ok(messages)
}

fn part(call: ToolCall) -> Part {
    Part::ToolCall {
        input: tool::stored_input(&call.input),
        tool_call_id: call.id,
        tool_name: call.name,
    }
}

fn call(item: &RawValue) -> Result<ToolCall> {
    #[derive(Deserialize)]
    struct Call {
        call_id: String,
        name: String,
        arguments: String,
    }
    let wants = |_| Invalid::new("item", "must have call_id, name and arguments");
    let Object(Call { call_id: id, name, arguments: input }) =
        serde_json::from_str(item.get()).map_err(wants)?;
    Ok(ToolCall { id, name, input })
}

/// A `function_call_output`; its output is a text, or a list of texts.
fn output(item: &RawValue) -> Result<NewResult> {
    #[derive(Deserialize)]
    struct Output<'a> {
        call_id: String,
        #[serde(borrow)]
        output: &'a RawValue,
    }
    let wants = |_| Invalid::new("item", "must have call_id and output");
    let Object(Output { call_id, output }) = serde_json::from_str(item.get()).map_err(wants)?;
    let content = Content::read(output, &["input_text", "output_text", "text"], "input_image")?;
    let content = content.ok_or_else(|| {
        Error::invalid("output", "must be a string or a list of input_text parts")
    })?;
    let output = serde_json::value::to_raw_value(&content.text).map_err(Error::internal)?;
    Ok(NewResult::parse("call_id", call_id, output, false)?)
}
