//! What went wrong at an endpoint, told in sentences that are safe to show to users.

use super::sanitize_message;
use crate::provider::{ProviderError, ProviderErrorKind};
use serde_json::Value;
use std::time::Duration;

/// A connection that could not be made, or that broke.
pub(in crate::provider) fn connection_error(error: &reqwest::Error) -> ProviderError {
    tracing::debug!(error = %error.chain_text(), "provider connection failed");
    let (fault, message) = match (error.is_timeout(), error.is_connect()) {
        (true, _) => (ProviderErrorKind::Timeout, "the provider could not be reached in time"),
        (false, true) => (ProviderErrorKind::ConnectionFailed, "the provider cannot be reached"),
        (false, false) => {
            (ProviderErrorKind::ConnectionFailed, "the connection to the provider broke")
        }
    };
    ProviderError { is_unsent: error.is_connect(), ..ProviderError::retryable(fault, message) }
}

/// An answer whose status says no.
pub(in crate::provider) fn status_error(
    status: u16,
    retry_after: Option<Duration>,
    body: &[u8],
    key: Option<&str>,
) -> ProviderError {
    if matches!(status, 401 | 403) {
        // Their sentence is about the operator's account, not for the user's eyes.
        let object: Value = serde_json::from_slice(body).unwrap_or_default();
        let sentence = extract_message(object.get("error").unwrap_or(&object), key);
        tracing::warn!(
            status,
            error = sentence.unwrap_or_default(),
            "the provider refused our credentials"
        );
        return ProviderError::new(
            ProviderErrorKind::BadResponse,
            "the provider refused the server's credentials",
        );
    }
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = object.get("error").unwrap_or(&object);
    let sentence = match extract_message(error, key) {
        Some(sentence) => format!("the provider answered {status}: {sentence}"),
        None => format!("the provider answered {status}"),
    };
    // 529 is Anthropic's word for too many callers.
    let is_passing = matches!(status, 408 | 409 | 425 | 429 | 500..=599);
    ProviderError {
        is_retryable: is_passing,
        retry_after,
        ..ProviderError::new(classify_error(error), sentence)
    }
}

/// An `error` object inside an answer that began well.
pub(in crate::provider) fn object_error(error: &Value, key: Option<&str>) -> ProviderError {
    let sentence = match extract_message(error, key) {
        Some(sentence) => format!("the provider answered: {sentence}"),
        None => "the provider reported an error".to_owned(),
    };
    let fault = classify_error(error);
    ProviderError {
        is_retryable: fault == ProviderErrorKind::BadResponse,
        ..ProviderError::new(fault, sentence)
    }
}

/// `{"message": "…"}` or `{"error": "…"}`.
fn extract_message(error: &Value, key: Option<&str>) -> Option<String> {
    let text = error.get("message").unwrap_or(error).as_str()?;
    let sentence = sanitize_message(text, key);
    (!sentence.is_empty()).then_some(sentence)
}

/// OpenAI has a code for it; others only say so, Anthropic in several ways:
/// <https://platform.claude.com/docs/en/build-with-claude/context-windows>.
fn classify_error(error: &Value) -> ProviderErrorKind {
    let says = |field: &str, what: &str| {
        error
            .get(field)
            .and_then(Value::as_str)
            .is_some_and(|text| text.to_ascii_lowercase().contains(what))
    };
    let is_too_long = says("code", "context_length")
        || says("type", "exceed_context_size")
        || says("message", "maximum context length")
        || says("message", "context window")
        || says("message", "prompt is too long")
        || says("message", "exceed context limit")
        || says("type", "request_too_large");
    if is_too_long { ProviderErrorKind::ContextTooLong } else { ProviderErrorKind::BadResponse }
}

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
