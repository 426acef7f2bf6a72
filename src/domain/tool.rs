//! Function calls and their results. The server runs no tools itself: a reply with calls ends its
//! turn, and the client's results begin the next one.
//!
//! Both are stored among the parts of a message, in the format of the AI SDK's model messages:
//! `{"type": "tool-call", "toolCallId", "toolName", "input"}` in the reply, and `{"type":
//! "tool-result", "toolCallId", "toolName", "output", "isError"?}` in the `tool` message that
//! follows it.

use super::message::{CallOrigin, MessagePart, MessageParts};
use super::{FieldError, MessageId, Role, TurnId};
use crate::json::escapes::repair_escapes;
use crate::json::limits::check_nested_value;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

/// Maximum length of a call id, in bytes. The ids are made by the vendors.
const MAX_CALL_ID_BYTES: usize = 256;
/// Levels around the arguments of a call in the parts of a message: the list and the part.
const PART_LEVELS: usize = 2;

/// A function call written by a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolCall {
    /// Call id; results refer to it.
    #[serde(rename = "toolCallId")]
    pub id: String,
    /// Function name.
    #[serde(rename = "toolName")]
    pub name: String,
    /// Arguments as the model wrote them: usually JSON, but not checked.
    pub input: String,
    /// Set if a model wrote the call in a turn of this server.
    #[serde(skip)]
    pub origin: Option<CallOrigin>,
}

/// Characters of the ids of calls. All vendors accept ids of nine letters and digits, and Mistral
/// accepts no others.
const CALL_ID_CHARS: usize = 9;

/// The id of a call by the turn that its reply belongs to and its number in the reply. The ids that
/// models give are not used: they may be missing, repeated in a reply, or the same in each reply.
pub fn derive_call_id(turn_id: &TurnId, number: usize) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let digest = Sha256::digest(format!("{turn_id}:{number}"));
    let letter = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    digest.iter().take(CALL_ID_CHARS).map(letter).collect()
}

/// The result of a call, in the form sent to the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolResult {
    #[serde(rename = "toolCallId")]
    pub call_id: String,
    /// Text or JSON.
    pub output: String,
    pub is_error: bool,
}

/// A result sent by a client.
#[derive(Debug, Clone)]
pub struct NewToolResult {
    pub call_id: String,
    /// Any JSON. A string reaches the model as its text, anything else as JSON.
    pub output: Box<RawValue>,
    pub is_error: bool,
}

impl NewToolResult {
    /// `field` names the result in errors.
    pub fn parse(
        field: &'static str,
        call_id: String,
        output: Box<RawValue>,
        is_error: bool,
    ) -> Result<Self, FieldError> {
        if call_id.is_empty() || call_id.len() > MAX_CALL_ID_BYTES || call_id.contains('\0') {
            return Err(FieldError::new(field, "must name its call with 1 to 256 bytes"));
        }
        Ok(Self { call_id, output, is_error })
    }

    pub fn to_tool_result(&self) -> ToolResult {
        ToolResult {
            call_id: self.call_id.clone(),
            output: self.output_text(),
            is_error: self.is_error,
        }
    }

    fn output_text(&self) -> String {
        json_to_text(&self.output)
    }
}

/// Text and parts of the message that stores these results of `calls`. `first` is the first reply
/// of the same question that requested tools: AI SDK clients know every later reply by its id.
pub fn build_result_message(
    results: &[NewToolResult],
    calls: &[ToolCall],
    first: Option<&MessageId>,
) -> (String, MessageParts) {
    let name_of = |id: &str| calls.iter().find(|call| call.id == id).map(|call| call.name.clone());
    let parts: Vec<MessagePart> = results
        .iter()
        .map(|result| MessagePart::ToolResult {
            tool_call_id: result.call_id.clone(),
            tool_name: name_of(&result.call_id).unwrap_or_default(),
            output: result.output.clone(),
            is_error: result.is_error,
            message_id: first.cloned(),
        })
        .collect();
    let texts: Vec<String> = results.iter().map(NewToolResult::output_text).collect();
    (texts.join("\n"), MessageParts::from_parts(&parts))
}

/// The fields of a stored part that concern tools.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredToolPart<'a> {
    #[serde(rename = "type")]
    kind: String,
    tool_call_id: Option<String>,
    tool_name: Option<String>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    origin: Option<&'a RawValue>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(default)]
    is_error: bool,
    message_id: Option<String>,
}

fn parse_stored_parts(parts: &MessageParts) -> Vec<StoredToolPart<'_>> {
    // Most messages have no tool parts: a scan of the text saves parsing them.
    if !parts.as_json().contains("\"tool-") {
        return Vec::new();
    }
    // Parts are read one by one, so that a part of another shape does not hide the others.
    let all: Vec<&RawValue> = serde_json::from_str(parts.as_json()).unwrap_or_default();
    all.into_iter().filter_map(|part| serde_json::from_str(part.get()).ok()).collect()
}

