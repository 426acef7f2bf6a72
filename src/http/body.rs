//! Request bodies: JSON up to a size limit, with errors that name the invalid field.

use super::ApiState;
use super::body_budget::BodyLease;
use super::request_body::BodyTimeout;
use crate::cpu_pool::run_cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::json;
use crate::json::escapes::replace_lone_surrogates;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::error::Error as Cause;

/// Chat bodies may carry a whole `useChat` history with inline pictures.
pub const MAX_CHAT_BODY: usize = 32 << 20;
/// Longer bodies are parsed on a thread for computing.
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
    let lease = request.extensions().get::<BodyLease>().cloned();
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    // Copied together as they arrive: a body of tiny chunks would keep a buffer for each.
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(describe_body_error)?;
        let Ok(chunk) = frame.into_data() else { continue };
        if chunk.len() > limit - bytes.len() {
            return Err(Error::too_large("body", limit));
        }
        if let Some(lease) = &lease {
            lease.take(chunk.len())?;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(replace_half_characters(bytes.into()))
}

/// Browsers send a text that was cut within an emoji with half of it, which no JSON parser accepts.
fn replace_half_characters(json: Bytes) -> Bytes {
    let repaired = match replace_lone_surrogates(&json) {
        Cow::Borrowed(_) => None,
        Cow::Owned(repaired) => Some(Bytes::from(repaired)),
    };
    repaired.unwrap_or(json)
}

/// The error of a request whose body could not be read: `request_timeout` if it was too slow.
pub(super) fn describe_body_error(error: axum::Error) -> Error {
    // axum wraps the error of `TimedBody`, so the whole chain is searched.
    let causes =
        std::iter::successors(Some(&error as &(dyn Cause + 'static)), |error| (*error).source());
    let timeout = causes.filter_map(|cause| cause.downcast_ref::<BodyTimeout>()).next();
    match timeout {
        Some(timeout) => Error::new(ErrorKind::RequestTimeout, timeout.to_string())
            .with_limit(timeout.limit_name()),
        None => Error::invalid_field("body", "must be complete").with_source(error),
    }
}

/// Parses a body with `parse`, on a thread for computing if it is long: `useChat` sends its whole
/// history.
pub(super) async fn parse_large_body<T, F>(bytes: Bytes, parse: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&Bytes) -> Result<T> + Send + 'static,
{
    if bytes.len() <= INLINE_PARSE_LIMIT {
        return parse(&bytes);
    }
    run_cpu(move || parse(&bytes)).await?
}

/// Parses a JSON object with bounded fields. Errors: `invalid_request`, with the path of the
/// invalid field.
pub(super) fn parse_json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    json::parse_bounded_object(bytes)
        .map_err(|error| Error::invalid_field(error.field, error.message))
}

/// Parses a JSON object whose fields the caller bounds: `useChat` sends a history that is skipped.
pub(super) fn parse_unbounded_json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    json::parse_object(bytes).map_err(|error| Error::invalid_field(error.field, error.message))
}

/// Bounds a field that is kept as raw JSON. Errors: `invalid_request`.
pub(super) fn check_raw_field(field: &'static str, raw: &RawValue) -> Result<()> {
    json::limits::check_value(raw.get()).map_err(|message| Error::invalid_field(field, message))
}
