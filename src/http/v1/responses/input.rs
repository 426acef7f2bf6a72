//! The input of a response: a text, or a list of items, of which the last is answered and the others
//! are what was said before it. What functions returned stands behind their calls, in the list or in
//! the response that it goes on from.

use crate::chat::Earlier;
use crate::domain::message::{Body, Parts};
use crate::domain::tool::{self, NewResult, ToolCall};
use crate::domain::{MessageType, Role};
use crate::error::{Error, Result};
use crate::http::v1::item::{NewItem, Sent, messages};
use crate::json::Object;
use crate::store::ReplyFields;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The most items, and the most bytes of all of them but the last: they are stored in one step.
const MAX_ITEMS: usize = 500;
const MAX_EARLIER: usize = 8 << 20;

/// What is said.
#[derive(Default)]
pub(super) struct Input {
    /// What came of calls that are not in the list itself.
    pub(super) returned: Vec<NewResult>,
    /// The messages behind that and before the last one.
    pub(super) earlier: Vec<Earlier>,
    /// The last message, of a user or of tools, unless there is nothing but what was returned.
    pub(super) last: Option<Earlier>,
}

impl Input {
    /// Reads a text or a list of items; a message's text has at most `limit` bytes.
    pub(super) fn read(raw: &RawValue, limit: usize) -> Result<Self> {
        if let Ok(text) = serde_json::from_str::<String>(raw.get()) {
            let body = Body::parse("input", text, Parts::default(), MessageType::Text, limit)?;
            let last = Earlier { role: Role::User, body, reply: ReplyFields::default() };
            return Ok(Self { last: Some(last), ..Self::default() });
        }
        let items: Vec<&RawValue> = serde_json::from_str(raw.get())
            .map_err(|_| Error::invalid("input", "must be a string or a list of items"))?;
        if items.len() > MAX_ITEMS {
            return Err(Error::invalid("input", "must be at most 500 items"));
        }
        let mut sent = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let read = read(item).map_err(|error| error.at(&format!("input[{index}]")));
            sent.extend(read?);
        }
        let mut input = Self::default();
        // Behind a call, an output is that call's.
        let is_returned = |sent: &Sent| matches!(sent, Sent::Output(_));
        let begin = sent.iter().position(|sent| !is_returned(sent)).unwrap_or(sent.len());
        let behind = sent.split_off(begin);
        for sent in sent {
            if let Sent::Output(result) = sent {
                input.returned.push(result);
            }
        }
        ensure_called(&behind)?;
        input.earlier = messages(behind, limit)?.into_iter().map(Earlier::from).collect();
        input.last = input.earlier.pop();
        let is_answerable = match &input.last {
            Some(last) => matches!(last.role, Role::User | Role::Tool),
            None => !input.returned.is_empty(),
        };
        if !is_answerable {
            let wants = "must end with a message of the role user, or with outputs of functions";
            return Err(Error::invalid("input", wants));
        }
        let size = |one: &Earlier| one.body.content.len() + one.body.parts.as_json().len();
        if input.earlier.iter().map(size).sum::<usize>() > MAX_EARLIER {
            return Err(Error::too_large("input", MAX_EARLIER));
        }
        Ok(input)
    }
}

/// One item; none if it is what a model thought, which clients send back with what it said: it is
/// shown to no model.
fn read(item: &RawValue) -> Result<Option<Sent>> {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type", default)]
        kind: Option<String>,
    }
    let wants = |_| Error::invalid("item", "must be an item, such as {role, content}");
    let Object(Typed { kind }) = serde_json::from_str(item.get()).map_err(wants)?;
    if kind.as_deref() == Some("reasoning") {
        return Ok(None);
    }
    Sent::read(item).map(Some)
}

/// Refuses outputs whose calls do not stand before them.
fn ensure_called(items: &[Sent]) -> Result<()> {
    let mut called: Vec<&str> = Vec::new();
    for item in items {
        match item {
            Sent::Call(call) => called.push(&call.id),
            Sent::Output(result) if !called.contains(&result.call_id.as_str()) => {
                let wants = format!("holds an output of {}, which nobody called", result.call_id);
                return Err(Error::invalid("input", wants));
            }
            _ => {}
        }
    }
    Ok(())
}

impl From<NewItem> for Earlier {
    fn from(NewItem { role, body, reply }: NewItem) -> Self {
        Self { role, body, reply }
    }
}

/// The message that holds these results of these calls.
pub(super) fn message_of(
    results: &[NewResult],
    calls: &[ToolCall],
    limit: usize,
) -> Result<Earlier> {
    let (text, parts) = tool::message_of(results, calls, None);
    let body = Body::parse("input", text, parts, MessageType::Text, limit)?;
    Ok(Earlier { role: Role::Tool, body, reply: ReplyFields::default() })
}

/// Refuses results that leave one of these calls without. Errors: in OpenAI's words.
pub(super) fn ensure_all(results: &[NewResult], calls: &[ToolCall]) -> Result<()> {
    let has_result = |call: &&ToolCall| results.iter().all(|result| result.call_id != call.id);
    if let Some(call) = calls.iter().find(has_result) {
        let wants = format!("holds no tool output for function call {}", call.id);
        return Err(Error::invalid("input", wants));
    }
    let is_unknown = |result: &&NewResult| calls.iter().all(|call| call.id != result.call_id);
    if let Some(result) = results.iter().find(is_unknown) {
        let wants = format!("holds an output of {}, which nobody called", result.call_id);
        return Err(Error::invalid("input", wants));
    }
    Ok(())
}
