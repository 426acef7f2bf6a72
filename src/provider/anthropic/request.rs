//! Builds requests of the Messages API.
//!
//! It differs from Chat Completions: the system prompt is apart from the messages, `max_tokens` is
//! required, the first message must be a user's, text must not be empty, and the request marks the
//! positions up to which the prompt is cached.

use super::blocks::{self, ReplyBlock, StoredBlock};
use super::tools::{self, AnthropicTool, AnthropicToolChoice};
use crate::domain::Role;
use crate::domain::extra_params::ExtraParams;
use crate::domain::image::MessageImage;
use crate::domain::model;
use crate::domain::tool::ToolCall;
use crate::provider::{Prompt, PromptMessage, call_origin, original_call_ids};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;

/// First message of a conversation whose window begins with a reply.
const EARLIER_PLACEHOLDER: &str = "(The conversation began before this.)";
/// `max_tokens` for models of which no limit is known: other vendors' behind this API.
const DEFAULT_MAX_OUTPUT_TOKENS: u32 = 8_192;
/// Image types that the API accepts.
const IMAGE_MEDIA_TYPES: &[&str] = &["image/jpeg", "image/png", "image/gif", "image/webp"];

#[derive(Serialize)]
struct AnthropicRequest<'a> {
    model: &'a str,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<AnthropicBlockParam<'a>>,
    messages: Vec<AnthropicMessageParam<'a>>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<ThinkingConfig>,
    #[serde(skip_serializing_if = "OutputConfig::is_empty")]
    output_config: OutputConfig<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<AnthropicTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<AnthropicToolChoice>,
}

/// Lets the model decide how long to think and return a summary of its reasoning.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ThinkingConfig {
    Adaptive { display: &'static str },
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<OutputFormat<'a>>,
}

impl OutputConfig<'_> {
    fn is_empty(&self) -> bool {
        self.effort.is_none() && self.format.is_none()
    }
}

#[derive(Serialize)]
struct OutputFormat<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    schema: &'a RawValue,
}

#[derive(Serialize)]
struct AnthropicMessageParam<'a> {
    role: AnthropicRole,
    content: Vec<AnthropicBlockParam<'a>>,
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum AnthropicRole {
    User,
    Assistant,
}

#[derive(Serialize)]
struct AnthropicBlockParam<'a> {
    #[serde(flatten)]
    content: AnthropicContentParam<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum AnthropicContentParam<'a> {
    Text {
        text: Cow<'a, str>,
    },
    Image {
        source: AnthropicImageSource<'a>,
    },
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    RedactedThinking {
        data: &'a str,
    },
    ToolUse {
        id: Cow<'a, str>,
        name: &'a str,
        input: Box<RawValue>,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        content: &'a str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum AnthropicImageSource<'a> {
    Base64 { media_type: &'a str, data: &'a str },
    Url { url: &'a str },
}

/// Caches the prompt up to this block for some minutes; prompts with the same beginning read it.
#[derive(Clone, Copy, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum CacheControl {
    Ephemeral,
}

impl<'a> AnthropicBlockParam<'a> {
    fn from_text(text: impl Into<Cow<'a, str>>) -> Self {
        Self { content: AnthropicContentParam::Text { text: text.into() }, cache_control: None }
    }
}

/// Encodes the request for a streamed reply.
pub(super) fn encode_request(prompt: &Prompt, endpoint: &str) -> Vec<u8> {
    let is_system = |message: &&PromptMessage| message.role == Role::System;
    let system = prompt.messages.iter().take_while(is_system).count();
    let (system, conversation) = prompt.messages.split_at(system);
    let effort =
        parse_effort(&prompt.extra_params).filter(|_| model::thinks_adaptively(&prompt.model));
    let stored_blocks = |call| blocks::read_blocks(call_origin(call, prompt, endpoint));
    let thinking = effort.filter(|_| can_think(conversation, stored_blocks));
    let has_sampling = thinking.is_none();
    // Thinking is wanted back until the model has answered the user's message.
    let exchange = conversation.iter().rev().take_while(is_exchange).count();
    let is_wanted = |index: usize| thinking.is_some() && index + exchange >= conversation.len();
    let request = AnthropicRequest {
        model: &prompt.model,
        max_tokens: prompt
            .max_output_tokens
            .or_else(|| model::max_output_tokens(&prompt.model))
            .unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS),
        system: build_system_blocks(system),
        messages: build_messages(
            conversation,
            &original_call_ids(prompt, endpoint),
            |index, call| {
                let mut blocks = stored_blocks(call);
                blocks.retain(|block| is_wanted(index) || !block.is_thinking());
                blocks
            },
        ),
        stream: true,
        // The range is 0 to 1 here. Newer models accept either `temperature` or `top_p`, not both,
        // and neither of them while thinking.
        temperature: prompt.temperature.filter(|_| has_sampling).map(|value| value.min(1.0)),
        top_p: prompt.top_p.filter(|_| has_sampling && prompt.temperature.is_none()),
        stop_sequences: parse_stop_sequences(&prompt.extra_params),
        thinking: thinking.map(|_| ThinkingConfig::Adaptive { display: "summarized" }),
        output_config: OutputConfig { effort, format: parse_output_format(&prompt.extra_params) },
        tools: tools::build_tools(&prompt.extra_params),
        tool_choice: tools::build_tool_choice(&prompt.extra_params),
    };
    // Strings and finite numbers always serialize.
    serde_json::to_vec(&request).unwrap_or_default()
}

