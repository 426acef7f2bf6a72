//! An endpoint's own answer, handed on as it is, but for what is the operator's matter.

use super::{errors, parse_retry_after, read_body, sanitize_message};
use crate::provider::{ProviderError, ProviderErrorKind, RawResponse};
use futures::stream::{self, StreamExt};
use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

const JSON_MEDIA_TYPE: &str = "application/json";

/// Sends a request with a JSON body and gives what comes back.
pub(in crate::provider) async fn forward_request(
    request: RequestBuilder,
    key: Option<&str>,
) -> Result<RawResponse, ProviderError> {
    let sent = request.header(CONTENT_TYPE, JSON_MEDIA_TYPE).send().await;
    let response = sent.map_err(|error| errors::connection_error(&error))?;
    let (status, pause) = (response.status(), parse_retry_after(response.headers()));
    if !status.is_success() {
        let body = read_body(response).await?;
        // Credentials, and an endpoint that is down, are no fault of the caller's.
        if matches!(status.as_u16(), 401 | 403) || !status.is_client_error() {
            return Err(errors::status_error(status.as_u16(), pause, &body, key));
        }
        let body = build_error_body(status.as_u16(), &body, key).to_string().into();
        return Ok(RawResponse {
            status: status.as_u16(),
            content_type: JSON_MEDIA_TYPE.to_owned(),
            retry_after: pause,
            body: stream::iter([Ok(body)]).boxed(),
        });
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let content_type = kind.unwrap_or(JSON_MEDIA_TYPE).to_owned();
    if !content_type.starts_with(JSON_MEDIA_TYPE) && !content_type.starts_with("text/event-stream")
    {
        let sentence = "the provider sent something that cannot be read";
        return Err(ProviderError::new(ProviderErrorKind::BadResponse, sentence));
    }
    let body = response
        .bytes_stream()
        .map(|piece| piece.map_err(|error| errors::connection_error(&error)));
    Ok(RawResponse { status: status.as_u16(), content_type, retry_after: None, body: body.boxed() })
}

/// The error in OpenAI's shape, without secrets, whatever the endpoint's own shape is.
fn build_error_body(status: u16, body: &[u8], key: Option<&str>) -> Value {
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = object.get("error").unwrap_or(&object);
    let word = |field: &str| {
        let text = error.get(field).and_then(Value::as_str)?;
        Some(sanitize_message(text, key)).filter(|text| !text.is_empty())
    };
    let message =
        word("message").or_else(|| error.as_str().map(|text| sanitize_message(text, key)));
    let message = message.unwrap_or_else(|| format!("the provider answered {status}"));
    let kind = word("type").unwrap_or_else(|| "invalid_request_error".to_owned());
    json!({"error": {"message": message, "type": kind, "param": word("param"), "code": word("code")}})
}
