//! Parses replies of Chat Completions in all variants that servers are known to send.
//!
//! Nothing that a server sends is dropped in silence: text is kept in whatever shape it comes, and
//! content that cannot be read is reported as [`ProviderEvent::Unsupported`]. A field of an
//! unexpected type counts as absent and never ends the reply.

use super::call_parser::{CallDelta, CallParser, REASONING_CONTENT, REASONING_DETAILS};
use super::thoughts::ThoughtSplitter;
use crate::domain::Usage;
use crate::domain::message::FinishReason;
use crate::json::lenient::{self, RawObject};
use crate::provider::http::{StreamParser, UsageCounts, errors};
use crate::provider::{ProviderError, ProviderEvent, push_reasoning};
use serde_json::value::RawValue;

/// Data of the event that ends a stream.
const DONE_MARKER: &[u8] = b"[DONE]";

/// Fields of a delta that are read, or that hold no content.
const KNOWN_DELTA_FIELDS: &[&str] = &[
    "annotations",
    "citations",
    "content",
    "function_call",
    "id",
    "model",
    "name",
    "obfuscation",
    "provider_specific_fields",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "refusal",
    "role",
    "thinking",
    "tool_calls",
    "type",
];

/// Parser state.
#[derive(Default)]
pub(super) struct OpenAiStreamParser {
    calls: CallParser,
    thoughts: ThoughtSplitter,
    has_finished: bool,
    /// Whether a delta with content was received.
    has_deltas: bool,
    usage_counts: UsageCounts,
}

impl StreamParser for OpenAiStreamParser {
    fn parse_event(
        &mut self,
        name: &[u8],
        data: &[u8],
        key: Option<&str>,
        events: &mut Vec<ProviderEvent>,
    ) -> Result<bool, ProviderError> {
        let data = data.trim_ascii();
        if data == DONE_MARKER {
            self.thoughts.flush(events);
            self.calls.flush_late_data(events);
            self.finish_calls(events);
            return Ok(true);
        }
        if let Some(value) = errors::parse_event_value(name, data, key)? {
            self.apply_value(&value, name, key, events)?;
        }
        Ok(false)
    }

    fn parse_end(&mut self, events: &mut Vec<ProviderEvent>) {
        self.thoughts.flush(events);
        self.calls.flush_late_data(events);
    }

    fn parse_body(
        &mut self,
        body: &[u8],
        key: Option<&str>,
    ) -> Result<Vec<ProviderEvent>, ProviderError> {
        let value = lenient::parse_value(body).ok_or_else(errors::unreadable_error)?;
        let mut events = Vec::new();
        self.apply_value(&value, b"", key, &mut events)?;
        let has_choices = lenient::parse_list(&value)
            .into_iter()
            .any(|chunk| !RawObject::from_value(chunk).list("choices").is_empty());
        if !has_choices {
            return Err(errors::body_error(&value, key));
        }
        self.parse_end(&mut events);
        Ok(events)
    }
}

impl OpenAiStreamParser {
    /// Applies a chunk, or a list of chunks: Gemini wraps errors in a list.
    fn apply_value(
        &mut self,
        value: &RawValue,
        name: &[u8],
        key: Option<&str>,
        events: &mut Vec<ProviderEvent>,
    ) -> Result<(), ProviderError> {
        for chunk in lenient::parse_list(value) {
            let chunk = RawObject::from_value(chunk);
            if let Some(error) = errors::event_error(&chunk, name, key) {
                return Err(error);
            }
            self.apply_chunk(&chunk, events);
        }
        Ok(())
    }

    fn apply_chunk(&mut self, chunk: &RawObject<'_>, events: &mut Vec<ProviderEvent>) {
        for choice in chunk.list("choices") {
            let choice = RawObject::from_value(choice);
            let delta = choice.object("delta");
            self.has_deltas |= delta.filled_fields().any(|field| field != "role");
            self.apply_delta(&delta, events);
            // `message` is sent in a reply that is not streamed, `text` by servers that stream
            // their older completions. Some servers send either along with the deltas.
            if !self.has_deltas {
                self.apply_delta(&choice.object("message"), events);
                self.push_answer(events, choice.text("text"));
            }
            self.push_usage(events, &choice);
            if let Some(word) = choice.text("finish_reason") {
                self.has_finished = true;
                self.thoughts.flush(events);
                self.calls.flush_late_data(events);
                events.push(ProviderEvent::Finish(self.map_finish_reason(&word)));
            }
        }
        self.push_usage(events, chunk);
        // Perplexity lists its sources outside of the choices, again in each chunk.
        push_sources(events, chunk);
    }

