//! Maps failures of an endpoint to errors whose messages are safe to show to users.

use super::sanitize_message;
use crate::provider::{ProviderError, ProviderErrorKind};
use serde_json::Value;
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
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = object.get("error").unwrap_or(&object);
    let message = match extract_message(error, key) {
        Some(message) => format!("the provider answered {status}: {message}"),
        None => format!("the provider answered {status}"),
    };
    // 529 is Anthropic's status for an overloaded endpoint.
    let is_retryable = matches!(status, 408 | 409 | 425 | 429 | 500..=599);
    ProviderError {
        is_retryable,
        retry_after,
        ..ProviderError::new(classify_error(error), message)
    }
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

/// The message of `{"message": "…"}`, or of an error that is a string itself.
fn extract_message(error: &Value, key: Option<&str>) -> Option<String> {
    let text = error.get("message").unwrap_or(error).as_str()?;
    let message = sanitize_message(text, key);
    (!message.is_empty()).then_some(message)
}

/// Recognizes prompts that are too long. OpenAI has an error code for it. Other servers are
/// recognized by their messages, of which Anthropic has several:
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
