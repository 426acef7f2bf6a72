//! A prompt as Chat Completions wants it, written as the strictest server does.

use crate::domain::Role;
use crate::domain::extra_params::ExtraParams;
use crate::domain::image::MessageImage;
use crate::provider::{Prompt, PromptMessage};
use serde::Serialize;

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    stream: bool,
    stream_options: StreamOptions,
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
    /// None of the names above.
    #[serde(flatten)]
    further: &'a ExtraParams,
}

#[derive(Serialize)]
struct Message<'a> {
    role: Role,
    /// Null beside calls alone.
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

/// Text alone stays a string: many servers know no list of parts.
#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<ContentPart<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ContentPart<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: &'a MessageImage },
}

#[derive(Serialize)]
struct Call<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

/// One message of ours; of several results, each is a message of theirs.
fn messages(message: &PromptMessage) -> Vec<Message<'_>> {
    let PromptMessage { role, content, images, calls, results } = message;
    let said =
        |content| Message { role: *role, content, tool_calls: Vec::new(), tool_call_id: None };
    if *role == Role::Tool {
        let told = results.iter().map(|result| Message {
            tool_call_id: Some(&result.call_id),
            ..said(Some(Content::Text(&result.output)))
        });
        return told.collect();
    }
    let tool_calls = calls.iter().map(|call| Call {
        id: &call.id,
        kind: "function",
        function: Function { name: &call.name, arguments: &call.input },
    });
    let tool_calls: Vec<_> = tool_calls.collect();
    let content = if images.is_empty() {
        let is_silent = content.is_empty() && !tool_calls.is_empty();
        (!is_silent).then_some(Content::Text(content))
    } else {
        let text = (!content.is_empty()).then_some(ContentPart::Text { text: content });
        let images = images.iter().map(|image_url| ContentPart::ImageUrl { image_url });
        Some(Content::Parts(text.into_iter().chain(images).collect()))
    };
    vec![Message { tool_calls, ..said(content) }]
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// The body that asks for a streamed reply. OpenAI's newer models know only
/// `max_completion_tokens`, most other servers only `max_tokens`, and few `prompt_cache_key`.
pub(super) fn body(prompt: &Prompt, is_official: bool, sends_cache_key: bool) -> Vec<u8> {
    let request = Request {
        model: &prompt.model,
        messages: prompt.messages.iter().flat_map(messages).collect(),
        stream: true,
        stream_options: StreamOptions { include_usage: true },
        temperature: prompt.temperature,
        top_p: prompt.top_p,
        max_completion_tokens: prompt.max_output_tokens.filter(|_| is_official),
        max_tokens: prompt.max_output_tokens.filter(|_| !is_official),
        prompt_cache_key: prompt.cache_key.as_deref().filter(|_| sends_cache_key),
        further: &prompt.further,
    };
    // Strings and finite numbers always have a JSON form.
    serde_json::to_vec(&request).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tool::{ToolCall, ToolResult};
    use serde_json::{Value, json};

    #[test]
    fn calls_and_their_results_are_told_each_in_a_message_of_its_own() {
        let call = |id: &str| ToolCall {
            id: id.to_owned(),
            name: "look".to_owned(),
            input: "{\"x\": 1}".to_owned(),
        };
        let result = |id: &str| ToolResult {
            call_id: id.to_owned(),
            output: "seen".to_owned(),
            is_error: false,
        };
        let prompt = Prompt {
            messages: vec![
                PromptMessage::text(Role::User, "look"),
                PromptMessage {
                    calls: vec![call("a"), call("b")],
                    ..PromptMessage::text(Role::Assistant, "")
                },
                PromptMessage {
                    results: vec![result("a"), result("b")],
                    ..PromptMessage::text(Role::Tool, "seen\nseen")
                },
            ],
            ..Prompt::default()
        };
        let sent: Value = serde_json::from_slice(&body(&prompt, false, false)).unwrap();
        let function = json!({"name": "look", "arguments": "{\"x\": 1}"});
        let calls = json!([
            {"id": "a", "type": "function", "function": function},
            {"id": "b", "type": "function", "function": function},
        ]);
        let wanted = json!([
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": null, "tool_calls": calls},
            {"role": "tool", "content": "seen", "tool_call_id": "a"},
            {"role": "tool", "content": "seen", "tool_call_id": "b"},
        ]);
        assert_eq!(sent["messages"], wanted);
    }
}