    fn apply_delta(&mut self, delta: &RawObject<'_>, events: &mut Vec<ProviderEvent>) {
        push_delta_reasoning(events, delta);
        if let Some(text) = delta.text(REASONING_CONTENT) {
            self.calls.push_reasoning(&text);
        }
        self.calls.push_reasoning_details(&delta.list(REASONING_DETAILS));
        if let Some(content) = delta.get("content") {
            self.push_content(events, content);
        }
        // Text that explains why the model declines to answer; sent instead of `content`.
        self.push_answer(events, delta.text("refusal"));
        push_sources(events, delta);
        let calls: Vec<CallDelta> =
            delta.list("tool_calls").into_iter().map(CallDelta::from_value).collect();
        if !calls.is_empty() {
            self.thoughts.flush(events);
        }
        self.calls.push_deltas(events, calls);
        // The predecessor of `tool_calls`, with at most one call in a reply.
        if let Some(call) = delta.get("function_call") {
            self.calls.push_deltas(events, CallDelta::from_function(call).into_iter().collect());
        }
        let unknown = delta.filled_fields().filter(|field| !KNOWN_DELTA_FIELDS.contains(field));
        events.extend(unknown.map(|field| ProviderEvent::Unsupported(field.to_owned())));
    }

    fn push_usage(&mut self, events: &mut Vec<ProviderEvent>, object: &RawObject<'_>) {
        let usage =
            object.get("usage").and_then(|usage| parse_usage(usage, &mut self.usage_counts));
        events.extend(usage.map(ProviderEvent::Usage));
    }

    /// Pushes text, which may begin with thoughts.
    fn push_answer(&mut self, events: &mut Vec<ProviderEvent>, text: Option<String>) {
        if let Some(text) = text {
            self.thoughts.push(events, text);
        }
    }

    /// Pushes content: a string, or a list of parts as in the reply of Mistral's reasoning models.
    fn push_content(&mut self, events: &mut Vec<ProviderEvent>, content: &RawValue) {
        self.push_answer(events, lenient::parse_text(content));
        for part in lenient::parse_list(content) {
            if let Some(text) = lenient::parse_text(part) {
                self.push_answer(events, Some(text));
                continue;
            }
            let part = RawObject::from_value(part);
            let kind = part.text("type").unwrap_or_default();
            let is_reasoning = matches!(&*kind, "thinking" | "reasoning");
            let fields = ["text", "thinking", "reasoning", "content", "summary", "refusal"];
            let texts: Vec<String> = fields
                .into_iter()
                .filter_map(|field| part.get(field))
                .flat_map(collect_texts)
                .collect();
            if texts.is_empty() && part.filled_fields().any(|field| field != "type") {
                let kind = if kind.is_empty() { "content" } else { &kind };
                events.push(ProviderEvent::Unsupported(kind.to_owned()));
            }
            for text in texts {
                match is_reasoning {
                    true => push_reasoning(events, Some(text)),
                    false => self.push_answer(events, Some(text)),
                }
            }
        }
    }

    /// Some servers finish with `stop` or a reason of their own after function calls. After a
    /// reason of their own the calls may be cut off.
    fn map_finish_reason(&self, word: &str) -> FinishReason {
        match parse_finish_reason(word) {
            FinishReason::Stop if !self.calls.is_empty() => FinishReason::ToolCalls,
            FinishReason::Other if self.calls.are_complete() => FinishReason::ToolCalls,
            reason => reason,
        }
    }

    /// Some servers end a reply with function calls without a reason. The calls are asked for if
    /// the arguments of each are complete.
    fn finish_calls(&self, events: &mut Vec<ProviderEvent>) {
        if !self.has_finished && self.calls.are_complete() {
            events.push(ProviderEvent::Finish(FinishReason::ToolCalls));
        }
    }
}

