//! Builds requests of Chat Completions in the form that the strictest servers accept.

use super::call_parser::{EXTRA_CONTENT, REASONING_CONTENT, REASONING_DETAILS};
use crate::domain::Role;
use crate::domain::extra_params::ExtraParams;
use crate::domain::image::MessageImage;
use crate::domain::tool::ToolCall;
use crate::provider::{Prompt, PromptMessage, call_origin, original_call_ids};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;

#[derive(Serialize)]
struct OpenAiChatRequest<'a> {
    model: &'a str,
    messages: Vec<OpenAiMessage<'a>>,
    stream: bool,
    stream_options: OpenAiStreamOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<&'a str>,
    /// Contains none of the fields above.
    #[serde(flatten)]
    extra_params: &'a ExtraParams,
}

#[derive(Serialize)]
struct OpenAiMessage<'a> {
    role: Role,
    /// Null for a message that only calls functions.
    content: Option<OpenAiContent<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<OpenAiToolCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
    /// Reasoning before the calls, for models that want it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_details: Option<&'a Value>,
}

/// A message without images is sent as a string: many servers do not accept a list of parts.
#[derive(Serialize)]
#[serde(untagged)]
enum OpenAiContent<'a> {
    Text(&'a str),
    Parts(Vec<OpenAiContentPart<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum OpenAiContentPart<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: &'a MessageImage },
}

#[derive(Serialize)]
struct OpenAiToolCall<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: OpenAiFunctionCall<'a>,
    /// The model's own data, sent back unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<&'a Value>,
}

#[derive(Serialize)]
struct OpenAiFunctionCall<'a> {
    name: &'a str,
    arguments: &'a str,
}

/// Encodes a message; a message with several tool results becomes one message per result.
fn build_messages<'a>(
    message: &'a PromptMessage,
    original_ids: &HashMap<&'a str, &'a str>,
    opaque_data: impl Fn(&'a ToolCall) -> Option<&'a Value>,
) -> Vec<OpenAiMessage<'a>> {
    let wire_id = |id: &'a str| original_ids.get(id).copied().unwrap_or(id);
    let PromptMessage { role, content, images, calls, results } = message;
    let with_content = |content| OpenAiMessage {
        role: *role,
        content,
        tool_calls: Vec::new(),
        tool_call_id: None,
        reasoning_content: None,
        reasoning_details: None,
    };
    if *role == Role::Tool {
        let results = results.iter().map(|result| OpenAiMessage {
            tool_call_id: Some(wire_id(&result.call_id)),
            ..with_content(Some(OpenAiContent::Text(&result.output)))
        });
        return results.collect();
    }
    let tool_calls = calls.iter().map(|call| OpenAiToolCall {
        id: wire_id(&call.id),
        kind: "function",
        function: OpenAiFunctionCall { name: &call.name, arguments: &call.input },
        extra_content: opaque_data(call).and_then(|data| data.get(EXTRA_CONTENT)),
    });
    let tool_calls: Vec<_> = tool_calls.collect();
    let content = if images.is_empty() {
        let has_calls_only = content.is_empty() && !tool_calls.is_empty();
        (!has_calls_only).then_some(OpenAiContent::Text(content))
    } else {
        let text = (!content.is_empty()).then_some(OpenAiContentPart::Text { text: content });
        let images = images.iter().map(|image_url| OpenAiContentPart::ImageUrl { image_url });
        Some(OpenAiContent::Parts(text.into_iter().chain(images).collect()))
    };
    let find_field = |field: &str| calls.iter().find_map(|call| opaque_data(call)?.get(field));
    let reasoning_content = find_field(REASONING_CONTENT).and_then(Value::as_str);
    let reasoning_details = find_field(REASONING_DETAILS);
    vec![OpenAiMessage {
        tool_calls,
        reasoning_content,
        reasoning_details,
        ..with_content(content)
    }]
}

#[derive(Serialize)]
struct OpenAiStreamOptions {
    include_usage: bool,
}

/// Encodes the request for a streamed reply. OpenAI's newer models accept only
/// `max_completion_tokens`, most other servers only `max_tokens`, and few servers
/// `prompt_cache_key`.
pub(super) fn encode_request(
    prompt: &Prompt,
    endpoint: &str,
    is_official: bool,
    sends_cache_key: bool,
) -> Vec<u8> {
    let original_ids = original_call_ids(prompt, endpoint);
    let opaque_data = |call| call_origin(call, prompt, endpoint)?.opaque_data.as_ref();
    // Reasoning is wanted back until the model has answered the user's message.
    let is_user = |message: &PromptMessage| message.role == Role::User;
    let question = prompt.messages.iter().rposition(is_user).unwrap_or(0);
    let encode = |(index, message)| {
        let mut encoded = build_messages(message, &original_ids, opaque_data);
        if index < question {
            for message in &mut encoded {
                message.reasoning_content = None;
                message.reasoning_details = None;
            }
        }
        encoded
    };
    let request = OpenAiChatRequest {
        model: &prompt.model,
        messages: prompt.messages.iter().enumerate().flat_map(encode).collect(),
        stream: true,
        // Without this, servers send no usage in a stream.
        stream_options: OpenAiStreamOptions { include_usage: true },
        temperature: prompt.temperature,
        top_p: prompt.top_p,
        max_completion_tokens: prompt.max_output_tokens.filter(|_| is_official),
        max_tokens: prompt.max_output_tokens.filter(|_| !is_official),
        prompt_cache_key: prompt.cache_key.as_deref().filter(|_| sends_cache_key),
        extra_params: &prompt.extra_params,
    };
    // Strings and finite numbers always serialize.
    serde_json::to_vec(&request).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tool::ToolResult;
    use serde_json::{Value, json};

    #[test]
    fn tool_results_become_separate_messages() {
        let call = |id: &str| ToolCall {
            id: id.to_owned(),
            name: "look".to_owned(),
            input: "{\"x\": 1}".to_owned(),
            origin: None,
        };
        let result = |id: &str| ToolResult {
            call_id: id.to_owned(),
            output: "seen".to_owned(),
            is_error: false,
        };
        let prompt = Prompt {
            messages: vec![
                PromptMessage::from_text(Role::User, "look"),
                PromptMessage {
                    calls: vec![call("a"), call("b")],
                    ..PromptMessage::from_text(Role::Assistant, "")
                },
                PromptMessage {
                    results: vec![result("a"), result("b")],
                    ..PromptMessage::from_text(Role::Tool, "seen\nseen")
                },
            ],
            ..Prompt::default()
        };
        let sent: Value =
            serde_json::from_slice(&encode_request(&prompt, "openai", false, false)).unwrap();
        let function = json!({"name": "look", "arguments": "{\"x\": 1}"});
        let calls = json!([
            {"id": "a", "type": "function", "function": function},
            {"id": "b", "type": "function", "function": function},
        ]);
        let expected = json!([
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": null, "tool_calls": calls},
            {"role": "tool", "content": "seen", "tool_call_id": "a"},
            {"role": "tool", "content": "seen", "tool_call_id": "b"},
        ]);
        assert_eq!(sent["messages"], expected);
    }
}
