//! What endpoints over HTTP have in common: a client, a reply read as it arrives, pauses, and
//! sentences that are safe to show. What a vendor's words mean is its own folder's matter.

pub(super) mod errors;
mod forward;
mod reply;
mod sse;
mod surrogates;

pub(super) use forward::forward_request;
pub(super) use reply::{StreamParser, open_reply_stream};

use super::{ProviderError, ProviderErrorKind};
use crate::domain::text::truncate_chars;
use futures::StreamExt;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use std::time::Duration;

/// The most bytes of a body that is not a stream.
const MAX_BODY_BYTES: usize = 4 << 20;

/// A client for an endpoint; one connection pool each.
pub(super) fn build_client() -> Result<Client, String> {
    Client::builder()
        .user_agent(concat!("echoic/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        // A redirect would carry an API key to another host.
        .redirect(Policy::none())
        .build()
        .map_err(|error| error.to_string())
}

/// Reads a base URL; the complaint names the variable, and not the value, which may hold a password.
pub(super) fn parse_base_url(variable: &str, text: &str) -> Result<Url, String> {
    let parsed = Url::parse(text).map_err(|error| format!("{variable} is no URL: {error}"))?;
    if matches!(parsed.scheme(), "http" | "https") {
        return Ok(parsed);
    }
    Err(format!("{variable} must begin with http:// or https://"))
}

/// How long the endpoint wants to be left alone: `retry-after-ms`, or `retry-after` in seconds or as
/// a date, counted from the answer's own date.
pub(super) fn parse_retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let number = |name: &str| text(name)?.parse::<f64>().ok();
    let date = |name: &str| httpdate::parse_http_date(text(name)?).ok();
    let seconds =
        number("retry-after-ms").map(|millis| millis / 1000.0).or_else(|| number("retry-after"));
    match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => Some(date("retry-after")?.duration_since(date("date")?).unwrap_or_default()),
    }
}

/// Reads a body that is not a stream.
pub(super) async fn read_body(response: reqwest::Response) -> Result<Vec<u8>, ProviderError> {
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        body.extend_from_slice(&piece.map_err(|error| errors::connection_error(&error))?);
        if body.len() > MAX_BODY_BYTES {
            return Err(ProviderError::new(
                ProviderErrorKind::BadResponse,
                "the provider's answer is too large",
            ));
        }
    }
    Ok(body)
}

/// At most 300 characters of a provider's sentence, without control characters and secrets.
fn sanitize_message(text: &str, key: Option<&str>) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if let Some(key) = key.filter(|key| !key.is_empty()) {
        text = text.replace(key, "[key]");
    }
    let hidden = |word: &str| word.starts_with("sk-") || word.contains("://");
    let words: Vec<&str> =
        text.split_whitespace().map(|word| if hidden(word) { "[…]" } else { word }).collect();
    truncate_chars(&words.join(" "), 300).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn delay_millis(headers: &[(&'static str, &str)]) -> Option<u128> {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        parse_retry_after(&headers.collect()).map(|pause| pause.as_millis())
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