/// `stop` of Chat Completions: a string or a list. The API rejects sequences of white space alone.
fn parse_stop_sequences(extra_params: &ExtraParams) -> Vec<String> {
    let texts = match extra_params.get("stop") {
        Some(Value::String(text)) => vec![text],
        Some(list) => serde_json::from_value(list).unwrap_or_default(),
        None => Vec::new(),
    };
    texts.into_iter().filter(|text| !text.trim().is_empty()).collect()
}

/// `reasoning_effort` of Chat Completions, as far as there is an equivalent. Source:
/// <https://platform.claude.com/docs/en/build-with-claude/effort>.
fn parse_effort(extra_params: &ExtraParams) -> Option<&'static str> {
    match extra_params.get("reasoning_effort")?.as_str()? {
        "minimal" | "low" => Some("low"),
        "medium" => Some("medium"),
        "high" => Some("high"),
        "xhigh" => Some("xhigh"),
        "max" => Some("max"),
        _ => None,
    }
}

/// Whether a message calls functions, or returns their results.
fn is_exchange(message: &&PromptMessage) -> bool {
    !message.results.is_empty() || !message.calls.is_empty()
}

/// Whether thinking may be requested. A model that continues after tool results expects its own
/// signed thinking back. If another model made the calls, there is no such thinking, and this model
/// continues without thinking.
fn can_think<'a>(
    conversation: &'a [PromptMessage],
    stored_blocks: impl Fn(&'a ToolCall) -> Vec<StoredBlock<'a>>,
) -> bool {
    let has_thinking = |message: &'a PromptMessage| {
        message.calls.iter().flat_map(&stored_blocks).any(|block| block.is_thinking())
    };
    let is_last_result = conversation.last().is_some_and(|last| !last.results.is_empty());
    let exchange = conversation.iter().rev().take_while(is_exchange);
    let callers: Vec<_> = exchange.filter(|message| !message.calls.is_empty()).collect();
    !is_last_result || (!callers.is_empty() && callers.into_iter().all(has_thinking))
}

/// `response_format` of Chat Completions if it is a schema; other formats have no equivalent.
fn parse_output_format(extra_params: &ExtraParams) -> Option<OutputFormat<'_>> {
    #[derive(Deserialize)]
    struct ResponseFormatParam<'a> {
        #[serde(borrow)]
        json_schema: NamedSchema<'a>,
    }
    #[derive(Deserialize)]
    struct NamedSchema<'a> {
        #[serde(borrow)]
        schema: &'a RawValue,
    }
    let format = serde_json::from_str(extra_params.get_raw("response_format")?.get()).ok();
    let ResponseFormatParam { json_schema: NamedSchema { schema } } = format?;
    Some(OutputFormat { kind: "json_schema", schema })
}

