//! Function calls: what a model wants done, and what came of it. This server runs no tools: a reply
//! that calls some ends its turn, and its results begin the next one.
//!
//! Both lie among a message's parts, as the AI SDK's model messages spell them:
//! `{"type": "tool-call", "toolCallId", "toolName", "input"}` in the reply, and in the message of the
//! role `tool` behind it `{"type": "tool-result", "toolCallId", "toolName", "output", "isError"?}`.

use super::message::{Part, Parts};
use super::{Invalid, MessageId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// The most bytes of a call's id, as vendors make them.
const MAX_ID: usize = 256;

/// A call that a model wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolCall {
    /// The name of the call, by which its result is known.
    #[serde(rename = "toolCallId")]
    pub id: String,
    /// The function.
    #[serde(rename = "toolName")]
    pub name: String,
    /// Its arguments: JSON as the model wrote it, or whatever the model wrote instead.
    pub input: String,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolResult {
    /// The call.
    #[serde(rename = "toolCallId")]
    pub call_id: String,
    /// What the model is told: a text, or JSON.
    pub output: String,
    /// Whether the call failed.
    pub is_error: bool,
}

/// A result as a client sends it.
#[derive(Debug, Clone)]
pub struct NewResult {
    /// The call.
    pub call_id: String,
    /// Any JSON; what is no string reaches the model as JSON.
    pub output: Box<RawValue>,
    /// Whether the call failed.
    pub is_error: bool,
}

impl NewResult {
    /// Checks a result; `field` is where it stood.
    pub fn parse(
        field: &'static str,
        call_id: String,
        output: Box<RawValue>,
        is_error: bool,
    ) -> Result<Self, Invalid> {
        if call_id.is_empty() || call_id.len() > MAX_ID || call_id.contains('\0') {
            return Err(Invalid::new(field, "must name its call by 1 to 256 bytes"));
        }
        Ok(Self { call_id, output, is_error })
    }

    /// The output as the model is told.
    fn text(&self) -> String {
        text_of(&self.output)
    }
}

/// Text and parts of the message that holds these results of the reply `of`, whose calls they
/// answer. `first` is the reply of the same question that the first such results answered: clients
/// of the AI SDK know all that follows by its name.
pub fn message_of(
    results: &[NewResult],
    calls: &[ToolCall],
    first: Option<&MessageId>,
) -> (String, Parts) {
    let name_of = |id: &str| calls.iter().find(|call| call.id == id).map(|call| call.name.clone());
    let parts: Vec<Part> = results
        .iter()
        .map(|result| Part::ToolResult {
            tool_call_id: result.call_id.clone(),
            tool_name: name_of(&result.call_id).unwrap_or_default(),
            output: result.output.clone(),
            is_error: result.is_error,
            message_id: first.cloned(),
        })
        .collect();
    let texts: Vec<String> = results.iter().map(NewResult::text).collect();
    (texts.join("\n"), Parts::of(&parts))
}

/// A part as it is stored, as far as it is about tools.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    #[serde(rename = "type")]
    kind: String,
    tool_call_id: Option<String>,
    tool_name: Option<String>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(default)]
    is_error: bool,
    message_id: Option<String>,
}

fn stored(parts: &Parts) -> Vec<Stored<'_>> {
    if !parts.as_json().contains("\"tool-") {
        return Vec::new();
    }
    let all: Vec<&RawValue> = serde_json::from_str(parts.as_json()).unwrap_or_default();
    all.into_iter().filter_map(|part| serde_json::from_str(part.get()).ok()).collect()
}

/// The calls among parts, in their order.
pub fn calls(parts: &Parts) -> Vec<ToolCall> {
    let calls = stored(parts).into_iter().filter(|part| part.kind == "tool-call");
    calls
        .filter_map(|part| {
            let input = part.input.map_or_else(|| "{}".to_owned(), text_of);
            Some(ToolCall { id: part.tool_call_id?, name: part.tool_name?, input })
        })
        .collect()
}

/// The results among parts, in their order.
pub fn results(parts: &Parts) -> Vec<ToolResult> {
    let results = stored(parts).into_iter().filter(|part| part.kind == "tool-result");
    results
        .filter_map(|part| {
            let output = part.output.map(text_of).unwrap_or_default();
            Some(ToolResult { call_id: part.tool_call_id?, output, is_error: part.is_error })
        })
        .collect()
}

/// The reply that results among these parts continue, as [`message_of`] was told.
pub fn continued(parts: &Parts) -> Option<MessageId> {
    stored(parts).into_iter().find_map(|part| part.message_id).map(MessageId::trusted)
}

/// Arguments as they are stored: JSON as it is, anything else as a text.
pub fn stored_input(input: &str) -> Box<RawValue> {
    let input = if input.trim().is_empty() { "{}" } else { input };
    let json: Option<Box<RawValue>> = serde_json::from_str(input).ok();
    json.unwrap_or_else(|| to_raw_value(input).unwrap_or_default())
}

/// Whether arguments are JSON.
pub fn is_json(input: &str) -> bool {
    input.trim().is_empty() || serde_json::from_str::<&RawValue>(input).is_ok()
}

/// A JSON string's text; other JSON as it is written.
fn text_of(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

/// What calls are counted by.
pub fn text_of_calls(calls: &[ToolCall]) -> String {
    let texts: Vec<String> =
        calls.iter().map(|call| format!("{} {}", call.name, call.input)).collect();
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_results_are_read_back_as_they_were_written() {
        let call = |id: &str, input: &str| ToolCall {
            id: id.to_owned(),
            name: "look".to_owned(),
            input: input.to_owned(),
        };
        let written = [call("a", r#"{"b": 1, "a": 2}"#), call("b", "{\"cut off"), call("c", "{}")];
        let parts = Parts::of(&written.clone().map(|call| Part::ToolCall {
            tool_call_id: call.id,
            tool_name: call.name,
            input: stored_input(&call.input),
        }));
        assert_eq!(calls(&parts), written);

        let output = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        let new = |id: &str, json, is_error| NewResult {
            call_id: id.to_owned(),
            output: output(json),
            is_error,
        };
        let sent = [new("a", r#""it rains""#, false), new("b", r#"{"z":1,"a":[]}"#, true)];
        let first = MessageId::trusted("reply");
        let (text, parts) = message_of(&sent, &written, Some(&first));
        assert_eq!(text, "it rains\n{\"z\":1,\"a\":[]}");
        let read = |id: &str, output: &str, is_error| ToolResult {
            call_id: id.to_owned(),
            output: output.to_owned(),
            is_error,
        };
        let wanted = [read("a", "it rains", false), read("b", r#"{"z":1,"a":[]}"#, true)];
        assert_eq!(results(&parts), wanted);
        assert_eq!(continued(&parts), Some(first));
        assert!(calls(&parts).is_empty());
    }
}
