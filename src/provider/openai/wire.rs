//! The JSON of Chat Completions: written as the strictest server wants it, read as the loosest one
//! sends it.
//!
//! Leniency, each seen in the wild: fields that are missing, null or of another type; an empty
//! `finish_reason` until the last chunk; reasons nobody has heard of; a last chunk with usage and
//! no choices; an `error` inside a chunk or as a named event; a whole reply where a stream was
//! asked for.

use super::failure;
use crate::domain::image::Image;
use crate::domain::message::FinishReason;
use crate::domain::{Role, Usage};
use crate::provider::{Event, Fault, Prompt, PromptMessage, ProviderError};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;

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
}

#[derive(Serialize)]
struct Message<'a> {
    role: Role,
    content: Content<'a>,
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
    ImageUrl { image_url: &'a Image },
}

impl<'a> From<&'a PromptMessage> for Message<'a> {
    fn from(message: &'a PromptMessage) -> Self {
        let PromptMessage { role, content, images } = message;
        if images.is_empty() {
            return Self { role: *role, content: Content::Text(content) };
        }
        let text = (!content.is_empty()).then_some(ContentPart::Text { text: content });
        let images = images.iter().map(|image_url| ContentPart::ImageUrl { image_url });
        Self { role: *role, content: Content::Parts(text.into_iter().chain(images).collect()) }
    }
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// The body that asks for a streamed reply. OpenAI's newer models know only
/// `max_completion_tokens`, most other servers only `max_tokens`, and few `prompt_cache_key`.
pub(super) fn request(prompt: &Prompt, is_official: bool, sends_cache_key: bool) -> Vec<u8> {
    let request = Request {
        model: &prompt.model,
        messages: prompt.messages.iter().map(Message::from).collect(),
        stream: true,
        stream_options: StreamOptions { include_usage: true },
        temperature: prompt.temperature,
        top_p: prompt.top_p,
        max_completion_tokens: prompt.max_output_tokens.filter(|_| is_official),
        max_tokens: prompt.max_output_tokens.filter(|_| !is_official),
        prompt_cache_key: prompt.cache_key.as_deref().filter(|_| sends_cache_key),
    };
    // Strings and finite numbers always have a JSON form.
    serde_json::to_vec(&request).unwrap_or_default()
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Choice {
    delta: Option<Delta>,
    /// Where a whole reply came instead of a stream.
    message: Option<Delta>,
    finish_reason: Text,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Delta {
    content: Text,
    reasoning_content: Text,
    reasoning: Text,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: Option<f64>,
    completion_tokens: Option<f64>,
    prompt_tokens_details: Option<PromptDetails>,
    /// DeepSeek's name: <https://api-docs.deepseek.com/guides/kv_cache>.
    prompt_cache_hit_tokens: Option<f64>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Option<f64>,
}

/// Reads one event of a stream into `events`.
pub(super) fn read_event(
    name: &[u8],
    data: &[u8],
    key: Option<&str>,
    events: &mut Vec<Event>,
) -> Result<(), ProviderError> {
    let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(|_| unreadable())?;
    if let Some(error) = chunk.error {
        return Err(failure::of_error_object(&error, key));
    }
    if name == b"error" {
        let error = serde_json::from_slice(data).unwrap_or_default();
        return Err(failure::of_error_object(&error, key));
    }
    read_chunk(chunk, events);
    Ok(())
}

/// Reads a body that is one JSON object: a whole reply, or an error.
pub(super) fn whole_reply(body: &[u8], key: Option<&str>) -> Result<Vec<Event>, ProviderError> {
    let chunk: Chunk<'_> = serde_json::from_slice(body).map_err(|_| unreadable())?;
    if let Some(error) = chunk.error {
        return Err(failure::of_error_object(&error, key));
    }
    if chunk.choices.is_none() {
        return Err(unreadable());
    }
    let mut events = Vec::new();
    read_chunk(chunk, &mut events);
    Ok(events)
}

fn read_chunk(chunk: Chunk<'_>, events: &mut Vec<Event>) {
    // One reply is asked for, so there is one choice.
    if let Some(choice) = chunk.choices.and_then(|choices| choices.into_iter().next()) {
        if let Some(delta) = choice.delta.or(choice.message) {
            push_reasoning(events, delta.reasoning_content.0.or(delta.reasoning.0));
            push_text(events, delta.content.0);
        }
        let reason = choice.finish_reason.0.filter(|reason| !reason.is_empty());
        events.extend(reason.map(|reason| Event::Finish(finish_reason(&reason))));
    }
    let usage = chunk
        .usage
        .and_then(|usage| serde_json::from_str::<Option<WireUsage>>(usage.get()).ok()?);
    events.extend(usage.map(|usage| Event::Usage(usage.into())));
}

/// Deltas that arrive together are one.
fn push_text(events: &mut Vec<Event>, text: Option<String>) {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return };
    match events.last_mut() {
        Some(Event::Text(so_far)) => so_far.push_str(&text),
        _ => events.push(Event::Text(text)),
    }
}

fn push_reasoning(events: &mut Vec<Event>, text: Option<String>) {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return };
    match events.last_mut() {
        Some(Event::Reasoning(so_far)) => so_far.push_str(&text),
        _ => events.push(Event::Reasoning(text)),
    }
}