/// The system prompt with at most two of the four cache marks that a request may have: after the
/// first block, which stays the same when a later one (the project) changes, and after the last
/// block, where the conversation begins.
fn build_system_blocks(messages: &[PromptMessage]) -> Vec<AnthropicBlockParam<'_>> {
    let texts = messages.iter().filter(|message| !message.content.trim().is_empty());
    let mut blocks: Vec<_> =
        texts.map(|message| AnthropicBlockParam::from_text(&*message.content)).collect();
    if let Some(first) = blocks.first_mut() {
        first.cache_control = Some(CacheControl::Ephemeral);
    }
    if let Some(last) = blocks.last_mut() {
        last.cache_control = Some(CacheControl::Ephemeral);
    }
    blocks
}

/// Merges consecutive messages of the same role. A cache mark is set on the message before the new
/// one: the next prompt begins with everything up to there.
fn build_messages<'a>(
    conversation: &'a [PromptMessage],
    original_ids: &HashMap<&'a str, &'a str>,
    blocks_of: impl Fn(usize, &'a ToolCall) -> Vec<StoredBlock<'a>>,
) -> Vec<AnthropicMessageParam<'a>> {
    let last_repeated = conversation.len().checked_sub(2);
    let mut messages: Vec<AnthropicMessageParam<'_>> = Vec::new();
    for (index, message) in conversation.iter().enumerate() {
        let (role, mut content) =
            build_blocks(message, original_ids, |call| blocks_of(index, call));
        if let Some(last) = content.last_mut().filter(|_| Some(index) == last_repeated) {
            last.cache_control = Some(CacheControl::Ephemeral);
        }
        match messages.last_mut() {
            _ if content.is_empty() => {}
            Some(last) if last.role == role => last.content.extend(content),
            _ => messages.push(AnthropicMessageParam { role, content }),
        }
    }
    if messages.first().is_some_and(|first| first.role == AnthropicRole::Assistant) {
        messages.insert(
            0,
            AnthropicMessageParam {
                role: AnthropicRole::User,
                content: vec![AnthropicBlockParam::from_text(EARLIER_PLACEHOLDER)],
            },
        );
    }
    messages
}

/// The id of a call as the API accepts it: letters, digits, `_` and `-`.
fn wire_id<'a>(id: &'a str, original_ids: &HashMap<&'a str, &'a str>) -> Cow<'a, str> {
    let id = original_ids.get(id).copied().unwrap_or(id);
    let is_accepted = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if id.chars().all(is_accepted) {
        return Cow::from(id);
    }
    id.chars().map(|c| if is_accepted(c) { c } else { '_' }).collect::<String>().into()
}

