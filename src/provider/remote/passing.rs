//! An endpoint's own answer, handed on as it is, but for what is the operator's matter.

use super::{failure, retry_after, safe_sentence, whole_body};
use crate::provider::{Fault, OwnAnswer, ProviderError};
use futures::stream::{self, StreamExt};
use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

const JSON: &str = "application/json";

/// Sends a request with a JSON body and gives what comes back.
pub(in crate::provider) async fn own_answer(
    request: RequestBuilder,
    key: Option<&str>,
) -> Result<OwnAnswer, ProviderError> {
    let sent = request.header(CONTENT_TYPE, JSON).send().await;
    let response = sent.map_err(|error| failure::of_connection(&error))?;
    let (status, pause) = (response.status(), retry_after(response.headers()));
    if !status.is_success() {
        let body = whole_body(response).await?;
        // Credentials, and an endpoint that is down, are no fault of the caller's.
        if matches!(status.as_u16(), 401 | 403) || !status.is_client_error() {
            return Err(failure::of_status(status.as_u16(), pause, &body, key));
        }
        let body = refusal(status.as_u16(), &body, key).to_string().into();
        return Ok(OwnAnswer {
            status: status.as_u16(),
            content_type: JSON.to_owned(),
            retry_after: pause,
            body: stream::iter([Ok(body)]).boxed(),
        });
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let content_type = kind.unwrap_or(JSON).to_owned();
    if !content_type.starts_with(JSON) && !content_type.starts_with("text/event-stream") {
        let sentence = "the provider sent something that cannot be read";
        return Err(ProviderError::new(Fault::Refused, sentence));
    }
    let body =
        response.bytes_stream().map(|piece| piece.map_err(|error| failure::of_connection(&error)));
    Ok(OwnAnswer { status: status.as_u16(), content_type, retry_after: None, body: body.boxed() })
}

/// The error in OpenAI's shape, without secrets, whatever the endpoint's own shape is.
fn refusal(status: u16, body: &[u8], key: Option<&str>) -> Value {
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = object.get("error").unwrap_or(&object);
    let word = |field: &str| {
        let text = error.get(field).and_then(Value::as_str)?;
        Some(safe_sentence(text, key)).filter(|text| !text.is_empty())
    };
    let message = word("message").or_else(|| error.as_str().map(|text| safe_sentence(text, key)));
    let message = message.unwrap_or_else(|| format!("the provider answered {status}"));
    let kind = word("type").unwrap_or_else(|| "invalid_request_error".to_owned());
    json!({"error": {"message": message, "type": kind, "param": word("param"), "code": word("code")}})
}
