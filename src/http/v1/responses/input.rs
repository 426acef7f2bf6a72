//! The input of a response: a text, or a list of items, of which the last is answered and the others
//! are what was said before it. What functions returned stands behind their calls, in the list or in
//! the response that it goes on from.

use crate::chat::Earlier;
use crate::domain::message::{Body, Part, Parts};
use crate::domain::tool::{self, NewResult, ToolCall};
use crate::domain::{MessageType, Role};
use crate::error::{Error, Result};
use crate::http::v1::content::Content;
use crate::http::v1::items::NewItem;
use crate::json::Object;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

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
            return Ok(Self { last: Some(Earlier { role: Role::User, body }), ..Self::default() });
        }
        let items: Vec<&RawValue> = serde_json::from_str(raw.get())
            .map_err(|_| Error::invalid("input", "must be a string or a list of items"))?;
        if items.len() > MAX_ITEMS {
            return Err(Error::invalid("input", "must be at most 500 items"));
        }
        let mut input = Self::default();
        for (index, item) in items.into_iter().enumerate() {
            let added = input.add(item, limit);
            added.map_err(|error| error.at(&format!("input[{index}]")))?;
        }
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

    /// One item. What a model thought, which clients send back with what it said, is passed over: it
    /// is shown to no model.
    fn add(&mut self, item: &RawValue, limit: usize) -> Result<()> {
        #[derive(Deserialize)]
        struct Typed {
            #[serde(rename = "type", default)]
            kind: Option<String>,
        }
        let wants = |_| Error::invalid("item", "must be an item, such as {role, content}");
        let Object(Typed { kind }) = serde_json::from_str(item.get()).map_err(wants)?;
        match kind.as_deref() {
            None | Some("message") => {
                let NewItem { role, body } = NewItem::read(item, limit)?;
                self.earlier.push(Earlier { role, body });
                Ok(())
            }
            Some("reasoning") => Ok(()),
            Some("function_call") => self.add_call(item, limit),
            Some("function_call_output") => self.add_output(item, limit),
            Some(_) => {
                let wants = "must be message, function_call, function_call_output or reasoning";
                Err(Error::invalid("type", wants))
            }
        }
    }

    /// A call belongs to the reply before it.
    fn add_call(&mut self, item: &RawValue, limit: usize) -> Result<()> {
        #[derive(Deserialize)]
        struct Called {
            call_id: String,
            name: String,
            arguments: String,
        }
        let wants = |_| Error::invalid("item", "must have call_id, name and arguments");
        let Object(Called { call_id: id, name, arguments: input }) =
            serde_json::from_str(item.get()).map_err(wants)?;
        let before = self.earlier.pop_if(|before| before.role == Role::Assistant);
        let (text, mut calls) = match before {
            Some(Earlier { body, .. }) => (body.content, tool::calls(&body.parts)),
            None => (String::new(), Vec::new()),
        };
        calls.push(ToolCall { id, name, input });
        let parts = calls.into_iter().map(|call| Part::ToolCall {
            input: tool::stored_input(&call.input),
            tool_call_id: call.id,
            tool_name: call.name,
        });
        let parts = Parts::of(&parts.collect::<Vec<_>>());
        let body = Body::parse("item", text, parts, MessageType::Text, limit)?;
        self.earlier.push(Earlier { role: Role::Assistant, body });
        Ok(())
    }

    fn add_output(&mut self, item: &RawValue, limit: usize) -> Result<()> {
        #[derive(Deserialize)]
        struct Returned {
            call_id: String,
            output: Box<RawValue>,
        }
        let wants = |_| Error::invalid("item", "must have call_id and output");
        let Object(Returned { call_id, output }) =
            serde_json::from_str(item.get()).map_err(wants)?;
        let result = NewResult::parse("call_id", call_id, told(output)?, false)?;
        let calls: Vec<ToolCall> =
            self.earlier.iter().flat_map(|before| tool::calls(&before.body.parts)).collect();
        if calls.iter().all(|call| call.id != result.call_id) {
            if self.earlier.is_empty() {
                self.returned.push(result);
                return Ok(());
            }
            let wants = "must name a function_call that stands before it";
            return Err(Error::invalid("call_id", wants));
        }
        let before = self.earlier.pop_if(|before| before.role == Role::Tool);
        let mut results: Vec<NewResult> = before.map(|before| results(&before)).unwrap_or_default();
        results.push(result);
        self.earlier.push(message_of(&results, &calls, limit)?);
        Ok(())
    }
}

/// An output as the model is told: a text, or the texts of a list.
fn told(output: Box<RawValue>) -> Result<Box<RawValue>> {
    let read = Content::read(&output, &["input_text", "output_text", "text"], "input_image")?;
    match read {
        Some(Content { text, parts }) if parts.is_empty() => {
            to_raw_value(&text).map_err(Error::internal)
        }
        _ => Ok(output),
    }
}

/// The results in a message, as they came.
fn results(message: &Earlier) -> Vec<NewResult> {
    let result = |result: tool::ToolResult| {
        let output = to_raw_value(&result.output).ok()?;
        Some(NewResult { call_id: result.call_id, output, is_error: result.is_error })
    };
    tool::results(&message.body.parts).into_iter().filter_map(result).collect()
}

/// The message that holds these results of these calls.
pub(super) fn message_of(
    results: &[NewResult],
    calls: &[ToolCall],
    limit: usize,
) -> Result<Earlier> {
    let name = |id: &str| calls.iter().find(|call| call.id == id).map(|call| call.name.clone());
    let parts = results.iter().map(|result| Part::ToolResult {
        tool_call_id: result.call_id.clone(),
        tool_name: name(&result.call_id).unwrap_or_default(),
        output: result.output.clone(),
        is_error: result.is_error,
        message_id: None,
    });
    let parts = Parts::of(&parts.collect::<Vec<_>>());
    let texts: Vec<String> =
        tool::results(&parts).into_iter().map(|result| result.output).collect();
    let body = Body::parse("output", texts.join("\n"), parts, MessageType::Text, limit)?;
    Ok(Earlier { role: Role::Tool, body })
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
