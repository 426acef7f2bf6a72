//! Maps failures of an endpoint to errors whose messages are safe to show to users.

use super::sanitize_message;
use crate::json::lenient::{self, RawObject};
use crate::provider::{ProviderError, ProviderErrorKind};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Duration;

/// The connection could not be made, or was lost.
pub(in crate::provider) fn connection_error(error: &reqwest::Error) -> ProviderError {
    tracing::debug!(error = %error.chain_text(), "provider connection failed");
    let (kind, message) = match (error.is_timeout(), error.is_connect()) {
        (true, _) => (ProviderErrorKind::Timeout, "the connection to the provider timed out"),
        (false, true) => (ProviderErrorKind::ConnectionFailed, "the provider cannot be reached"),
        (false, false) => {
            (ProviderErrorKind::ConnectionFailed, "the connection to the provider was lost")
        }
    };
    // Without a connection nothing was sent, so the call cannot have been billed.
    ProviderError { is_unsent: error.is_connect(), ..ProviderError::retryable(kind, message) }
}

/// The endpoint answered with an error status.
pub(in crate::provider) fn status_error(
    status: u16,
    retry_after: Option<Duration>,
    body: &[u8],
    key: Option<&str>,
) -> ProviderError {
    if matches!(status, 401 | 403) {
        // The endpoint's message is about the operator's account, so only the log gets it.
        let object: Value = serde_json::from_slice(body).unwrap_or_default();
        let message = extract_message(object.get("error").unwrap_or(&object), key);
        tracing::warn!(
            status,
            error = message.unwrap_or_default(),
            "the provider rejected the server's credentials"
        );
        return ProviderError::new(
            ProviderErrorKind::BadResponse,
            "the provider refused the server's credentials",
        );
    }
    // Gemini wraps errors in a list. A body that is not JSON may be a sentence.
    let object: Value = serde_json::from_slice(body).unwrap_or_else(|_| text_value(body));
    let object = object.get(0).unwrap_or(&object);
    let error = object.get("error").filter(|error| !error.is_null()).unwrap_or(object);
    let message = match extract_message(error, key) {
        Some(message) => format!("the provider answered {status}: {message}"),
        None => format!("the provider answered {status}"),
    };
    // 529 is Anthropic's status for an overloaded endpoint.
    let is_retryable = matches!(status, 408 | 409 | 425 | 429 | 500..=599);
    ProviderError {
        is_retryable,
        retry_after,
        may_be_too_long: matches!(status, 400 | 413 | 422),
        ..ProviderError::new(classify_error(error), message)
    }
}

/// The text of a body; nothing if it is a page for a browser.
fn text_value(body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(body);
    if text.trim_start().starts_with('<') { Value::Null } else { Value::from(text) }
}

/// An `error` object in a response that started with a success status.
pub(in crate::provider) fn object_error(error: &Value, key: Option<&str>) -> ProviderError {
    let message = match extract_message(error, key) {
        Some(message) => format!("the provider answered: {message}"),
        None => "the provider reported an error".to_owned(),
    };
    let kind = classify_error(error);
    // There is no status to tell overload from a bad request. Retrying a bad request does no harm,
    // and it stops at the retry limit.
    ProviderError {
        is_retryable: kind == ProviderErrorKind::BadResponse,
        ..ProviderError::new(kind, message)
    }
}

/// The JSON value of an event. `None` if it has none: proxies send empty events and pings to keep
/// connections open.
pub(in crate::provider) fn parse_event_value<'a>(
    name: &[u8],
    data: &'a [u8],
    key: Option<&str>,
) -> Result<Option<Cow<'a, RawValue>>, ProviderError> {
    if data.is_empty() || matches!(name, b"ping" | b"heartbeat" | b"keepalive" | b"keep-alive") {
        return Ok(None);
    }
    match lenient::parse_value(data) {
        Some(value) => Ok(Some(value)),
        None if name == b"error" => {
            Err(object_error(&Value::from(String::from_utf8_lossy(data)), key))
        }
        None => Err(unreadable_error()),
    }
}