/// Pushes the reasoning of a delta. Servers send the same text in several fields, so one is read.
fn push_delta_reasoning(events: &mut Vec<ProviderEvent>, delta: &RawObject<'_>) {
    for field in [REASONING_CONTENT, "reasoning", "thinking"] {
        let texts: Vec<String> = delta.get(field).map(collect_texts).unwrap_or_default();
        if !texts.is_empty() {
            texts.into_iter().for_each(|text| push_reasoning(events, Some(text)));
            return;
        }
    }
    for detail in delta.list(REASONING_DETAILS) {
        let detail = RawObject::from_value(detail);
        push_reasoning(events, detail.text("text").or_else(|| detail.text("summary")));
    }
}

/// The text of a string, or the texts of a list of strings and parts.
fn collect_texts(value: &RawValue) -> Vec<String> {
    if let Some(text) = lenient::parse_text(value) {
        return vec![text];
    }
    let parts = lenient::parse_list(value).into_iter();
    parts
        .filter_map(|part| {
            let object = RawObject::from_value(part);
            lenient::parse_text(part)
                .or_else(|| object.text("text"))
                .or_else(|| object.text("content"))
        })
        .collect()
}

/// Pushes the sources that a reply cites: `annotations` of OpenAI and OpenRouter, `citations` and
/// `search_results` of Perplexity and others.
fn push_sources(events: &mut Vec<ProviderEvent>, object: &RawObject<'_>) {
    for field in ["annotations", "citations", "search_results"] {
        for source in object.list(field) {
            let outer = RawObject::from_value(source);
            let inner = outer.object("url_citation");
            let url = lenient::parse_text(source)
                .or_else(|| inner.text("url"))
                .or_else(|| outer.text("url"));
            let Some(url) = url.filter(|url| url.starts_with("http")) else { continue };
            let title = inner.text("title").or_else(|| outer.text("title"));
            events.push(ProviderEvent::Source { url, title });
        }
    }
}

/// Maps the finish reasons of many servers, in any case. Reasons without a meaning here are
/// [`FinishReason::Other`], which is not a success.
fn parse_finish_reason(word: &str) -> FinishReason {
    match &*word.to_ascii_lowercase() {
        "stop" | "end_turn" | "eos" | "eos_token" | "stop_sequence" | "complete" | "completed"
        | "done" => FinishReason::Stop,
        "length" | "max_tokens" | "max_output_tokens" | "model_length" | "max_length" => {
            FinishReason::Length
        }
        "content_filter"
        | "content_filtered"
        | "sensitive"
        | "safety"
        | "refusal"
        | "recitation"
        | "blocklist"
        | "prohibited_content"
        | "spii"
        | "guardrail_intervened" => FinishReason::ContentFilter,
        "tool_calls" | "tool_call" | "tool_use" | "function_call" => FinishReason::ToolCalls,
        "error"
        | "network_error"
        | "insufficient_system_resource"
        | "model_error"
        | "malformed_function_call" => FinishReason::Error,
        _ => FinishReason::Other,
    }
}

/// Counts that are missing stay zero. `None` if there is no count at all.
fn parse_usage(usage: &RawValue, counts: &mut UsageCounts) -> Option<Usage> {
    let usage = RawObject::from_value(usage);
    let prompt_details = usage.object("prompt_tokens_details");
    let completion_details = usage.object("completion_tokens_details");
    let mut count =
        |report: &RawObject<'_>, name: &str| counts.read(report, name).unwrap_or_default();
    let parsed = Usage {
        prompt_tokens: count(&usage, "prompt_tokens"),
        cached_tokens: match prompt_details.get("cached_tokens") {
            Some(_) => count(&prompt_details, "cached_tokens"),
            // DeepSeek's field: <https://api-docs.deepseek.com/guides/kv_cache>.
            None => count(&usage, "prompt_cache_hit_tokens"),
        },
        completion_tokens: count(&usage, "completion_tokens"),
        reasoning_tokens: count(&completion_details, "reasoning_tokens"),
        ..Usage::default()
    };
    (parsed != Usage::default()).then_some(parsed)
}

