//! Forwards a request and returns the endpoint's own response, except failures that concern the
//! operator.

use super::{errors, parse_retry_after, read_body, sanitize_message};
use crate::provider::{ProviderError, RawResponse};
use futures::stream::{self, StreamExt};
use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

/// White space before a body's first word. A server that sends more is broken.
const MAX_BLANK_BYTES: usize = 64 << 10;
const JSON_MEDIA_TYPE: &str = "application/json";

/// Sends a request with a JSON body and returns the response.
pub(in crate::provider) async fn forward_request(
    request: RequestBuilder,
    key: Option<&str>,
) -> Result<RawResponse, ProviderError> {
    let sent = request.header(CONTENT_TYPE, JSON_MEDIA_TYPE).send().await;
    let response = sent.map_err(|error| errors::connection_error(&error))?;
    let (status, retry_after) = (response.status(), parse_retry_after(response.headers()));
    if !status.is_success() {
        let body = read_body(response).await?;
        // Bad credentials and an endpoint that is down are not the caller's mistakes.
        if matches!(status.as_u16(), 401 | 403) || !status.is_client_error() {
            return Err(errors::status_error(status.as_u16(), retry_after, &body, key));
        }
        let body = build_error_body(status.as_u16(), &body, key).to_string().into();
        return Ok(RawResponse {
            status: status.as_u16(),
            content_type: JSON_MEDIA_TYPE.to_owned(),
            retry_after,
            body: stream::iter([Ok(body)]).boxed(),
        });
    }
    let mut body = response
        .bytes_stream()
        .map(|chunk| chunk.map_err(|error| errors::connection_error(&error)));
    let mut head = Vec::new();
    // As much as the longest name of a field.
    while head.trim_ascii_start().len() < "event:".len()
        && let Some(chunk) = body.next().await
    {
        if head.len() > MAX_BLANK_BYTES {
            return Err(errors::unreadable_error());
        }
        head.extend_from_slice(&chunk?);
    }
    // An HTML page, for example of a proxy, must not reach the client as a reply.
    let content_type = detect_media_type(&head).ok_or_else(errors::unreadable_error)?.to_owned();
    let body = stream::iter([Ok(head.into())]).chain(body).boxed();
    Ok(RawResponse { status: status.as_u16(), content_type, retry_after: None, body })
}

/// The media type of a body by its first bytes, because the header is not reliable: gateways name
/// streams JSON or plain text.
fn detect_media_type(head: &[u8]) -> Option<&'static str> {
    let head = head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head).trim_ascii_start();
    let is_field = |name: &&str| head.starts_with(name.as_bytes());
    match head.first()? {
        b'{' | b'[' => Some(JSON_MEDIA_TYPE),
        _ if ["data:", "event:", "id:", "retry:", ":"].iter().any(is_field) => {
            Some("text/event-stream")
        }
        _ => None,
    }
}

/// Rebuilds an error in OpenAI's format from any format, field by field, so that no secret passes.
fn build_error_body(status: u16, body: &[u8], key: Option<&str>) -> Value {
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = object.get("error").unwrap_or(&object);
    let field = |name: &str| {
        let text = error.get(name).and_then(Value::as_str)?;
        Some(sanitize_message(text, key)).filter(|text| !text.is_empty())
    };
    let message =
        field("message").or_else(|| error.as_str().map(|text| sanitize_message(text, key)));
    let message = message.unwrap_or_else(|| format!("the provider answered {status}"));
    let kind = field("type").unwrap_or_else(|| "invalid_request_error".to_owned());
    json!({"error": {"message": message, "type": kind, "param": field("param"), "code": field("code")}})
}