fn build_blocks<'a>(
    message: &'a PromptMessage,
    original_ids: &HashMap<&'a str, &'a str>,
    blocks_of: impl Fn(&'a ToolCall) -> Vec<StoredBlock<'a>>,
) -> (AnthropicRole, Vec<AnthropicBlockParam<'a>>) {
    let text = &*message.content;
    let (role, text) = match message.role {
        // The API rejects a final assistant message that ends in white space.
        Role::Assistant => (AnthropicRole::Assistant, Cow::from(text.trim_end())),
        // Not every model accepts the system role within the conversation.
        Role::System => (AnthropicRole::User, format!("<system>\n{text}\n</system>").into()),
        Role::User | Role::Tool => (AnthropicRole::User, Cow::from(text)),
    };
    let to_block = |content| AnthropicBlockParam { content, cache_control: None };
    let images = message.images.iter().filter_map(build_image_block);
    if !message.calls.is_empty() {
        let stored = message.calls.iter().map(blocks_of).collect();
        let parts = blocks::arrange_reply(&message.content, stored);
        let to_content = |part| match part {
            ReplyBlock::Text(text) => AnthropicContentParam::Text { text: text.into() },
            ReplyBlock::Thinking { thinking, signature } => {
                AnthropicContentParam::Thinking { thinking, signature }
            }
            ReplyBlock::RedactedThinking { data } => {
                AnthropicContentParam::RedactedThinking { data }
            }
            ReplyBlock::Call(place) => build_tool_use(&message.calls[place], original_ids),
        };
        return (role, images.chain(parts.into_iter().map(to_content).map(to_block)).collect());
    }
    // The content of a tool message is a rendering of its results, which are sent themselves.
    let has_text = !text.trim().is_empty() && message.role != Role::Tool;
    let text = has_text.then(|| AnthropicBlockParam::from_text(text));
    let results = message.results.iter().map(|result| AnthropicContentParam::ToolResult {
        tool_use_id: wire_id(&result.call_id, original_ids),
        content: &result.output,
        is_error: result.is_error,
    });
    (role, text.into_iter().chain(images).chain(results.map(to_block)).collect())
}

fn build_tool_use<'a>(
    call: &'a ToolCall,
    original_ids: &HashMap<&'a str, &'a str>,
) -> AnthropicContentParam<'a> {
    AnthropicContentParam::ToolUse {
        id: wire_id(&call.id, original_ids),
        name: &call.name,
        input: tools::normalize_input(&call.input),
    }
}

