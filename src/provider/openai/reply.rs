//! Parses replies of Chat Completions in all variants that servers are known to send.
//!
//! Accepted variants: fields that are missing, null or of another type; an empty `finish_reason`
//! until the last chunk; unknown reasons; a last chunk with usage and without choices; an `error`
//! in a chunk or as a named event; a whole reply in place of a stream.

use crate::domain::Usage;
use crate::domain::message::FinishReason;
use crate::provider::http::{StreamParser, errors};
use crate::provider::{ProviderError, ProviderErrorKind, ProviderEvent};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;
use uuid::Uuid;

#[derive(Deserialize)]
struct OpenAiChunk<'a> {
    #[serde(default)]
    choices: Option<Vec<OpenAiChoice>>,
    #[serde(default, borrow)]
    usage: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OpenAiChoice {
    delta: Option<OpenAiDelta>,
    /// Set in a reply that is not streamed.
    message: Option<OpenAiDelta>,
    finish_reason: LenientString,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OpenAiDelta {
    content: LenientString,
    /// Text that explains why the model declines to answer; sent instead of `content`.
    refusal: LenientString,
    reasoning_content: LenientString,
    reasoning: LenientString,
    tool_calls: Option<Vec<OpenAiCallDelta>>,
}

/// Start of a function call, or a delta of its arguments.
#[derive(Deserialize, Default)]
#[serde(default)]
struct OpenAiCallDelta {
    index: Option<u32>,
    id: LenientString,
    function: Option<OpenAiFunctionDelta>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OpenAiFunctionDelta {
    name: LenientString,
    /// A string in the protocol; some servers send the object itself.
    arguments: Option<Box<RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OpenAiUsage {
    prompt_tokens: Option<f64>,
    completion_tokens: Option<f64>,
    prompt_tokens_details: Option<OpenAiPromptDetails>,
    /// DeepSeek's field: <https://api-docs.deepseek.com/guides/kv_cache>.
    prompt_cache_hit_tokens: Option<f64>,
    completion_tokens_details: Option<OpenAiCompletionDetails>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OpenAiPromptDetails {
    cached_tokens: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OpenAiCompletionDetails {
    reasoning_tokens: Option<f64>,
}

/// Data of the event that ends a stream.
const DONE_MARKER: &[u8] = b"[DONE]";

/// Parser state: the index that the server gave each call, if any, and the call's id.
#[derive(Default)]
pub(super) struct OpenAiStreamParser {
    calls: Vec<(Option<u32>, String)>,
}

impl StreamParser for OpenAiStreamParser {
    fn parse_event(
        &mut self,
        name: &[u8],
        data: &[u8],
        key: Option<&str>,
        events: &mut Vec<ProviderEvent>,
    ) -> Result<bool, ProviderError> {
        if data == DONE_MARKER {
            return Ok(true);
        }
        self.parse_chunk_event(name, data, key, events).map(|()| false)
    }

    fn parse_body(
        &mut self,
        body: &[u8],
        key: Option<&str>,
    ) -> Result<Vec<ProviderEvent>, ProviderError> {
        let chunk: OpenAiChunk<'_> =
            serde_json::from_slice(body).map_err(|_| unreadable_error())?;
        if let Some(error) = chunk.error {
            return Err(errors::object_error(&error, key));
        }
        if chunk.choices.is_none() {
            return Err(unreadable_error());
        }
        let mut events = Vec::new();
        self.apply_chunk(chunk, &mut events);
        Ok(events)
    }
}

impl OpenAiStreamParser {
    fn parse_chunk_event(
        &mut self,
        name: &[u8],
        data: &[u8],
        key: Option<&str>,
        events: &mut Vec<ProviderEvent>,
    ) -> Result<(), ProviderError> {
        let chunk: OpenAiChunk<'_> =
            serde_json::from_slice(data).map_err(|_| unreadable_error())?;
        if let Some(error) = chunk.error {
            return Err(errors::object_error(&error, key));
        }
        if name == b"error" {
            let error = serde_json::from_slice(data).unwrap_or_default();
            return Err(errors::object_error(&error, key));
        }
        self.apply_chunk(chunk, events);
        Ok(())
    }

    fn apply_chunk(&mut self, chunk: OpenAiChunk<'_>, events: &mut Vec<ProviderEvent>) {
        // `n` is never sent, so there is at most one choice.
        if let Some(choice) = chunk.choices.and_then(|choices| choices.into_iter().next()) {
            if let Some(delta) = choice.delta.or(choice.message) {
                push_reasoning(events, delta.reasoning_content.0.or(delta.reasoning.0));
                push_text(events, delta.content.0);
                push_text(events, delta.refusal.0);
                for call in delta.tool_calls.unwrap_or_default() {
                    self.push_call_delta(events, call);
                }
            }
            let reason = choice.finish_reason.0.filter(|reason| !reason.is_empty());
            events.extend(
                reason.map(|reason| ProviderEvent::Finish(self.map_finish_reason(&reason))),
            );
        }
        let usage = chunk
            .usage
            .and_then(|usage| serde_json::from_str::<Option<OpenAiUsage>>(usage.get()).ok()?);
        events.extend(usage.map(|usage| ProviderEvent::Usage(usage.into())));
    }

    /// Adds a part of a function call. A call begins with its id and name. Some servers repeat both
    /// in each part, some give calls no index or the same one, some give them no ids.
    fn push_call_delta(&mut self, events: &mut Vec<ProviderEvent>, delta: OpenAiCallDelta) {
        let OpenAiFunctionDelta { name, arguments } = delta.function.unwrap_or_default();
        let id = delta.id.0.filter(|id| !id.is_empty());
        let name = name.0.filter(|name| !name.is_empty());
        // Parts with id and name are matched by id, because servers that repeat both may give all
        // calls the same index. Other parts are matched by index or else by id, and without either
        // they belong to the last call.
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
                events.push(ProviderEvent::ToolCall { index, id, name });
                self.calls.len() - 1
            }
        };
        // Null means that this part has no arguments.
        let arguments = arguments.filter(|arguments| arguments.get() != "null");
        let Some(arguments) = arguments else { return };
        let delta = serde_json::from_str(arguments.get());
        let delta: String = delta.unwrap_or_else(|_| arguments.get().to_owned());
        if !delta.is_empty() {
            let index = u32::try_from(place).unwrap_or(u32::MAX);
            events.push(ProviderEvent::ToolInput { index, delta });
        }
    }

    /// Some servers finish with `stop` or a reason of their own after function calls.
    fn map_finish_reason(&self, word: &str) -> FinishReason {
        match parse_finish_reason(word) {
            FinishReason::Stop | FinishReason::Other if !self.calls.is_empty() => {
                FinishReason::ToolCalls
            }
            reason => reason,
        }
    }
}

/// Appends to the last event if it is text, too, so deltas that arrive together become one event.
fn push_text(events: &mut Vec<ProviderEvent>, text: Option<String>) {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return };
    match events.last_mut() {
        Some(ProviderEvent::Text(so_far)) => so_far.push_str(&text),
        _ => events.push(ProviderEvent::Text(text)),
    }
}

fn push_reasoning(events: &mut Vec<ProviderEvent>, text: Option<String>) {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return };
    match events.last_mut() {
        Some(ProviderEvent::Reasoning(so_far)) => so_far.push_str(&text),
        _ => events.push(ProviderEvent::Reasoning(text)),
    }
}

fn parse_finish_reason(word: &str) -> FinishReason {
    match word {
        "stop" | "end_turn" | "eos" => FinishReason::Stop,
        "length" | "max_tokens" => FinishReason::Length,
        "content_filter" => FinishReason::ContentFilter,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        "error" => FinishReason::Error,
        _ => FinishReason::Other,
    }
}

impl From<OpenAiUsage> for Usage {
    fn from(wire: OpenAiUsage) -> Self {
        // Some servers send floats. Counts are never negative or fractional.
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

/// Finds the usage in the last bytes of a response, streamed or not.
pub fn find_usage(end: &[u8]) -> Option<Usage> {
    const USAGE_KEY: &[u8] = b"\"usage\":";
    // Searched from the end: the last usage that is not null counts. Earlier chunks of a stream
    // have a null usage, and the bytes may begin in the middle of a chunk.
    let positions = (0..end.len().saturating_sub(USAGE_KEY.len())).rev();
    let mut matches = positions.filter(|position| end[*position..].starts_with(USAGE_KEY));
    matches.find_map(|place| {
        let mut values = serde_json::Deserializer::from_slice(&end[place + USAGE_KEY.len()..])
            .into_iter::<Option<OpenAiUsage>>();
        Some(values.next()?.ok()??.into())
    })
}

fn unreadable_error() -> ProviderError {
    ProviderError::new(
        ProviderErrorKind::BadResponse,
        "the provider's response could not be parsed",
    )
}

/// A string; values of other types become `None`.
#[derive(Default)]
struct LenientString(Option<String>);

impl<'de> Deserialize<'de> for LenientString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientStringVisitor).map(Self)
    }
}

