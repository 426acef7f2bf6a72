//! The input of a response: a text, or a list of items, of which the last is answered and the others
//! are what was said before it. What functions returned stands behind their calls, in the list or in
//! the response that it goes on from.

use crate::chat::PrecedingMessage;
use crate::domain::content::MessageBody;
use crate::domain::tool::{self, NewToolResult, ToolCall};
use crate::domain::{Message, MessageId, MessageType, Principal, Role, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::http::ApiState;
use crate::http::v1::item_mapping::{
    self, InputItem, NewItemMessage, PositionedItem, build_messages, to_items,
};
use crate::http::v1::message_content::MessageContent;
use crate::store::ReplyFields;
use serde_json::value::RawValue;

/// The most items, and the most bytes of all of them but the last: they are stored in one step.
const MAX_INPUT_ITEMS: usize = 500;
const MAX_PRECEDING_BYTES: usize = 8 << 20;

/// What is said.
#[derive(Default)]
pub(super) struct ResponseInput {
    /// What came of calls that are not in the list itself.
    pub(super) tool_results: Vec<NewToolResult>,
    /// Whether something stood before these.
    pub(super) has_leading_message: bool,
    /// The messages behind that and before the last one.
    pub(super) preceding: Vec<PrecedingMessage>,
    /// The last message, of a user or of tools, unless there is nothing but what was returned.
    pub(super) last: Option<PrecedingMessage>,
}

/// Reads a text or a list of items.
pub(super) fn parse_input(raw: &RawValue) -> Result<Vec<PositionedItem>> {
    if let Ok(text) = serde_json::from_str::<String>(raw.get()) {
        let content = MessageContent { text, ..MessageContent::default() };
        let place = "input".to_owned();
        return Ok(vec![PositionedItem {
            position: place,
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

/// Puts the items that references name in their place. They name what a response said before,
/// wherever it stands; what stands in the conversation itself need not be said again.
pub(super) async fn resolve_references(
    api: &ApiState,
    who: &Principal,
    conversation: Option<&SessionId>,
    items: Vec<PositionedItem>,
) -> Result<Vec<PositionedItem>> {
    let mut resolved = Vec::with_capacity(items.len());
    let mut last: Option<Message> = None;
    for PositionedItem { position: place, item: sent } in items {
        let sent = match sent {
            InputItem::Reference(id) => {
                let sent = load_referenced_item(api, who, &place, &id, &mut last).await?;
                let session = last.as_ref().map(|reply| &reply.session_id);
                if conversation.is_some() && conversation == session {
                    InputItem::Reasoning
                } else {
                    sent
                }
            }
            sent => sent,
        };
        resolved.push(PositionedItem { position: place, item: sent });
    }
    Ok(resolved)
}

/// The item that a reference names; `last` is the reply that the one before it named, for most of
/// them come in a row.
async fn load_referenced_item(
    api: &ApiState,
    who: &Principal,
    place: &str,
    id: &str,
    last: &mut Option<Message>,
) -> Result<InputItem> {
    if id.starts_with("rs_") {
        return Ok(InputItem::Reasoning);
    }
    let not_found =
        |_| Error::new(ErrorKind::MessageNotFound, format!("item with id '{id}' not found"));
    let reply =
        item_mapping::parse_item_id("id", id).map_err(|error| Error::from(error).within(place))?;
    // In a stream, text behind a call has an item of its own; stored, it is one with the first.
    let (reply, is_rest) = match reply.as_str().split_once('_') {
        Some((reply, _)) => (MessageId::new_unchecked(reply), true),
        None => (reply, false),
    };
    if last.as_ref().is_none_or(|last| last.id != reply) {
        let session = api.store.find_session_by_reply(&reply).await.map_err(not_found)?;
        *last = Some(api.store.get_message(who, &session, &reply).await.map_err(not_found)?);
    }
    if is_rest {
        return Ok(InputItem::Reasoning);
    }
    let items = last.as_ref().map(to_items).unwrap_or_default();
    let found = items.into_iter().find(|item| item.id == id);
    found.map(InputItem::from_item).ok_or_else(|| not_found(Error::message_not_found()))
}

impl ResponseInput {
    /// Makes messages of items; a message's text has at most `limit` bytes.
    pub(super) fn from_items(mut items: Vec<PositionedItem>, limit: usize) -> Result<Self> {
        let is_repeating =
            items.first().is_some_and(|it| matches!(it.item, InputItem::Message(..)));
        let returned = take_unmatched_outputs(&mut items);
        let mut input =
            Self { tool_results: returned, has_leading_message: is_repeating, ..Self::default() };
        input.preceding =
            build_messages(items, limit)?.into_iter().map(PrecedingMessage::from).collect();
        input.last = input.preceding.pop();
        let is_answerable = match &input.last {
            Some(last) => matches!(last.role, Role::User | Role::Tool),
            None => !input.tool_results.is_empty(),
        };
        if !is_answerable {
            let wants = "must end with a message of the role user, or with outputs of functions";
            return Err(Error::invalid_field("input", wants));
        }
        let size = |one: &PrecedingMessage| one.body.content.len() + one.body.parts.as_json().len();
        if input.preceding.iter().map(size).sum::<usize>() > MAX_PRECEDING_BYTES {
            return Err(Error::too_large("input", MAX_PRECEDING_BYTES));
        }
        Ok(input)
    }

    /// Where on a path the newest reply is whose calls were returned from.
    pub(super) fn find_calling_reply(&self, path: &[Message]) -> Option<usize> {
        let is_returned = |call: ToolCall| self.tool_results.iter().any(|it| it.call_id == call.id);
        path.iter().rposition(|reply| {
            reply.is_awaiting_tool_results()
                && tool::parse_calls(&reply.parts).into_iter().any(is_returned)
        })
    }

    /// Leaves out what the conversation holds: a library that knows its conversation says once more
    /// what the calling reply answered, and gives the outputs of earlier calls. `path` is its end.
    pub(super) fn remove_known(mut self, path: &[Message]) -> Self {
        let is_step =
            |message: &&Message| message.role == Role::Tool || message.is_awaiting_tool_results();
        let steps: Vec<&Message> = path.iter().rev().take_while(is_step).collect();
        let question = path.iter().rev().nth(steps.len());
        let known = steps.iter().flat_map(|step| tool::parse_results(&step.parts));
        let known: Vec<String> = known.map(|result| result.call_id).collect();
        self.tool_results.retain(|result| !known.contains(&result.call_id));
        let first = self.preceding.first().or(self.last.as_ref());
        let is_known = self.has_leading_message
            && question.zip(first).is_some_and(|(question, first)| {
                let (said, again) = (&question.parts, &first.body.parts);
                question.role == first.role
                    && question.content == first.body.content
                    && said.as_json() == again.as_json()
            });
        if is_known && !self.preceding.is_empty() {
            self.preceding.remove(0);
        } else if is_known {
            self.last = None;
        }
        self
    }
}

/// Takes the outputs out of a list whose calls do not stand before them in it.
fn take_unmatched_outputs(items: &mut Vec<PositionedItem>) -> Vec<NewToolResult> {
    let mut called: Vec<String> = Vec::new();
    let mut returned = Vec::new();
    items.retain(|item| match &item.item {
        InputItem::Call(call) => {
            called.push(call.id.clone());
            true
        }
        InputItem::Output(result) if !called.contains(&result.call_id) => {
            returned.push(result.clone());
            false
        }
        _ => true,
    });
    returned
}

impl From<NewItemMessage> for PrecedingMessage {
    fn from(NewItemMessage { role, body, reply }: NewItemMessage) -> Self {
        Self { role, body, reply }
    }
}

/// The message that holds these results of these calls.
pub(super) fn build_results_message(
    results: &[NewToolResult],
    calls: &[ToolCall],
    limit: usize,
) -> Result<PrecedingMessage> {
    let (text, parts) = tool::build_result_message(results, calls, None);
    let body = MessageBody::parse("input", text, parts, MessageType::Text, limit)?;
    Ok(PrecedingMessage { role: Role::Tool, body, reply: ReplyFields::default() })
}

/// Refuses results that leave one of these calls without. Errors: in OpenAI's words.
pub(super) fn check_tool_results(results: &[NewToolResult], calls: &[ToolCall]) -> Result<()> {
    let has_result = |call: &&ToolCall| results.iter().all(|result| result.call_id != call.id);
    if let Some(call) = calls.iter().find(has_result) {
        let wants = format!("holds no tool output for function call {}", call.id);
        return Err(Error::invalid_field("input", wants));
    }
    let is_unknown = |result: &&NewToolResult| calls.iter().all(|call| call.id != result.call_id);
    if let Some(result) = results.iter().find(is_unknown) {
        let wants = format!("holds an output of {}, which nobody called", result.call_id);
        return Err(Error::invalid_field("input", wants));
    }
    Ok(())
}
