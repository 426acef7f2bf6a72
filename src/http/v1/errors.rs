//! Errors of `/v1` in OpenAI's format.
//! Shape: <https://platform.openai.com/docs/guides/error-codes/api-errors>.

use crate::domain::FieldError;
use crate::error::{Error, ErrorKind};
use crate::http::envelope::{LoggedError, format_message, status_code};
use axum::Json;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// Middleware that rewrites all errors below `/v1`, also of other middleware, to OpenAI's format.
pub(in crate::http) async fn encode_openai_errors(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_v1 = path.starts_with("/v1/");
    let is_chat_completion = path.starts_with("/v1/chat/");
    let is_unreadable = is_v1 && percent_decode_str(path).decode_utf8().is_err();
    let mut response = if is_unreadable {
        // Not even the route is certain, so the error names the path and none of its parameters.
        Error::invalid_field("path", "must be UTF-8").into_response()
    } else {
        next.run(request).await
    };
    let Some(LoggedError(error)) = response.extensions().get::<LoggedError>().filter(|_| is_v1)
    else {
        return response;
    };
    let openai_error = match error.kind {
        // OpenAI answers a request to a busy conversation with 400 `conversation_locked`, and its
        // libraries do not retry that. Chat completions have no such error; there it stays a 409.
        ErrorKind::SessionBusy if !is_chat_completion => {
            (StatusCode::BAD_REQUEST, Json(encode_conversation_locked(error)))
        }
        _ => (openai_status(error.kind), Json(encode_error(error))),
    };
    let openai_error = openai_error.into_response();
    let (parts, body) = openai_error.into_parts();
    // Only status and body are replaced: `retry-after`, `x-should-retry` and the rate limit headers
    // are the same in both formats.
    *response.status_mut() = parts.status;
    *response.body_mut() = body;
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn encode_conversation_locked(error: &Error) -> Value {
    let mut openai_error = encode_error(error);
    openai_error["error"]["code"] = "conversation_locked".into();
    openai_error["error"]["param"] = "conversation".into();
    openai_error
}

/// The status in OpenAI's format: a prompt that is too long is 400 there, not 422.
const fn openai_status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::ContextTooLong => StatusCode::BAD_REQUEST,
        kind => status_code(kind),
    }
}

/// Encodes an error as OpenAI's libraries read it: `{"error": {message, type, param, code}}`.
pub(super) fn encode_error(error: &Error) -> Value {
    let status = openai_status(error.kind);
    let (kind, code) = match (status.as_u16(), error.kind.code()) {
        (400, "invalid_request") => ("invalid_request_error", None),
        (400, "context_too_long") => ("invalid_request_error", Some("context_length_exceeded")),
        (401, _) => ("invalid_request_error", Some("invalid_api_key")),
        (429, "quota_exceeded") => ("insufficient_quota", Some("insufficient_quota")),
        (429, "rate_limited") => ("requests", Some("rate_limit_exceeded")),
        (429, code) => ("requests", Some(code)),
        (500.., code) => ("server_error", Some(code)),
        (_, code) => ("invalid_request_error", Some(code)),
    };
    // OpenAI names one parameter per error: the first invalid field.
    let first = || Some(error.details.as_ref()?.as_object()?.keys().next()?.clone());
    let param = match error.kind {
        ErrorKind::InvalidRequest | ErrorKind::UnknownParameter => {
            first().filter(|field| field != "body")
        }
        ErrorKind::PreviousResponseNotFound => Some("previous_response_id".to_owned()),
        ErrorKind::ContextTooLong => Some("messages".to_owned()),
        _ => None,
    };
    let message = format_message(error.kind, &error.message);
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

/// The response for a turn that failed after it began. A retry would be recognized as the same turn
/// and replay the stored failure, so libraries are told not to retry.
pub(super) fn non_retryable_response(error: Error) -> Response {
    let is_shutting_down = error.kind == ErrorKind::ShuttingDown;
    let mut response = error.into_response();
    if is_shutting_down {
        // A retry reaches another instance, which joins the turn or replays its reply.
        return response;
    }
    response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
    response
}

/// The names that a body of OpenAI's API has for settings of a session.
pub(super) struct SettingNames {
    pub(super) max_output_tokens: &'static str,
    pub(super) system_prompt: &'static str,
}

impl SettingNames {
    /// Renames the field of an error about a setting to its name in the body.
    pub(super) fn rename(&self, mut invalid: FieldError) -> FieldError {
        invalid.field = match &*invalid.field {
            "topP" => "top_p".into(),
            "maxOutputTokens" => self.max_output_tokens.into(),
            "systemPrompt" => self.system_prompt.into(),
            _ => invalid.field,
        };
        invalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_openai_type_code_and_param() {
        let openai_error = |error: Error| encode_error(&error)["error"].clone();
        assert_eq!(
            openai_error(Error::invalid_field("messages[0].role", "is missing")),
            json!({"message": "messages[0].role is missing.", "type": "invalid_request_error",
                "param": "messages[0].role", "code": null})
        );
        assert_eq!(
            openai_error(Error::new(ErrorKind::ContextTooLong, "the message does not fit")),
            json!({"message": "The message does not fit.", "type": "invalid_request_error",
                "param": "messages", "code": "context_length_exceeded"})
        );
        assert_eq!(
            openai_error(Error::new(ErrorKind::ProviderTimeout, "too slow"))["type"],
            "server_error"
        );
        assert_eq!(openai_error(Error::session_not_found())["code"], "session_not_found");
    }
}