/// `None` for image types that the API rejects, because one such image fails the whole request.
fn build_image_block(image: &MessageImage) -> Option<AnthropicBlockParam<'_>> {
    let source = match image.url.strip_prefix("data:") {
        None => AnthropicImageSource::Url { url: &image.url },
        Some(data) => {
            let (media_type, data) = data.split_once(";base64,")?;
            let media_type = media_type.split(';').next().unwrap_or_default();
            // A common misspelling of `image/jpeg`.
            let media_type = if media_type == "image/jpg" { "image/jpeg" } else { media_type };
            let media_type =
                *IMAGE_MEDIA_TYPES.iter().find(|known| media_type.eq_ignore_ascii_case(known))?;
            AnthropicImageSource::Base64 { media_type, data }
        }
    };
    Some(AnthropicBlockParam {
        content: AnthropicContentParam::Image { source },
        cache_control: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn encode_to_json(prompt: Prompt) -> Value {
        serde_json::from_slice(&encode_request(&prompt, "anthropic")).unwrap()
    }

    fn prompt_of(messages: Vec<PromptMessage>) -> Prompt {
        let model = "claude-sonnet-5-5".to_owned();
        Prompt { model, messages, ..Prompt::default() }
    }

    fn text_messages(messages: &[(Role, &str)]) -> Vec<PromptMessage> {
        messages.iter().map(|(role, text)| PromptMessage::from_text(*role, *text)).collect()
    }

    #[test]
    fn stable_prompt_prefix_is_marked_for_cache() {
        let sent = encode_to_json(prompt_of(text_messages(&[
            (Role::System, "Be kind."),
            (Role::System, "The project."),
            (Role::User, "one"),
            (Role::Assistant, "two"),
            (Role::User, "three"),
        ])));
        let cached = json!({"type": "ephemeral"});
        assert_eq!(
            sent,
            json!({
                "model": "claude-sonnet-5-5", "max_tokens": 32_000, "stream": true,
                "system": [
                    {"type": "text", "text": "Be kind.", "cache_control": cached},
                    {"type": "text", "text": "The project.", "cache_control": cached},
                ],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "one"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "two", "cache_control": cached}]},
                    {"role": "user", "content": [{"type": "text", "text": "three"}]},
                ],
            })
        );
    }

    #[test]
    fn roles_alternate_from_user_without_empty_text() {
        let sent = encode_to_json(prompt_of(text_messages(&[
            (Role::Assistant, "Where were we? "),
            (Role::User, "  "),
            (Role::User, "Here."),
            (Role::System, "Be brief."),
            (Role::User, "Now."),
        ])));
        let messages: Vec<(&str, Vec<&str>)> = sent["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| {
                let blocks = message["content"].as_array().unwrap();
                let texts = blocks.iter().map(|block| block["text"].as_str().unwrap());
                (message["role"].as_str().unwrap(), texts.collect())
            })
            .collect();
        assert_eq!(
            messages,
            [
                ("user", vec![EARLIER_PLACEHOLDER]),
                ("assistant", vec!["Where were we?"]),
                ("user", vec!["Here.", "<system>\nBe brief.\n</system>", "Now."]),
            ]
        );
        assert_eq!(sent.get("system"), None);
    }

    #[test]
    fn images_are_sent_as_data_or_url() {
        let image = |url: &str| MessageImage { url: url.into(), detail: None };
        let images = vec![
            image("https://e.com/a.png"),
            image("data:image/jpg;base64,AA=="),
            image("data:image/svg+xml;base64,AA=="),
            image("data:image/png,AA"),
        ];
        let message = PromptMessage { images, ..PromptMessage::from_text(Role::User, "") };
        assert_eq!(
            encode_to_json(prompt_of(vec![message]))["messages"][0]["content"],
            json!([
                {"type": "image", "source": {"type": "url", "url": "https://e.com/a.png"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AA=="}},
            ])
        );
    }

    #[test]
    fn parameters_stay_within_model_limits() {
        let limits_of = |model: &str, temperature, top_p| {
            let prompt =
                Prompt { model: model.to_owned(), temperature, top_p, ..prompt_of(vec![]) };
            let sent = encode_to_json(prompt);
            let number = |name: &str| sent[name].as_f64();
            (number("max_tokens"), number("temperature"), number("top_p"))
        };
        assert_eq!(
            limits_of("claude-3-haiku-20240307", Some(1.7), Some(0.5)),
            (Some(4096.0), Some(1.0), None)
        );
        assert_eq!(
            limits_of("claude-3-5-sonnet-latest", None, Some(0.5)),
            (Some(8192.0), None, Some(0.5))
        );
        assert_eq!(limits_of("kimi-k2", None, None), (Some(8192.0), None, None));
    }

    #[test]
    fn reasoning_effort_enables_thinking_where_supported() {
        let fields_of = |model: &str, effort: &str, messages: Vec<PromptMessage>| {
            let effort = serde_json::value::to_raw_value(effort).unwrap();
            let prompt = Prompt {
                model: model.to_owned(),
                temperature: Some(0.5),
                extra_params: ExtraParams::new([("reasoning_effort".to_owned(), effort)].into()),
                ..prompt_of(messages)
            };
            let sent = encode_to_json(prompt);
            ["thinking", "output_config", "temperature"].map(|name| sent[name].clone())
        };
        let question = || text_messages(&[(Role::User, "Why?")]);
        let thinking = json!({"type": "adaptive", "display": "summarized"});
        assert_eq!(
            fields_of("claude-sonnet-5-5", "high", question()),
            [thinking, json!({"effort": "high"}), Value::Null]
        );
        let without = [Value::Null, Value::Null, json!(0.5)];
        for (model, effort) in [
            ("claude-sonnet-5-5", "none"),
            ("claude-sonnet-5-5", "a lot"),
            ("claude-haiku-4-5", "high"),
            ("kimi-k2", "high"),
        ] {
            assert_eq!(fields_of(model, effort, question()), without, "{model} {effort}");
        }

        let result = crate::domain::tool::ToolResult {
            call_id: "c".into(),
            output: "rain".into(),
            is_error: false,
        };
        let returned =
            PromptMessage { results: vec![result], ..PromptMessage::from_text(Role::Tool, "") };
        assert_eq!(
            fields_of("claude-opus-5", "minimal", vec![returned]),
            [Value::Null, json!({"effort": "low"}), json!(0.5)]
        );
    }
}