/// The calls among `parts`, in order.
pub fn parse_calls(parts: &MessageParts) -> Vec<ToolCall> {
    let calls = parse_stored_parts(parts).into_iter().filter(|part| part.kind == "tool-call");
    calls
        .filter_map(|part| {
            let input = part.input.map_or_else(|| "{}".to_owned(), json_to_text);
            // Clients may send parts of this name with other content.
            let origin = part.origin.and_then(|origin| serde_json::from_str(origin.get()).ok());
            Some(ToolCall { id: part.tool_call_id?, name: part.tool_name?, input, origin })
        })
        .collect()
}

/// The results among `parts`, in order.
pub fn parse_results(parts: &MessageParts) -> Vec<ToolResult> {
    let results = parse_stored_parts(parts).into_iter().filter(|part| part.kind == "tool-result");
    results
        .filter_map(|part| {
            let output = part.output.map(json_to_text).unwrap_or_default();
            Some(ToolResult { call_id: part.tool_call_id?, output, is_error: part.is_error })
        })
        .collect()
}

/// For a tool message, the reply that its results continue: the `first` of
/// [`build_result_message`].
pub fn find_continued_reply(role: Role, parts: &MessageParts) -> Option<MessageId> {
    if role != Role::Tool {
        return None;
    }
    parse_stored_parts(parts)
        .into_iter()
        .find_map(|part| part.message_id)
        .map(MessageId::new_unchecked)
}

/// Encodes arguments for storage: valid JSON unchanged, anything else as a JSON string.
pub fn encode_input(input: &str) -> Box<RawValue> {
    // Models may send no arguments at all for a function without parameters.
    let input = if input.trim().is_empty() { "{}" } else { input };
    // Stored arguments must be valid JSON in an export, too.
    let repaired = repair_escapes(input);
    let input = repaired.as_ref().map_or(input, |repaired| repaired.json.as_str());
    let json: Option<Box<RawValue>> = serde_json::from_str(input).ok();
    let json = json.filter(|json| is_importable(json));
    json.unwrap_or_else(|| to_raw_value(input).unwrap_or_default())
}

/// Arguments in a form that is the same for equal JSON, whichever way it is written.
pub fn normalize_input(input: &str) -> Value {
    let stored = encode_input(input);
    let value = serde_json::from_str(stored.get());
    value.map_or_else(|_| Value::String(input.to_owned()), normalize_numbers)
}

/// Clients that parse arguments write `1.0` as `1`.
fn normalize_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Number(number), Value::from),
        Value::Array(list) => list.into_iter().map(normalize_numbers).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, normalize_numbers(value))).collect()
        }
        other => other,
    }
}

/// Whether a provider's data of a call can be read in an imported message.
pub fn is_storable_data(json: &str) -> bool {
    check_nested_value(json, PART_LEVELS + 1).is_ok()
}

/// Whether the value can be read as a part of an imported message.
fn is_importable(json: &RawValue) -> bool {
    check_nested_value(json.get(), PART_LEVELS).is_ok()
}

/// Whether arguments are valid JSON; blank ones count as `{}`.
pub fn is_valid_json(input: &str) -> bool {
    input.trim().is_empty() || serde_json::from_str::<&RawValue>(input).is_ok()
}

/// The text of a JSON string; any other JSON unchanged.
fn json_to_text(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

/// The text by which the tokens of calls are counted, with the data that is sent back with them.
pub fn format_calls(calls: &[ToolCall]) -> String {
    let format_call = |call: &ToolCall| {
        let data = call.origin.as_ref().and_then(|origin| origin.opaque_data.as_ref());
        let data = data.map(|data| format!(" {data}")).unwrap_or_default();
        format!("{} {}{data}", call.name, call.input)
    };
    calls.iter().map(format_call).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_calls_and_results_round_trip() {
        let call = |id: &str, input: &str| ToolCall {
            id: id.to_owned(),
            name: "look".to_owned(),
            input: input.to_owned(),
            origin: None,
        };
        let written = [call("a", r#"{"b": 1, "a": 2}"#), call("b", "{\"cut off"), call("c", "{}")];
        let parts = MessageParts::from_parts(&written.clone().map(|call| MessagePart::ToolCall {
            tool_call_id: call.id,
            tool_name: call.name,
            input: encode_input(&call.input),
            origin: call.origin,
        }));
        assert_eq!(parse_calls(&parts), written);

        let output = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        let new = |id: &str, json, is_error| NewToolResult {
            call_id: id.to_owned(),
            output: output(json),
            is_error,
        };
        let sent = [new("a", r#""it rains""#, false), new("b", r#"{"z":1,"a":[]}"#, true)];
        let first = MessageId::new_unchecked("reply");
        let (text, parts) = build_result_message(&sent, &written, Some(&first));
        assert_eq!(text, "it rains\n{\"z\":1,\"a\":[]}");
        let read = |id: &str, output: &str, is_error| ToolResult {
            call_id: id.to_owned(),
            output: output.to_owned(),
            is_error,
        };
        let wanted = [read("a", "it rains", false), read("b", r#"{"z":1,"a":[]}"#, true)];
        assert_eq!(parse_results(&parts), wanted);
        assert_eq!(find_continued_reply(Role::Tool, &parts), Some(first));
        assert_eq!(find_continued_reply(Role::User, &parts), None);
        assert!(parse_calls(&parts).is_empty());
    }
}
