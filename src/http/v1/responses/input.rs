//! The input of a response: a string, or a list of items.
//!
//! The last message is the one to answer, and the items before it precede it in the conversation.
//! Tool outputs refer to calls in the list itself, or to calls of the response or conversation that
//! this response continues.

use crate::chat::PrecedingMessage;
use crate::domain::content::MessageBody;
use crate::domain::message::CallOrigin;
use crate::domain::tool::{self, NewToolResult, ToolCall};
use crate::domain::{Message, MessageId, MessageType, Principal, Role, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::http::ApiState;
use crate::http::v1::encrypted_reasoning::IdentifiedOrigin;
use crate::http::v1::ids::ItemId;
use crate::http::v1::item_mapping::{InputItem, PositionedItem, build_messages, to_items};
use crate::http::v1::message_content::MessageContent;
use crate::store::ReplyFields;
use serde_json::value::RawValue;
use std::collections::HashMap;

// All items are stored in the transaction that begins the turn, so it is bounded.
const MAX_INPUT_ITEMS: usize = 500;
/// Size of the messages before the last one. The last one has the limit of any message.
const MAX_PRECEDING_BYTES: usize = 8 << 20;

/// The input of a response as messages.
#[derive(Default)]
pub(super) struct ResponseInput {
    /// Outputs of calls that are not in the list itself.
    pub(super) tool_results: Vec<NewToolResult>,
    /// Whether the list began with a message. If it also has outputs of earlier calls, that message
    /// may repeat one that the conversation already has.
    pub(super) has_leading_message: bool,
    /// The messages before the last one, after `tool_results`.
    pub(super) preceding: Vec<PrecedingMessage>,
    /// The message to answer, of a user or of tools. `None` if there are only `tool_results`.
    pub(super) last: Option<PrecedingMessage>,
}

pub(super) fn parse_input(raw: &RawValue) -> Result<Vec<PositionedItem>> {
    if let Ok(text) = serde_json::from_str::<String>(raw.get()) {
        let content = MessageContent { text, ..MessageContent::default() };
        return Ok(vec![PositionedItem {
            position: "input".to_owned(),
            id: None,
            item: InputItem::Message(Role::User, content),
        }]);
    }
    let items: Vec<&RawValue> = serde_json::from_str(raw.get())
        .map_err(|_| Error::invalid_field("input", "must be a string or a list of items"))?;
    if items.len() > MAX_INPUT_ITEMS {
        return Err(Error::invalid_field("input", "must be at most 500 items"));
    }
    let read = |(index, item)| PositionedItem::parse(format!("input[{index}]"), item);
    items.into_iter().enumerate().map(read).collect()
}

/// Replaces references by the items they refer to, and gives calls their origin back.
///
/// A reference may refer to an output item of any response the caller may read. Items of
/// `conversation` itself are dropped, because its history contains them already.
pub(super) async fn resolve_references(
    api: &ApiState,
    principal: &Principal,
    conversation: Option<&SessionId>,
    mut items: Vec<PositionedItem>,
) -> Result<Vec<PositionedItem>> {
    let mut resolved = Vec::with_capacity(items.len());
    let mut last: Option<Message> = None;
    let mut origins = take_origins(&mut items);
    for PositionedItem { position, id, mut item } in items {
        if let InputItem::Reference(id) = &item {
            item = match conversation {
                Some(session) if is_in_session(api, principal, session, id).await? => {
                    InputItem::Reasoning
                }
                _ => load_referenced_item(api, principal, &position, id, &mut last).await?,
            };
        }
        if let (InputItem::Call(call), Some(id)) = (&mut item, &id) {
            // Clients that send the whole history need not be right about the ID.
            let stored = load_referenced_item(api, principal, &position, id, &mut last).await;
            match stored {
                Ok(InputItem::Call(stored))
                    if call.origin.is_none() && is_same_call(call, &stored) =>
                {
                    call.origin = stored.origin;
                }
                Err(error) if error.kind == ErrorKind::StoreUnavailable => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        if let InputItem::Call(call) = &mut item
            && call.origin.is_none()
        {
            // Each is moved to one call: copies could be many times the size of the request.
            call.origin = origins.remove(&call.id);
        }
        resolved.push(PositionedItem { position, id, item });
    }
    Ok(resolved)
}

/// The origins in encrypted reasoning, by our ids of their calls.
fn take_origins(items: &mut [PositionedItem]) -> HashMap<String, CallOrigin> {
    let mut found = HashMap::new();
    for item in items {
        if let InputItem::EncryptedReasoning(origins) = &mut item.item {
            for IdentifiedOrigin { call_id, origin } in std::mem::take(origins) {
                found.entry(call_id).or_insert(origin);
            }
        }
    }
    found
}

/// Whether an item belongs to a message of this session.
async fn is_in_session(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    id: &str,
) -> Result<bool> {
    let Ok(ItemId { message, .. }) = ItemId::parse("id", id) else { return Ok(false) };
    let later_text = message.as_str().rsplit_once('_').map(|(id, _)| MessageId::new_unchecked(id));
    for id in [Some(message), later_text].into_iter().flatten() {
        match api.store.get_message(principal, session, &id).await {
            Ok(_) => return Ok(true),
            Err(error) if error.kind == ErrorKind::MessageNotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether a client sent a stored call back unchanged. JSON may be written in another way.
fn is_same_call(sent: &ToolCall, stored: &ToolCall) -> bool {
    let input = |call: &ToolCall| tool::normalize_input(&call.input);
    sent.id == stored.id && sent.name == stored.name && input(sent) == input(stored)
}

/// Loads the item that a reference refers to. `last` caches the reply of the previous reference,
/// because references to one response usually follow one another.
async fn load_referenced_item(
    api: &ApiState,
    principal: &Principal,
    position: &str,
    id: &str,
    last: &mut Option<Message>,
) -> Result<InputItem> {
    // Reasoning is not shown to a model again, so it need not be loaded.
    if id.starts_with("rs_") {
        return Ok(InputItem::Reasoning);
    }
    let not_found = |error: Error| match error.kind {
        ErrorKind::StoreUnavailable => error,
        _ => Error::new(ErrorKind::MessageNotFound, format!("item with id '{id}' not found")),
    };
    let ItemId { message: reply, .. } =
        ItemId::parse("id", id).map_err(|error| Error::from(error).within(position))?;
    // In a stream, text after a tool call is an item of its own, `msg_<messageId>_<n>`. Stored, it
    // is one text with the first item, so the reference adds nothing.
    let (reply, is_rest) = match reply.as_str().split_once('_') {
        Some((reply, _)) => (MessageId::new_unchecked(reply), true),
        None => (reply, false),
    };
    if last.as_ref().is_none_or(|last| last.id != reply) {
        let session = api.store.find_session_by_reply(&reply).await.map_err(not_found)?;
        *last = Some(api.store.get_message(principal, &session, &reply).await.map_err(not_found)?);
    }
    if is_rest {
        return Ok(InputItem::Reasoning);
    }
    let items = last.as_ref().map(to_items).unwrap_or_default();
    let found = items.into_iter().find(|item| item.id == id);
    found.map(InputItem::from_item).ok_or_else(|| not_found(Error::message_not_found()))
}

impl ResponseInput {
    /// Groups items into messages of at most `limit` bytes each.
    pub(super) fn from_items(mut items: Vec<PositionedItem>, limit: usize) -> Result<Self> {
        let has_leading_message =
            items.first().is_some_and(|it| matches!(it.item, InputItem::Message(..)));
        let tool_results = take_unmatched_outputs(&mut items);
        let mut input = Self { tool_results, has_leading_message, ..Self::default() };
        input.preceding = build_messages(items, limit)?;
        input.last = input.preceding.pop();
        let is_answerable = match &input.last {
            Some(last) => matches!(last.role, Role::User | Role::Tool),
            None => !input.tool_results.is_empty(),
        };
        if !is_answerable {
            let expected = "must end with a user message or with function call outputs";
            return Err(Error::invalid_field("input", expected));
        }
        let size = |one: &PrecedingMessage| one.body.content.len() + one.body.parts.as_json().len();
        if input.preceding.iter().map(size).sum::<usize>() > MAX_PRECEDING_BYTES {
            return Err(Error::too_large("input", MAX_PRECEDING_BYTES));
        }
        Ok(input)
    }

    /// The position on a path of the newest reply whose calls these results answer.
    pub(super) fn find_calling_reply(&self, path: &[Message]) -> Option<usize> {
        let is_returned = |call: ToolCall| self.tool_results.iter().any(|it| it.call_id == call.id);
        path.iter().rposition(|reply| {
            reply.is_awaiting_tool_results()
                && tool::parse_calls(&reply.parts).into_iter().any(is_returned)
        })
    }

    /// Removes what the conversation already contains. `path` is the end of its active path.
    ///
    /// A library that tracks the conversation itself sends, in each step of a tool loop, the
    /// question again and the outputs of all calls so far.
    pub(super) fn remove_known(mut self, path: &[Message]) -> Self {
        // The tool loop at the end of the path, and the question before it.
        let is_step =
            |message: &&Message| message.role == Role::Tool || message.is_awaiting_tool_results();
        let steps: Vec<&Message> = path.iter().rev().take_while(is_step).collect();
        let question = path.iter().rev().nth(steps.len());
        let known = steps.iter().flat_map(|step| tool::parse_results(&step.parts));
        let known: Vec<String> = known.map(|result| result.call_id).collect();
        self.tool_results.retain(|result| !known.contains(&result.call_id));
        // The resent question, if it is one, comes first.
        let first = self.preceding.first().or(self.last.as_ref());
        let is_known = self.has_leading_message
            && question.zip(first).is_some_and(|(question, first)| {
                question.role == first.role
                    && question.content == first.body.content
                    && question.parts.as_json() == first.body.parts.as_json()
            });
        if is_known && !self.preceding.is_empty() {
            self.preceding.remove(0);
        } else if is_known {
            self.last = None;
        }
        self
    }
}

/// Removes and returns the outputs whose calls do not precede them in the list.
fn take_unmatched_outputs(items: &mut Vec<PositionedItem>) -> Vec<NewToolResult> {
    let mut call_ids: Vec<String> = Vec::new();
    let mut results = Vec::new();
    items.retain(|item| match &item.item {
        InputItem::Call(call) => {
            call_ids.push(call.id.clone());
            true
        }
        InputItem::Output(result) if !call_ids.contains(&result.call_id) => {
            results.push(result.clone());
            false
        }
        _ => true,
    });
    results
}

/// Builds the tool message with the results of a reply's calls.
pub(super) fn build_results_message(
    results: &[NewToolResult],
    calls: &[ToolCall],
    limit: usize,
) -> Result<PrecedingMessage> {
    let (text, parts) = tool::build_result_message(results, calls, None);
    let body = MessageBody::parse("input", text, parts, MessageType::Text, limit)?;
    Ok(PrecedingMessage { role: Role::Tool, body, reply: ReplyFields::default() })
}

/// Checks that each call has a result and each result a call, as OpenAI does.
pub(super) fn check_tool_results(results: &[NewToolResult], calls: &[ToolCall]) -> Result<()> {
    let has_no_result = |call: &&ToolCall| results.iter().all(|result| result.call_id != call.id);
    if let Some(call) = calls.iter().find(has_no_result) {
        let message = format!("has no tool output for function call {}", call.id);
        return Err(Error::invalid_field("input", message));
    }
    let is_unknown = |result: &&NewToolResult| calls.iter().all(|call| call.id != result.call_id);
    if let Some(result) = results.iter().find(is_unknown) {
        let message = format!("has an output for the unknown function call {}", result.call_id);
        return Err(Error::invalid_field("input", message));
    }
    Ok(())
}
