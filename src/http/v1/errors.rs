//! Errors of `/v1` in OpenAI's words.
//! Shape: <https://platform.openai.com/docs/guides/error-codes/api-errors>.

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

/// Says the errors of `/v1` as OpenAI would: its own handlers', and those of whatever stands around
/// them.
pub(in crate::http) async fn encode_openai_errors(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let (is_v1, is_turn) = (path.starts_with("/v1/"), path.starts_with("/v1/chat/"));
    let is_unreadable = is_v1 && percent_decode_str(path).decode_utf8().is_err();
    let mut response = if is_unreadable {
        // The extractor would say so in plain text.
        Error::invalid_field("path", "must be UTF-8").into_response()
    } else {
        next.run(request).await
    };
    let Some(LoggedError(error)) = response.extensions().get::<LoggedError>().filter(|_| is_v1)
    else {
        return response;
    };
    let told = match error.kind {
        // There a conversation whose reply is running is told of so.
        ErrorKind::SessionBusy if !is_turn => {
            (StatusCode::BAD_REQUEST, Json(encode_conversation_locked(error)))
        }
        _ => (openai_status(error.kind), Json(encode_error(error))),
    };
    let told = told.into_response();
    let (parts, body) = told.into_parts();
    // Whatever else the answer says (when to come back, whether to) stays.
    *response.status_mut() = parts.status;
    *response.body_mut() = body;
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn encode_conversation_locked(error: &Error) -> Value {
    let mut told = encode_error(error);
    told["error"]["code"] = "conversation_locked".into();
    told["error"]["param"] = "conversation".into();
    told
}

/// A prompt that is too long is a bad request there.
const fn openai_status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::ContextTooLong => StatusCode::BAD_REQUEST,
        kind => status_code(kind),
    }
}

/// The error as OpenAI's libraries read it.
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

/// A reply that failed is repeated as such: asking for the same once more is no use.
pub(super) fn non_retryable_response(error: Error) -> Response {
    let is_going_down = error.kind == ErrorKind::ShuttingDown;
    let mut response = error.into_response();
    if is_going_down {
        // Asked once more, another server joins the reply or repeats it.
        return response;
    }
    response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_openai_type_code_and_param() {
        let told = |error: Error| encode_error(&error)["error"].clone();
        assert_eq!(
            told(Error::invalid_field("messages[0].role", "is missing")),
            json!({"message": "messages[0].role is missing.", "type": "invalid_request_error",
                "param": "messages[0].role", "code": null})
        );
        assert_eq!(
            told(Error::new(ErrorKind::ContextTooLong, "the message does not fit")),
            json!({"message": "The message does not fit.", "type": "invalid_request_error",
                "param": "messages", "code": "context_length_exceeded"})
        );
        assert_eq!(
            told(Error::new(ErrorKind::ProviderTimeout, "too slow"))["type"],
            "server_error"
        );
        assert_eq!(told(Error::session_not_found())["code"], "session_not_found");
    }
}