/// The error in an event, if it is one: an `error` that is not empty, an event with that name, or
/// an object that says so.
pub(in crate::provider) fn event_error(
    event: &RawObject<'_>,
    name: &[u8],
    key: Option<&str>,
) -> Option<ProviderError> {
    let is_error = |field: &str| event.text(field).is_some_and(|text| text == "error");
    let detail = event.get("detail").filter(|_| event.get("choices").is_none());
    let error = event.get("error").or(detail).filter(|error| is_error_value(error));
    if error.is_none() && name != b"error" && !is_error("type") && !is_error("object") {
        return None;
    }
    let value = error.and_then(|error| serde_json::from_str(error.get()).ok());
    let value = value.unwrap_or_else(|| event.to_value());
    // Some servers send an error without a sentence along with each part of a reply.
    let has_reply = !event.list("choices").is_empty();
    (!has_reply || find_sentence(&value).is_some()).then(|| object_error(&value, key))
}

/// Whether the value of a field `error` is an error: some servers send empty ones in each event.
fn is_error_value(value: &RawValue) -> bool {
    let is_list = value.get().starts_with('[');
    let parse = || serde_json::from_str::<Value>(value.get()).unwrap_or_default();
    lenient::is_filled(value) && (!is_list || find_sentence(&parse()).is_some())
}

/// A body without a reply, which is most likely an error in a format of its own.
pub(in crate::provider) fn body_error(body: &RawValue, key: Option<&str>) -> ProviderError {
    let value: Value = serde_json::from_str(body.get()).unwrap_or_default();
    match extract_message(&value, key) {
        Some(_) => object_error(&value, key),
        None => unreadable_error(),
    }
}

pub(in crate::provider) fn unreadable_error() -> ProviderError {
    ProviderError::new(
        ProviderErrorKind::BadResponse,
        "the provider's response could not be parsed",
    )
}

/// Names of the fields that hold an error's sentence, or an object with such a field.
const SENTENCE_FIELDS: &[&str] = &[
    "message",
    "error",
    "errors",
    "detail",
    "details",
    "msg",
    "error_message",
    "error_msg",
    "description",
    "reason",
];

/// The sentence of an error in the format of any vendor.
fn extract_message(error: &Value, key: Option<&str>) -> Option<String> {
    let mut text = find_sentence(error)?.to_owned();
    // OpenRouter quotes the answer of the vendor that it has asked.
    if let Some(quoted) = error.pointer("/metadata/raw").and_then(Value::as_str) {
        text = format!("{text}: {quoted}");
    }
    let message = sanitize_message(&text, key);
    (!message.is_empty()).then_some(message)
}

