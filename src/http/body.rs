//! Request bodies: JSON up to a size limit, with errors that name the invalid field.

use super::ApiState;
use crate::error::{Error, ErrorKind, Result};
use crate::json;
use crate::json::escapes::replace_lone_surrogates;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::error::Error as Cause;
use tokio::task::spawn_blocking;
use tower_http::timeout::TimeoutError;

/// Chat bodies may carry a whole `useChat` history with inline pictures.
const MAX_CHAT_BODY: usize = 32 << 20;
/// Longer bodies are parsed on a blocking thread.
const INLINE_PARSE_LIMIT: usize = 256 << 10;

/// A JSON body of type `T`, up to `SizeLimits::body` bytes.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for JsonBody<T> {
    type Rejection = Error;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self> {
        require_json(request.headers())?;
        let bytes = read_body(request, api.size_limits.body).await?;
        Ok(Self(parse_json(&bytes)?))
    }
}

/// A JSON body of type `T`, up to `MIB` mebibytes.
pub(super) struct LimitedJsonBody<const MIB: usize, T>(pub(super) T);

impl<const MIB: usize, T: DeserializeOwned> FromRequest<ApiState> for LimitedJsonBody<MIB, T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &ApiState) -> Result<Self> {
        require_json(request.headers())?;
        let bytes = read_body(request, MIB << 20).await?;
        Ok(Self(parse_json(&bytes)?))
    }
}

/// The bytes of an optional JSON body: `None` if it is empty or `null`.
pub(super) struct OptionalJsonBody(pub(super) Option<Bytes>);

impl FromRequest<ApiState> for OptionalJsonBody {
    type Rejection = Error;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self> {
        // Clients that send no body often send no content type either, so it is checked last.
        let content_type = require_json(request.headers());
        let bytes = read_body(request, api.size_limits.body).await?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        content_type?;
        Ok(Self(Some(bytes).filter(|bytes| *bytes != "null")))
    }
}

/// The unparsed bytes of a JSON body, for routes that compute an idempotency fingerprint.
pub(super) struct RawJsonBody(pub(super) Bytes);

impl FromRequest<ApiState> for RawJsonBody {
    type Rejection = Error;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self> {
        require_json(request.headers())?;
        Ok(Self(read_body(request, api.size_limits.body).await?))
    }
}

/// The unparsed bytes of a chat body, up to [`MAX_CHAT_BODY`].
pub(super) struct RawChatBody(pub(super) Bytes);

impl FromRequest<ApiState> for RawChatBody {
    type Rejection = Error;

    async fn from_request(request: Request, _: &ApiState) -> Result<Self> {
        require_json(request.headers())?;
        Ok(Self(read_body(request, MAX_CHAT_BODY).await?))
    }
}

fn require_json(headers: &HeaderMap) -> Result<()> {
    // A page of another origin can send the form content types without a CORS preflight.
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::UnsupportedMediaType, "the body must be sent as application/json"))
}

async fn read_body(request: Request, limit: usize) -> Result<Bytes> {
    let declared =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    // A declared length over the limit is refused before any of the body is read.
    if declared.is_some_and(|length: usize| length > limit) {
        return Err(Error::too_large("body", limit));
    }
    match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => Ok(replace_half_characters(body.to_bytes())),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Error::too_large("body", limit))
        }
        Err(error) if is_timeout(&*error) => {
            Err(Error::new(ErrorKind::RequestTimeout, "the body did not arrive in time"))
        }
        Err(error) => Err(Error::invalid_field("body", "must be complete").with_source(error)),
    }
}

/// Browsers send a text that was cut within an emoji with half of it, which no JSON parser accepts.
fn replace_half_characters(json: Bytes) -> Bytes {
    let repaired = match replace_lone_surrogates(&json) {
        Cow::Borrowed(_) => None,
        Cow::Owned(repaired) => Some(Bytes::from(repaired)),
    };
    repaired.unwrap_or(json)
}

/// Whether reading a body failed because the client paused for longer than `ReadTimeouts::body`.
fn is_timeout(error: &(dyn Cause + 'static)) -> bool {
    // axum and http-body wrap the error of `TimeoutBody`, so the whole chain is searched.
    let mut causes =
        std::iter::successors(Some(error), |error: &&(dyn Cause + 'static)| (*error).source());
    causes.any(|cause| cause.is::<TimeoutError>())
}

/// Parses a body with `parse`, on a blocking thread if it is long: `useChat` sends its whole
/// history.
pub(super) async fn parse_large_body<T, F>(bytes: Bytes, parse: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&Bytes) -> Result<T> + Send + 'static,
{
    if bytes.len() <= INLINE_PARSE_LIMIT {
        return parse(&bytes);
    }
    spawn_blocking(move || parse(&bytes)).await.map_err(Error::internal)?
}

/// Parses a JSON object. Errors: `invalid_request`, with the path of the invalid field.
pub(super) fn parse_json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    json::parse_object(bytes).map_err(|error| Error::invalid_field(error.field, error.message))
}