fn finish_reason(word: &str) -> FinishReason {
    match word {
        "stop" | "end_turn" | "eos" => FinishReason::Stop,
        "length" | "max_tokens" => FinishReason::Length,
        "content_filter" => FinishReason::ContentFilter,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        "error" => FinishReason::Error,
        _ => FinishReason::Other,
    }
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        // Some servers count in floats; no count is negative or fractional.
        let count = |number: Option<f64>| number.map_or(0, |number| number.max(0.0).round() as u64);
        let cached = wire.prompt_tokens_details.and_then(|details| details.cached_tokens);
        Self {
            prompt_tokens: count(wire.prompt_tokens),
            cached_tokens: count(cached.or(wire.prompt_cache_hit_tokens)),
            completion_tokens: count(wire.completion_tokens),
            reasoning_tokens: count(
                wire.completion_tokens_details.and_then(|details| details.reasoning_tokens),
            ),
            ..Self::default()
        }
    }
}

fn unreadable() -> ProviderError {
    ProviderError::new(Fault::Refused, "the provider sent something that cannot be read")
}

/// A string, or nothing where something else stands.
#[derive(Default)]
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrNothing).map(Self)
    }
}

struct TextOrNothing;

impl<'de> Visitor<'de> for TextOrNothing {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or anything else")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<de::IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<de::IgnoredAny, de::IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> Result<Vec<Event>, ProviderError> {
        let mut events = Vec::new();
        read_event(b"", data.as_bytes(), Some("sk-secret"), &mut events).map(|()| events)
    }

    #[test]
    fn chunks_of_many_servers_are_read() {
        let text = |text: &str| Event::Text(text.to_owned());
        let reasoning = |text: &str| Event::Reasoning(text.to_owned());
        for (data, events) in [
            (
                r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
                vec![],
            ),
            (r#"{"choices":[{"delta":{"content":"a"},"finish_reason":""}]}"#, vec![text("a")]),
            (
                r#"{"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}"#,
                vec![reasoning("hm")],
            ),
            (
                r#"{"choices":[{"delta":{"reasoning":"hm","content":"a"}}]}"#,
                vec![reasoning("hm"), text("a")],
            ),
            (
                r#"{"choices":[{"delta":{"content":["odd"],"reasoning":{"x":1}},"finish_reason":7}]}"#,
                vec![],
            ),
            (
                r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
                vec![Event::Finish(FinishReason::Stop)],
            ),
            (r#"{"choices":[{"finish_reason":"moon"}]}"#, vec![Event::Finish(FinishReason::Other)]),
            (r#"{"choices":null,"usage":null}"#, vec![]),
        ] {
            assert_eq!(read(data).unwrap(), events, "{data}");
        }
    }

    #[test]
    fn usage_is_read_with_its_cached_and_reasoning_tokens() {
        let data = r#"{"choices":[],"usage":{"prompt_tokens":812,"completion_tokens":95.0,"total_tokens":907,
            "prompt_tokens_details":{"cached_tokens":640},"completion_tokens_details":{"reasoning_tokens":12}}}"#;
        let usage = Usage {
            prompt_tokens: 812,
            cached_tokens: 640,
            completion_tokens: 95,
            reasoning_tokens: 12,
            ..Usage::default()
        };
        assert_eq!(read(data).unwrap(), [Event::Usage(usage)]);
        for cached in [
            r#""prompt_cache_hit_tokens":640,"prompt_cache_miss_tokens":172"#,
            r#""prompt_tokens_details":null,"prompt_cache_hit_tokens":640"#,
            r#""prompt_tokens_details":{"cached_tokens":640},"prompt_cache_hit_tokens":640"#,
        ] {
            let data = format!(
                r#"{{"choices":[],"usage":{{"prompt_tokens":812,"completion_tokens":95,{cached}}}}}"#
            );
            let usage = Usage { reasoning_tokens: 0, ..usage };
            assert_eq!(read(&data).unwrap(), [Event::Usage(usage)], "{cached}");
        }
    }

    #[test]
    fn an_error_inside_a_stream_is_an_error_and_shows_no_secret() {
        let told =
            read(r#"{"error":{"message":"no sk-secret\nhere, see https://x.y/z","code":500}}"#)
                .unwrap_err();
        assert_eq!(told.message, "the provider answered: no [key] here, see […]");
        assert_eq!(read("{\"choices\":[{\"delta\":{\"conte").unwrap_err().fault, Fault::Refused);
    }

    #[test]
    fn a_whole_reply_is_read_where_a_stream_was_asked_for() {
        let body = br#"{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}"#;
        let events = whole_reply(body, None).unwrap();
        assert_eq!(events, [Event::Text("hi".to_owned()), Event::Finish(FinishReason::Stop)]);
        assert_eq!(whole_reply(b"{}", None).unwrap_err().fault, Fault::Refused);
    }
}
