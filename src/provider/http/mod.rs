//! Shared parts of HTTP endpoints: client, streamed replies, retry delays, and error messages that
//! are safe to show. The protocol of each vendor is in the vendor's own folder.

pub(super) mod errors;
mod forward;
mod reply;
mod sse;
mod usage_counts;

pub(super) use forward::forward_request;
pub(super) use reply::{StreamParser, open_reply_stream};
pub(super) use usage_counts::UsageCounts;

use super::{ProviderError, ProviderErrorKind};
use crate::domain::text::truncate_chars;
use futures::StreamExt;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Bytes of the digest in the name of an endpoint: enough to tell a server's endpoints apart.
const ENDPOINT_DIGEST_BYTES: usize = 6;
/// Keys shorter than this are not secrets but placeholders.
const MIN_SECRET_BYTES: usize = 8;
/// Upper bound of a body that is not streamed.
const MAX_BODY_BYTES: usize = 4 << 20;

/// Settings of every client. Compression is accepted but not asked for, since it delays a stream.
pub(super) fn client_builder() -> ClientBuilder {
    let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
    Client::builder()
        .default_headers(headers)
        .user_agent(concat!("echoic/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        // A redirect would carry an API key to another host.
        .redirect(Policy::none())
}

/// Builds a client for model calls, with a connection pool of its own.
pub(super) fn build_client() -> Result<Client, String> {
    client_builder().tcp_nodelay(true).build().map_err(|error| error.to_string())
}

/// Parses a base URL. The error message names the variable but not its value, which may contain a
/// password.
pub(super) fn parse_base_url(variable: &str, text: &str) -> Result<Url, String> {
    let parsed =
        Url::parse(text).map_err(|error| format!("{variable} is not a valid URL: {error}"))?;
    if matches!(parsed.scheme(), "http" | "https") {
        return Ok(parsed);
    }
    Err(format!("{variable} must begin with http:// or https://"))
}

/// The name of an endpoint in the origin of calls: the protocol, and a digest of the base URL
/// without scheme and password, because clients can read the name and the address may be internal.
/// The vendor's own endpoint has the name of the protocol alone.
pub(super) fn name_endpoint(protocol: &str, base_url: &Url, official_host: &str) -> String {
    let host = base_url.host_str().unwrap_or_default();
    if host == official_host {
        return protocol.to_owned();
    }
    let port = base_url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let address = format!("{host}{port}{}", base_url.path().trim_end_matches('/'));
    format!("{protocol}:{}", hex::encode(&Sha256::digest(address)[..ENDPOINT_DIGEST_BYTES]))
}

/// The header value that carries a key, hidden in debug output. The error message names the
/// variable that the key comes from.
pub(super) fn encode_key_header(variable: &str, value: &str) -> Result<HeaderValue, String> {
    let mut header = HeaderValue::from_str(value)
        .map_err(|_| format!("{variable} must be visible ASCII characters"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// The value of `authorization` for a key; `None` without a key.
pub(super) fn encode_bearer(
    variable: &str,
    key: Option<&str>,
) -> Result<Option<HeaderValue>, String> {
    key.map(|key| encode_key_header(variable, &format!("Bearer {key}"))).transpose()
}

/// Delay that the endpoint asks for: `retry-after-ms`, or `retry-after` in seconds or as a date.
pub(super) fn parse_retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let number = |name: &str| text(name)?.parse::<f64>().ok();
    let date = |name: &str| httpdate::parse_http_date(text(name)?).ok();
    let seconds =
        number("retry-after-ms").map(|millis| millis / 1000.0).or_else(|| number("retry-after"));
    match seconds {
        // Negative, infinite or NaN numbers are ignored.
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        // Counted from the response's own date, so a wrong clock on this host does no harm.
        None => Some(date("retry-after")?.duration_since(date("date")?).unwrap_or_default()),
    }
}

fn too_large_error() -> ProviderError {
    ProviderError::new(ProviderErrorKind::BadResponse, "the provider's response is too large")
}

/// Sends a request for a list of models and reads it.
pub(super) async fn fetch_model_list<T: DeserializeOwned>(
    request: RequestBuilder,
    key: Option<&str>,
) -> Result<T, ProviderError> {
    let response = request.send().await.map_err(|error| errors::connection_error(&error))?;
    let status = response.status();
    let retry_after = parse_retry_after(response.headers());
    let body = read_body(response).await?;
    if !status.is_success() {
        return Err(errors::status_error(status.as_u16(), retry_after, &body, key));
    }
    serde_json::from_slice(&body).map_err(|_| {
        ProviderError::new(
            ProviderErrorKind::BadResponse,
            "the list of models could not be read from the provider",
        )
    })
}

/// Reads a body that is not streamed.
pub(super) async fn read_body(response: reqwest::Response) -> Result<Vec<u8>, ProviderError> {
    read_body_within(response, MAX_BODY_BYTES).await
}

/// Reads a body of at most `max_bytes`.
pub(super) async fn read_body_within(
    response: reqwest::Response,
    max_bytes: usize,
) -> Result<Vec<u8>, ProviderError> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(|error| errors::connection_error(&error))?);
        if body.len() > max_bytes {
            return Err(too_large_error());
        }
    }
    Ok(body)
}

/// At most 300 characters of an endpoint's error message, without control characters and secrets.
fn sanitize_message(text: &str, key: Option<&str>) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // Endpoints quote keys and internal URLs in their errors. A short key, such as `x` for a server
    // that needs none, is part of ordinary words.
    if let Some(key) = key.filter(|key| key.len() >= MIN_SECRET_BYTES) {
        text = text.replace(key, "[key]");
    }
    let is_secret = |word: &str| word.starts_with("sk-") || word.contains("://");
    let words: Vec<&str> =
        text.split_whitespace().map(|word| if is_secret(word) { "[…]" } else { word }).collect();
    truncate_chars(&words.join(" "), 300).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderName;

    fn delay_millis(headers: &[(&'static str, &str)]) -> Option<u128> {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        parse_retry_after(&headers.collect()).map(|delay| delay.as_millis())
    }

    #[test]
    fn retry_after_is_parsed_in_all_forms() {
        let date = ("date", "Sat, 21 Nov 2026 12:00:00 GMT");
        assert_eq!(delay_millis(&[("retry-after-ms", "1500")]), Some(1500));
        assert_eq!(delay_millis(&[("retry-after", "2")]), Some(2000));
        assert_eq!(
            delay_millis(&[("retry-after", "Sat, 21 Nov 2026 12:00:30 GMT"), date]),
            Some(30_000)
        );
        assert_eq!(
            delay_millis(&[("retry-after", "Sat, 21 Nov 2026 11:00:00 GMT"), date]),
            Some(0)
        );
        assert_eq!(delay_millis(&[("retry-after", "soon"), date]), None);
        assert_eq!(delay_millis(&[("retry-after", "-1")]), None);
        assert_eq!(delay_millis(&[]), None);
    }
}