struct LenientStringVisitor;

impl<'de> Visitor<'de> for LenientStringVisitor {
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

    fn parse_one(data: &str) -> Result<Vec<ProviderEvent>, ProviderError> {
        let mut events = Vec::new();
        OpenAiStreamParser::default()
            .parse_chunk_event(b"", data.as_bytes(), Some("sk-secret"), &mut events)
            .map(|()| events)
    }

    #[test]
    fn chunks_of_many_servers_are_parsed() {
        let text = |text: &str| ProviderEvent::Text(text.to_owned());
        let reasoning = |text: &str| ProviderEvent::Reasoning(text.to_owned());
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
                vec![ProviderEvent::Finish(FinishReason::Stop)],
            ),
            (
                r#"{"choices":[{"finish_reason":"moon"}]}"#,
                vec![ProviderEvent::Finish(FinishReason::Other)],
            ),
            (r#"{"choices":null,"usage":null}"#, vec![]),
            (
                r#"{"choices":[{"delta":{"content":null,"refusal":"I can't"}}]}"#,
                vec![text("I can't")],
            ),
        ] {
            assert_eq!(parse_one(data).unwrap(), events, "{data}");
        }
    }

    #[test]
    fn usage_includes_cached_and_reasoning_tokens() {
        let data = r#"{"choices":[],"usage":{"prompt_tokens":812,"completion_tokens":95.0,"total_tokens":907,
            "prompt_tokens_details":{"cached_tokens":640},"completion_tokens_details":{"reasoning_tokens":12}}}"#;
        let usage = Usage {
            prompt_tokens: 812,
            cached_tokens: 640,
            completion_tokens: 95,
            reasoning_tokens: 12,
            ..Usage::default()
        };
        assert_eq!(parse_one(data).unwrap(), [ProviderEvent::Usage(usage)]);
        for cached in [
            r#""prompt_cache_hit_tokens":640,"prompt_cache_miss_tokens":172"#,
            r#""prompt_tokens_details":null,"prompt_cache_hit_tokens":640"#,
            r#""prompt_tokens_details":{"cached_tokens":640},"prompt_cache_hit_tokens":640"#,
        ] {
            let data = format!(
                r#"{{"choices":[],"usage":{{"prompt_tokens":812,"completion_tokens":95,{cached}}}}}"#
            );
            let usage = Usage { reasoning_tokens: 0, ..usage };
            assert_eq!(parse_one(&data).unwrap(), [ProviderEvent::Usage(usage)], "{cached}");
        }
    }

    #[test]
    fn stream_error_is_reported_without_secrets() {
        let error = parse_one(
            r#"{"error":{"message":"no sk-secret\nhere, see https://x.y/z","code":500}}"#,
        )
        .unwrap_err();
        assert_eq!(error.message, "the provider answered: no [key] here, see […]");
        assert_eq!(
            parse_one("{\"choices\":[{\"delta\":{\"conte").unwrap_err().kind,
            ProviderErrorKind::BadResponse
        );
    }

    #[test]
    fn whole_reply_is_accepted_instead_of_stream() {
        let whole = |body: &[u8]| OpenAiStreamParser::default().parse_body(body, None);
        let body = br#"{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}"#;
        let events = whole(body).unwrap();
        assert_eq!(
            events,
            [ProviderEvent::Text("hi".to_owned()), ProviderEvent::Finish(FinishReason::Stop)]
        );
        assert_eq!(whole(b"{}").unwrap_err().kind, ProviderErrorKind::BadResponse);
    }

    #[test]
    fn usage_is_found_at_end_of_response() {
        let streamed = b"data: {\"choices\":[],\"usage\":null}\n\ndata: {\"usage\": {\"prompt_tokens\":7,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        let usage = Usage { prompt_tokens: 7, completion_tokens: 2, ..Usage::default() };
        assert_eq!(find_usage(streamed), Some(usage));
        assert_eq!(
            find_usage(b"{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2},\"id\":\"x\"}"),
            Some(usage)
        );
        for nothing in ["", "{}", "data: {\"usage\":null}", "{\"usage\":{\"prompt_to", "\"usage\":"]
        {
            assert_eq!(find_usage(nothing.as_bytes()), None);
        }
    }

    /// The events of one reply. Each delta is a list of calls.
    fn parse_call_deltas(deltas: &[&str]) -> Vec<ProviderEvent> {
        let mut parser = OpenAiStreamParser::default();
        let mut events = Vec::new();
        for delta in deltas {
            let data = format!(r#"{{"choices":[{{"delta":{{"tool_calls":{delta}}}}}]}}"#);
            parser.parse_chunk_event(b"", data.as_bytes(), None, &mut events).unwrap();
        }
        let end = br#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
        parser.parse_chunk_event(b"", end, None, &mut events).unwrap();
        events
    }

    #[test]
    fn tool_calls_of_all_servers_parse_alike() {
        let call = |index, id: &str| ProviderEvent::ToolCall {
            index,
            id: id.to_owned(),
            name: "look".to_owned(),
        };
        let input =
            |index, delta: &str| ProviderEvent::ToolInput { index, delta: delta.to_owned() };
        let expected = vec![
            call(0, "a"),
            input(0, "{\"x\":"),
            input(0, "1}"),
            call(1, "b"),
            input(1, "{}"),
            ProviderEvent::Finish(FinishReason::ToolCalls),
        ];
        let as_openai = parse_call_deltas(&[
            r#"[{"index":0,"id":"a","type":"function","function":{"name":"look","arguments":""}}]"#,
            r#"[{"index":0,"function":{"arguments":"{\"x\":"}}]"#,
            r#"[{"index":0,"function":{"arguments":"1}"}}]"#,
            r#"[{"index":1,"id":"b","type":"function","function":{"name":"look","arguments":"{}"}}]"#,
        ]);
        assert_eq!(as_openai, expected);
        let repeating = parse_call_deltas(&[
            r#"[{"index":0,"id":"a","function":{"name":"look","arguments":"{\"x\":"}}]"#,
            r#"[{"index":0,"id":"a","function":{"name":"look","arguments":"1}"}}]"#,
            r#"[{"index":0,"id":"b","function":{"name":"look","arguments":{}}}]"#,
        ]);
        assert_eq!(repeating, expected);
        let without_numbers = parse_call_deltas(&[
            r#"[{"id":"a","function":{"name":"look","arguments":"{\"x\":"}}]"#,
            r#"[{"function":{"arguments":"1}"}}]"#,
            r#"[{"id":"b","function":{"name":"look","arguments":"{}"}}]"#,
        ]);
        assert_eq!(without_numbers, expected);
        let nameless =
            parse_call_deltas(&[r#"[{"function":{"name":"look"}},{"function":{"name":"look"}}]"#]);
        assert!(
            matches!(&nameless[..2], [ProviderEvent::ToolCall { id, .. }, ProviderEvent::ToolCall { id: other, .. }] if id != other)
        );
    }
}
