//! The JSON of Chat Completions, read as the loosest server sends it.
//!
//! Leniency, each seen in the wild: fields that are missing, null or of another type; an empty
//! `finish_reason` until the last chunk; reasons nobody has heard of; a last chunk with usage and
//! no choices; an `error` inside a chunk or as a named event; a whole reply where a stream was
//! asked for.

use crate::domain::Usage;
use crate::domain::message::FinishReason;
use crate::provider::remote::{Dialect, failure};
use crate::provider::{Event, Fault, ProviderError};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;
use uuid::Uuid;

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
    /// Why the model will not answer: what it says instead of `content`.
    refusal: Text,
    reasoning_content: Text,
    reasoning: Text,
    tool_calls: Option<Vec<CallDelta>>,
}

/// A call, or more of one.
#[derive(Deserialize, Default)]
#[serde(default)]
struct CallDelta {
    index: Option<u32>,
    id: Text,
    function: Option<FunctionDelta>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FunctionDelta {
    name: Text,
    /// A string; some servers send the object itself.
    arguments: Option<Box<RawValue>>,
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

/// What stands behind the last event.
const DONE: &[u8] = b"[DONE]";

/// The dialect itself, and the calls it has heard of: their number in the stream, and their id.
#[derive(Default)]
pub(super) struct ChatCompletions {
    calls: Vec<(Option<u32>, String)>,
}

impl Dialect for ChatCompletions {
    fn read(
        &mut self,
        name: &[u8],
        data: &[u8],
        key: Option<&str>,
        events: &mut Vec<Event>,
    ) -> Result<bool, ProviderError> {
        if data == DONE {
            return Ok(true);
        }
        self.read_event(name, data, key, events).map(|()| false)
    }

    /// Reads a body that is one JSON object: a whole reply, or an error.
    fn read_whole(&mut self, body: &[u8], key: Option<&str>) -> Result<Vec<Event>, ProviderError> {
        let chunk: Chunk<'_> = serde_json::from_slice(body).map_err(|_| unreadable())?;
        if let Some(error) = chunk.error {
            return Err(failure::of_error_object(&error, key));
        }
        if chunk.choices.is_none() {
            return Err(unreadable());
        }
        let mut events = Vec::new();
        self.read_chunk(chunk, &mut events);
        Ok(events)
    }
}

impl ChatCompletions {
    /// Reads one event of a stream into `events`.
    fn read_event(
        &mut self,
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
        self.read_chunk(chunk, events);
        Ok(())
    }

    fn read_chunk(&mut self, chunk: Chunk<'_>, events: &mut Vec<Event>) {
        // One reply is asked for, so there is one choice.
        if let Some(choice) = chunk.choices.and_then(|choices| choices.into_iter().next()) {
            if let Some(delta) = choice.delta.or(choice.message) {
                push_reasoning(events, delta.reasoning_content.0.or(delta.reasoning.0));
                push_text(events, delta.content.0);
                push_text(events, delta.refusal.0);
                for call in delta.tool_calls.unwrap_or_default() {
                    self.push_call(events, call);
                }
            }
            let reason = choice.finish_reason.0.filter(|reason| !reason.is_empty());
            events.extend(reason.map(|reason| Event::Finish(self.finish_reason(&reason))));
        }
        let usage = chunk
            .usage
            .and_then(|usage| serde_json::from_str::<Option<WireUsage>>(usage.get()).ok()?);
        events.extend(usage.map(|usage| Event::Usage(usage.into())));
    }

    /// A call begins with its id and name. Some servers repeat both with each piece, some number no
    /// calls or all alike, some give them no ids.
    fn push_call(&mut self, events: &mut Vec<Event>, delta: CallDelta) {
        let FunctionDelta { name, arguments } = delta.function.unwrap_or_default();
        let id = delta.id.0.filter(|id| !id.is_empty());
        let name = name.0.filter(|name| !name.is_empty());
        let known = self.calls.iter().rposition(|(number, known)| match (delta.index, &id) {
            (_, Some(id)) if name.is_some() => known == id,
            (Some(_), _) => *number == delta.index,
            (None, Some(id)) => known == id,
            (None, None) => name.is_none(),
        });
        let place = match (known, name) {
            (Some(place), _) => place,
            (None, None) => return,
            (None, Some(name)) => {
                let id = id.unwrap_or_else(|| format!("call_{}", Uuid::new_v4().simple()));
                let index = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
                self.calls.push((delta.index, id.clone()));
                events.push(Event::ToolCall { index, id, name });
                self.calls.len() - 1
            }
        };
        let arguments = arguments.filter(|arguments| arguments.get() != "null");
        let Some(arguments) = arguments else { return };
        let delta = serde_json::from_str(arguments.get());
        let delta: String = delta.unwrap_or_else(|_| arguments.get().to_owned());
        if !delta.is_empty() {
            let index = u32::try_from(place).unwrap_or(u32::MAX);
            events.push(Event::ToolInput { index, delta });
        }
    }

    /// Some servers say `stop` behind calls, or a word of their own.
    fn finish_reason(&self, word: &str) -> FinishReason {
        match finish_reason(word) {
            FinishReason::Stop | FinishReason::Other if !self.calls.is_empty() => {
                FinishReason::ToolCalls
            }
            reason => reason,
        }
    }
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

/// What an answer says that it cost, streamed or whole; `end` is the end of its bytes.
pub fn usage_in(end: &[u8]) -> Option<Usage> {
    const NAME: &[u8] = b"\"usage\":";
    let places = (0..end.len().saturating_sub(NAME.len())).rev();
    let mut named = places.filter(|place| end[*place..].starts_with(NAME));
    named.find_map(|place| {
        let mut values = serde_json::Deserializer::from_slice(&end[place + NAME.len()..])
            .into_iter::<Option<WireUsage>>();
        Some(values.next()?.ok()??.into())
    })
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
        ChatCompletions::default()
            .read_event(b"", data.as_bytes(), Some("sk-secret"), &mut events)
            .map(|()| events)
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
            (
                r#"{"choices":[{"delta":{"content":null,"refusal":"I can't"}}]}"#,
                vec![text("I can't")],
            ),
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
        let whole = |body: &[u8]| ChatCompletions::default().read_whole(body, None);
        let body = br#"{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}"#;
        let events = whole(body).unwrap();
        assert_eq!(events, [Event::Text("hi".to_owned()), Event::Finish(FinishReason::Stop)]);
        assert_eq!(whole(b"{}").unwrap_err().fault, Fault::Refused);
    }

    #[test]
    fn what_an_answer_cost_is_found_at_its_end() {
        let streamed = b"data: {\"choices\":[],\"usage\":null}\n\ndata: {\"usage\": {\"prompt_tokens\":7,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        let usage = Usage { prompt_tokens: 7, completion_tokens: 2, ..Usage::default() };
        assert_eq!(usage_in(streamed), Some(usage));
        assert_eq!(
            usage_in(b"{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2},\"id\":\"x\"}"),
            Some(usage)
        );
        for nothing in ["", "{}", "data: {\"usage\":null}", "{\"usage\":{\"prompt_to", "\"usage\":"]
        {
            assert_eq!(usage_in(nothing.as_bytes()), None);
        }
    }

    /// What the deltas of one reply, each a list of calls, are heard as.
    fn heard(deltas: &[&str]) -> Vec<Event> {
        let (mut dialect, mut events) = (ChatCompletions::default(), Vec::new());
        for delta in deltas {
            let data = format!(r#"{{"choices":[{{"delta":{{"tool_calls":{delta}}}}}]}}"#);
            dialect.read_event(b"", data.as_bytes(), None, &mut events).unwrap();
        }
        let end = br#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
        dialect.read_event(b"", end, None, &mut events).unwrap();
        events
    }

    #[test]
    fn calls_are_heard_alike_from_all_kinds_of_servers() {
        let call = |index, id: &str| {
            let (id, name) = (id.to_owned(), "look".to_owned());
            Event::ToolCall { index, id, name }
        };
        let input = |index, delta: &str| Event::ToolInput { index, delta: delta.to_owned() };
        let wanted = vec![
            call(0, "a"),
            input(0, "{\"x\":"),
            input(0, "1}"),
            call(1, "b"),
            input(1, "{}"),
            Event::Finish(FinishReason::ToolCalls),
        ];
        let as_openai = heard(&[
            r#"[{"index":0,"id":"a","type":"function","function":{"name":"look","arguments":""}}]"#,
            r#"[{"index":0,"function":{"arguments":"{\"x\":"}}]"#,
            r#"[{"index":0,"function":{"arguments":"1}"}}]"#,
            r#"[{"index":1,"id":"b","type":"function","function":{"name":"look","arguments":"{}"}}]"#,
        ]);
        assert_eq!(as_openai, wanted);
        let repeating = heard(&[
            r#"[{"index":0,"id":"a","function":{"name":"look","arguments":"{\"x\":"}}]"#,
            r#"[{"index":0,"id":"a","function":{"name":"look","arguments":"1}"}}]"#,
            r#"[{"index":0,"id":"b","function":{"name":"look","arguments":{}}}]"#,
        ]);
        assert_eq!(repeating, wanted);
        let without_numbers = heard(&[
            r#"[{"id":"a","function":{"name":"look","arguments":"{\"x\":"}}]"#,
            r#"[{"function":{"arguments":"1}"}}]"#,
            r#"[{"id":"b","function":{"name":"look","arguments":"{}"}}]"#,
        ]);
        assert_eq!(without_numbers, wanted);
        let nameless = heard(&[r#"[{"function":{"name":"look"}},{"function":{"name":"look"}}]"#]);
        assert!(
            matches!(&nameless[..2], [Event::ToolCall { id, .. }, Event::ToolCall { id: other, .. }] if id != other)
        );
    }
}