/// Finds the usage in the last bytes of a response, streamed or not.
pub fn find_usage(end: &[u8]) -> Option<Usage> {
    const USAGE_KEY: &[u8] = b"\"usage\":";
    // Searched from the end: the last usage that is not null counts. Earlier chunks of a stream
    // have a null usage, and the bytes may begin in the middle of a chunk.
    memchr::memmem::rfind_iter(end, USAGE_KEY).find_map(|place| {
        let mut values = serde_json::Deserializer::from_slice(&end[place + USAGE_KEY.len()..])
            .into_iter::<&RawValue>();
        parse_usage(values.next()?.ok()?, &mut UsageCounts::default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::lenient::odd_variants;
    use crate::provider::ProviderErrorKind;

    fn parse_one(data: &str) -> Result<Vec<ProviderEvent>, ProviderError> {
        let mut events = Vec::new();
        OpenAiStreamParser::default()
            .parse_event(b"", data.as_bytes(), Some("sk-secret"), &mut events)
            .map(|_| events)
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
                vec![text("odd")],
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
            parser.parse_event(b"", data.as_bytes(), None, &mut events).unwrap();
        }
        let end = br#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
        parser.parse_event(b"", end, None, &mut events).unwrap();
        events
    }

    #[test]
    fn tool_calls_of_all_servers_parse_alike() {
        let call = |index, id: &str| ProviderEvent::ToolCall {
            index,
            provider_id: Some(id.to_owned()),
            name: "look".to_owned(),
            opaque_data: None,
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
    }

    /// Name and arguments of each call.
    fn parse_calls(deltas: &[&str]) -> Vec<(String, String)> {
        let mut calls: Vec<(String, String)> = Vec::new();
        for event in parse_call_deltas(deltas) {
            match event {
                ProviderEvent::ToolCall { index, name, .. } => {
                    assert_eq!(index as usize, calls.len());
                    calls.push((name, String::new()));
                }
                ProviderEvent::ToolInput { index, delta } => {
                    calls[index as usize].1.push_str(&delta)
                }
                _ => {}
            }
        }
        calls
    }

    #[test]
    fn calls_with_unusable_ids_stay_separate() {
        let look = r#""function":{"name":"look","arguments":"{\"x\":1}"}"#;
        let find = r#""function":{"name":"find","arguments":"{\"y\":2}"}"#;
        let expected = [("look", "{\"x\":1}"), ("find", "{\"y\":2}")]
            .map(|(name, arguments)| (name.to_owned(), arguments.to_owned()));
        let ids = ["", r#""id":"","#, r#""id":null,"#, r#""id":"0","#, r#""id":7,"#, r#""id":{},"#];
        let indexes =
            ["", r#""index":0,"#, r#""index":null,"#, r#""index":"0","#, r#""index":-1,"#];
        for id in ids {
            for index in indexes {
                let (first, second) =
                    (format!("{{{id}{index}{look}}}"), format!("{{{id}{index}{find}}}"));
                let together = format!("[{first},{second}]");
                assert_eq!(parse_calls(&[&together]), expected, "{together}");
                let apart = [format!("[{first}]"), format!("[{second}]")];
                assert_eq!(parse_calls(&[&apart[0], &apart[1]]), expected, "{apart:?}");
                // The same function twice.
                let twice = parse_calls(&[&apart[0], &apart[0]]);
                assert_eq!(twice, [expected[0].clone(), expected[0].clone()], "{apart:?}");
                // Calls begin before their arguments.
                let header =
                    format!(r#"[{{{id}{index}"function":{{"name":"look","arguments":""}}}}]"#);
                let rest = format!(r#"[{{{index}"function":{{"arguments":"{{}}"}}}}]"#);
                let calls = parse_calls(&[&header, &rest, &apart[1]]);
                let look = ("look".to_owned(), "{}".to_owned());
                assert_eq!(calls, [look, expected[1].clone()], "{header}");
            }
        }
        let one_id = parse_calls(&[
            r#"[{"id":"c","index":0,"function":{"name":"look","arguments":"{}"}}]"#,
            r#"[{"id":"c","index":1,"function":{"name":"look","arguments":"{}"}}]"#,
        ]);
        assert_eq!(one_id.len(), 2);
        let without_arguments =
            parse_calls(&[r#"[{"function":{"name":"look"}},{"function":{"name":"look"}}]"#]);
        assert_eq!(without_arguments.len(), 2);
    }

    #[test]
    fn finish_reasons_of_many_servers_are_mapped() {
        for (reason, words) in [
            (FinishReason::Stop, ["stop", "STOP", "end_turn"]),
            (FinishReason::Length, ["length", "MAX_TOKENS", "model_length"]),
            (FinishReason::ContentFilter, ["content_filter", "sensitive", "SAFETY"]),
            (FinishReason::Error, ["error", "network_error", "insufficient_system_resource"]),
            // No success: the model may have been cut off.
            (FinishReason::Other, ["abort", "cancelled", "moon"]),
        ] {
            for word in words {
                let data = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"{word}"}}]}}"#);
                assert_eq!(parse_one(&data).unwrap(), [ProviderEvent::Finish(reason)], "{word}");
            }
        }
    }

    #[test]
    fn legacy_function_call_is_a_call() {
        let mut parser = OpenAiStreamParser::default();
        let mut events = Vec::new();
        for data in [
            r#"{"choices":[{"delta":{"function_call":{"name":"look","arguments":""}}}]}"#,
            r#"{"choices":[{"delta":{"function_call":{"arguments":"{}"}}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"function_call"}]}"#,
        ] {
            parser.parse_event(b"", data.as_bytes(), None, &mut events).unwrap();
        }
        let expected = [
            ProviderEvent::ToolCall {
                index: 0,
                provider_id: None,
                name: "look".to_owned(),
                opaque_data: None,
            },
            ProviderEvent::ToolInput { index: 0, delta: "{}".to_owned() },
            ProviderEvent::Finish(FinishReason::ToolCalls),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn content_in_every_shape_is_kept() {
        let text = |text: &str| ProviderEvent::Text(text.to_owned());
        let thought = |text: &str| ProviderEvent::Reasoning(text.to_owned());
        for (delta, events) in [
            (
                r#"{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#,
                vec![text("ab")],
            ),
            (
                r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"a"}]}"#,
                vec![thought("hm"), text("a")],
            ),
            (r#"{"content":["a",{"type":"output_text","text":"b"}]}"#, vec![text("ab")]),
            (r#"{"content":{"type":"text","text":"a"}}"#, vec![text("a")]),
            (r#"{"content":[{"type":"novel","text":"kept"}]}"#, vec![text("kept")]),
            (
                r#"{"content":[{"type":"image_url","image_url":{"url":"data:"}}]}"#,
                vec![ProviderEvent::Unsupported("image_url".to_owned())],
            ),
            (
                r#"{"content":null,"audio":{"data":"AA"}}"#,
                vec![ProviderEvent::Unsupported("audio".to_owned())],
            ),
            (
                r#"{"reasoning_details":[{"type":"reasoning.text","text":"hm"},{"type":"reasoning.encrypted","data":"x"}]}"#,
                vec![thought("hm")],
            ),
            (r#"{"reasoning":"hm","reasoning_details":[{"text":"hm"}]}"#, vec![thought("hm")]),
            (
                r#"{"annotations":[{"type":"url_citation","url_citation":{"url":"https://e.com","title":"E"}}]}"#,
                vec![ProviderEvent::Source {
                    url: "https://e.com".to_owned(),
                    title: Some("E".to_owned()),
                }],
            ),
        ] {
            let data = format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#);
            assert_eq!(parse_one(&data).unwrap(), events, "{delta}");
        }
    }

    #[test]
    fn text_sent_twice_in_a_chunk_is_read_once() {
        let mut parser = OpenAiStreamParser::default();
        let mut events = Vec::new();
        for data in [
            r#"{"choices":[{"delta":{"content":"one"},"text":"one","message":{"content":"one"}}]}"#,
            r#"{"choices":[{"delta":{"content":" two"},"message":{"content":"one two"}}]}"#,
            r#"{"choices":[{"delta":{},"message":{"content":"one two"},"finish_reason":"stop"}]}"#,
        ] {
            parser.parse_event(b"", data.as_bytes(), None, &mut events).unwrap();
        }
        let expected =
            [ProviderEvent::Text("one two".to_owned()), ProviderEvent::Finish(FinishReason::Stop)];
        assert_eq!(events, expected);
    }

    #[test]
    fn arguments_of_an_unknown_call_change_no_other_call() {
        let calls = parse_calls(&[
            r#"[{"index":0,"id":"a","function":{"name":"look","arguments":"{\"x\":1}"}}]"#,
            r#"[{"index":1,"id":"b","function":{"name":null,"arguments":"{}"}}]"#,
        ]);
        assert_eq!(calls, [("look".to_owned(), "{\"x\":1}".to_owned())]);
    }

    #[test]
    fn unknown_reason_after_a_cut_call_is_not_a_success() {
        let mut parser = OpenAiStreamParser::default();
        let mut events = Vec::new();
        for data in [
            r#"{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"look","arguments":"{\"cut"}}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"abort"}]}"#,
        ] {
            parser.parse_event(b"", data.as_bytes(), None, &mut events).unwrap();
        }
        assert_eq!(events.last(), Some(&ProviderEvent::Finish(FinishReason::Other)));
    }

    #[test]
    fn done_keeps_complete_calls_only() {
        let finish = |arguments: &str| {
            let mut parser = OpenAiStreamParser::default();
            let mut events = Vec::new();
            let call = format!(
                r#"{{"choices":[{{"delta":{{"tool_calls":[{{"id":"a","function":{{"name":"look","arguments":{arguments}}}}}]}}}}]}}"#
            );
            parser.parse_event(b"", call.as_bytes(), None, &mut events).unwrap();
            assert!(parser.parse_event(b"", b" [DONE]", None, &mut events).unwrap());
            events.contains(&ProviderEvent::Finish(FinishReason::ToolCalls))
        };
        assert!(finish(r#""{\"x\":1}""#));
        assert!(!finish(r#""{\"x\":""#));
    }

    #[test]
    fn odd_field_never_ends_the_reply() {
        let chunks = [
            r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"one "},"logprobs":null,"finish_reason":null}],"usage":null,"error":null}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"reasoning_content":"hm","content":"two "},"finish_reason":""}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"content":[{"type":"text","text":"three "}],"annotations":[{"type":"url_citation","url_citation":{"url":"https://e.com","title":"E"}}]}}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"look","arguments":"{}"}}]}}]}"#,
            r#"{"id":"c","choices":[{"index":0,"delta":{"content":"four"},"finish_reason":"stop"}]}"#,
            r#"{"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":1}}}"#,
        ];
        let texts = ["one ", "two ", "three ", "", "four", ""];
        for (place, chunk) in chunks.iter().enumerate() {
            for odd in odd_variants(chunk) {
                let mut parser = OpenAiStreamParser::default();
                let mut text = String::new();
                for (other, data) in chunks.iter().enumerate() {
                    let data = if other == place { odd.as_str() } else { data };
                    let mut events = Vec::new();
                    let parsed = parser.parse_event(b"", data.as_bytes(), None, &mut events);
                    assert_eq!(parsed, Ok(false), "{data}");
                    text.extend(events.iter().filter_map(|event| match event {
                        ProviderEvent::Text(text) => Some(text.as_str()),
                        _ => None,
                    }));
                }
                let (before, after) = (texts[..place].concat(), texts[place + 1..].concat());
                assert!(text.starts_with(&before) && text.ends_with(&after), "{odd}: {text}");
            }
        }
    }

    #[test]
    fn events_without_content_are_skipped() {
        for (name, data) in
            [("", ""), ("", "  "), ("", "null"), ("", "[]"), ("", "7"), ("ping", "x"), ("ping", "")]
        {
            let mut events = Vec::new();
            let parsed = OpenAiStreamParser::default().parse_event(
                name.as_bytes(),
                data.as_bytes(),
                None,
                &mut events,
            );
            assert_eq!((parsed, events), (Ok(false), vec![]), "{name}: {data}");
        }
    }
}
