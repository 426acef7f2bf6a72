//! What handlers take out of a request beside its body: who asks, the ids in the path, headers.

use super::Api;
use crate::domain::{Invalid, MessageId, Principal, SessionId};
use crate::error::{Error, Kind, Result};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::header::IF_MATCH;
use axum::http::request::Parts;

/// The longest `Idempotency-Key`, in characters.
const MAX_KEY: usize = 256;

/// The user who sent the request.
pub(super) struct Caller(pub(super) Principal);

impl FromRequestParts<Api> for Caller {
    type Rejection = Error;

    async fn from_request_parts(_: &mut Parts, api: &Api) -> Result<Self> {
        Ok(Self(api.auth.principal()))
    }
}

/// The session that the path names.
pub(super) struct SessionPath(pub(super) SessionId);

impl FromRequestParts<Api> for SessionPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        Ok(Self(path_id(parts, api, "sessionId", SessionId::parse).await?))
    }
}

/// The session and the message that the path names.
pub(super) struct MessagePath(pub(super) SessionId, pub(super) MessageId);

impl FromRequestParts<Api> for MessagePath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        let session = path_id(parts, api, "sessionId", SessionId::parse).await?;
        Ok(Self(session, path_id(parts, api, "messageId", MessageId::parse).await?))
    }
}

async fn path_id<T>(
    parts: &mut Parts,
    api: &Api,
    name: &'static str,
    read: fn(&'static str, &str) -> Result<T, Invalid>,
) -> Result<T> {
    let params = RawPathParams::from_request_parts(parts, api)
        .await
        .map_err(|error| Error::invalid(name, "must be UTF-8").with_source(error))?;
    let text = params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value);
    Ok(read(name, text)?)
}

/// The version that `If-Match` asks for: `"3"`, `3` or `*`.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<u32>> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let bare = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    bare.parse()
        .map(Some)
        .map_err(|_| Error::invalid("If-Match", "must be the ETag of a session, such as \"3\""))
}

/// The key by which a repeated request is known.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=MAX_KEY).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Error::invalid("Idempotency-Key", "must be 1 to 256 visible ASCII characters")),
    }
}

/// No such route.
pub(super) async fn not_found() -> Error {
    Error::new(Kind::RouteNotFound, "there is no such route; GET /api/openapi.json lists them all")
}

/// The route exists, with other methods.
pub(super) async fn method_not_allowed() -> Error {
    Error::new(
        Kind::MethodNotAllowed,
        "this route does not take that method; the Allow header names those it takes",
    )
}