fn find_sentence(error: &Value) -> Option<&str> {
    match error {
        Value::String(text) => Some(text.trim()).filter(|text| !text.is_empty()),
        Value::Array(list) => list.iter().find_map(find_sentence),
        Value::Object(fields) => {
            SENTENCE_FIELDS.iter().filter_map(|field| fields.get(*field)).find_map(find_sentence)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// Parts of codes and sentences by which vendors say that a prompt is too long, in lower case.
const TOO_LONG_PHRASES: &[&str] = &[
    "context length",
    "context limit",
    "context size",
    "context window",
    "context_length",
    "exceed_context_size",
    "exceeds max length",
    "input is too long",
    "input length",
    "input token count",
    "inputs` tokens",
    "max_prompt_tokens",
    "maximum allowed length",
    "maximum model length",
    "maximum number of tokens",
    "maximum prompt length",
    "model token limit",
    "prompt is too long",
    "prompt token count",
    "prompt too long",
    "request_too_large",
    "too many tokens",
];

/// Recognizes prompts that are too long by the vendor's words. There is no common code for it, so
/// turns do not rely on it: [`ProviderError::may_be_too_long`].
fn classify_error(error: &Value) -> ProviderErrorKind {
    let field = |name: &str| error.get(name).and_then(Value::as_str);
    let texts = [find_sentence(error), field("code"), field("type"), field("message")];
    let is_too_long = texts.into_iter().flatten().any(|text| {
        let text = text.to_ascii_lowercase();
        TOO_LONG_PHRASES.iter().any(|phrase| text.contains(phrase))
    });
    if is_too_long { ProviderErrorKind::ContextTooLong } else { ProviderErrorKind::BadResponse }
}

/// An error with its causes, because reqwest's own message leaves them out.
trait ChainText {
    fn chain_text(&self) -> String;
}

impl ChainText for reqwest::Error {
    fn chain_text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> ProviderError {
        status_error(status, None, body.as_bytes(), None)
    }

    #[test]
    fn sentence_of_any_vendor_is_shown() {
        for body in [
            r#"{"error": {"message": "No luck.", "code": 7}}"#,
            r#"{"error": "No luck."}"#,
            r#"[{"error": {"code": 400, "message": "No luck."}}]"#,
            r#"{"object": "error", "message": "No luck."}"#,
            r#"{"detail": "No luck."}"#,
            r#"{"detail": [{"loc": ["body"], "msg": "No luck."}]}"#,
            r#"{"errors": [{"message": "No luck."}]}"#,
            r#"{"error": {"message": null, "details": [{"description": "No luck."}]}}"#,
            r#"{"error_msg": "No luck."}"#,
            "No luck.",
        ] {
            assert_eq!(answer(400, body).message, "the provider answered 400: No luck.", "{body}");
        }
        let quoted =
            r#"{"error": {"message": "Provider returned error", "metadata": {"raw": "No luck."}}}"#;
        let message = "the provider answered 400: Provider returned error: No luck.";
        assert_eq!(answer(400, quoted).message, message);
        assert_eq!(answer(502, "<html>Bad gateway</html>").message, "the provider answered 502");
    }

    #[test]
    fn prompts_that_are_too_long_are_recognized() {
        for sentence in [
            "This model's maximum context length is 4096 tokens.",
            "The input token count (9000) exceeds the maximum number of tokens allowed (4096).",
            "the model is loaded with context length of only 4096 tokens, which is not enough.",
            "prompt too long; exceeded max context length by 4 tokens",
            "The decoder prompt (length 9000) is longer than the maximum model length of 4096.",
            "Input length (9000 tokens) exceeds the maximum allowed length (4091 tokens).",
            "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000",
            "This model's maximum prompt length is 4096 but the request contains 9000 tokens.",
            "Your request exceeded model token limit: 4096",
            "Input is too long for requested model.",
            "prompt token count of 9000 exceeds the limit of 4096",
            "Prompt exceeds max length",
            "prompt is too long: 9000 tokens > 4096 maximum",
        ] {
            let body = serde_json::json!({"error": {"message": sentence}}).to_string();
            assert_eq!(answer(400, &body).kind, ProviderErrorKind::ContextTooLong, "{sentence}");
        }
        let refused = answer(422, r#"{"error": "Range of input should be [1, 4096]"}"#);
        assert_eq!((refused.kind, refused.may_be_too_long), (ProviderErrorKind::BadResponse, true));
        assert!(!answer(404, r#"{"error": "no such model"}"#).may_be_too_long);
    }

    #[test]
    fn empty_errors_in_events_are_ignored() {
        let error = |event: &str, name: &str| {
            let event: &RawValue = serde_json::from_str(event).unwrap();
            event_error(&RawObject::from_value(event), name.as_bytes(), None)
        };
        for odd in ["null", "false", "\"\"", "{}", "[]", "[null]", "0", "-1"] {
            assert_eq!(error(&format!(r#"{{"error": {odd}, "choices": []}}"#), ""), None, "{odd}");
        }
        for (event, name) in [
            (r#"{"error": "No luck."}"#, ""),
            (r#"{"message": "No luck."}"#, "error"),
            (r#"{"object": "error", "message": "No luck."}"#, ""),
            (r#"{"detail": "No luck."}"#, ""),
        ] {
            let message = error(event, name).unwrap().message;
            assert_eq!(message, "the provider answered: No luck.", "{event}");
        }
        let with_reply = r#"{"error": {"code": 0, "message": ""}, "choices": [{"delta": {}}]}"#;
        assert_eq!(error(with_reply, ""), None);
        let text = parse_event_value(b"error", b"No luck.", None).unwrap_err();
        assert_eq!(text.message, "the provider answered: No luck.");
    }
}
