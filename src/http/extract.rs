//! Extractors and parsers for everything but the body: the caller, path parameters and headers.

pub(super) use super::auth_middleware::CurrentUser;

use super::ApiState;
use super::query::QueryParams;
use crate::domain::{FieldError, FilePath, MessageId, ProjectId, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{IdempotencyKey, RetryWindow};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::header::IF_MATCH;
use axum::http::request::Parts;
use sha2::{Digest, Sha256};

const MAX_IDEMPOTENCY_KEY_LEN: usize = 256;

/// `{sessionId}` of the path.
pub(super) struct SessionPath(pub(super) SessionId);

impl FromRequestParts<ApiState> for SessionPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self> {
        Ok(Self(parse_path_param(parts, api, "sessionId", SessionId::parse).await?))
    }
}

/// `{sessionId}` and `{messageId}` of the path.
pub(super) struct MessagePath(pub(super) SessionId, pub(super) MessageId);

impl FromRequestParts<ApiState> for MessagePath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self> {
        let session = parse_path_param(parts, api, "sessionId", SessionId::parse).await?;
        Ok(Self(session, parse_path_param(parts, api, "messageId", MessageId::parse).await?))
    }
}

/// `{sessionId}` and `{chatId}` of the path. The latter is a node's name and may be any text.
pub(super) struct NodePath(pub(super) SessionId, pub(super) String);

impl FromRequestParts<ApiState> for NodePath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self> {
        let session = parse_path_param(parts, api, "sessionId", SessionId::parse).await?;
        // An unknown or malformed node name is a 404 of the handler, not an invalid request.
        Ok(Self(
            session,
            parse_path_param(parts, api, "chatId", |_, text| Ok(text.to_owned())).await?,
        ))
    }
}

/// `{projectId}` of the path.
pub(super) struct ProjectPath(pub(super) ProjectId);

impl FromRequestParts<ApiState> for ProjectPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self> {
        Ok(Self(parse_path_param(parts, api, "projectId", ProjectId::parse).await?))
    }
}

/// `{projectId}` and `{*path}` of the path.
pub(super) struct ProjectFilePath(pub(super) ProjectId, pub(super) FilePath);

impl FromRequestParts<ApiState> for ProjectFilePath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self> {
        let project = parse_path_param(parts, api, "projectId", ProjectId::parse).await?;
        Ok(Self(
            project,
            parse_path_param(parts, api, "path", |_, text| FilePath::parse(text)).await?,
        ))
    }
}

async fn parse_path_param<T>(
    parts: &mut Parts,
    api: &ApiState,
    name: &'static str,
    read: fn(&'static str, &str) -> Result<T, FieldError>,
) -> Result<T> {
    let params = RawPathParams::from_request_parts(parts, api)
        .await
        .map_err(|error| Error::invalid_field(name, "must be UTF-8").with_source(error))?;
    let text = params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value);
    Ok(read(name, text)?)
}

/// The versions that `If-Match` allows: `"3"`, `3` or a list of them. Empty means any version: the
/// header is absent or `*`.
pub(super) fn parse_if_match(headers: &HeaderMap) -> Result<Vec<u32>> {
    // HTTP allows a list header to be split over several lines.
    let lines = headers.get_all(IF_MATCH).iter().map(|line| line.to_str().unwrap_or_default());
    let lines: Vec<&str> = lines.collect();
    let text = lines.join(",");
    if lines.is_empty() || text.trim() == "*" {
        return Ok(Vec::new());
    }
    let version = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').parse().ok();
    let versions: Option<_> = text.split(',').map(version).collect();
    versions.ok_or_else(|| Error::invalid_field("If-Match", "must be ETags, such as \"3\""))
}

/// Reads `Idempotency-Key`. A digest of `body` is its fingerprint, so that the key cannot be reused
/// for another request.
pub(super) fn read_idempotency_key(
    headers: &HeaderMap,
    route: &'static str,
    body: &[u8],
) -> Result<Option<IdempotencyKey>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=MAX_IDEMPOTENCY_KEY_LEN).contains(&key.len()) => Ok(Some(IdempotencyKey {
            route,
            key: key.to_owned(),
            fingerprint: hex_digest(body),
            retry_window: RetryWindow::Full,
        })),
        _ => Err(Error::invalid_field(
            "Idempotency-Key",
            "must be 1 to 256 visible ASCII characters",
        )),
    }
}

/// Derives an idempotency key from the content of a request. OpenAI's libraries send no key of
/// their own when they retry, but the same body and a retry count.
pub(super) fn derive_retry_key(
    headers: &HeaderMap,
    route: &'static str,
    content: &[u8],
) -> IdempotencyKey {
    let count = headers.get("x-stainless-retry-count").and_then(|count| count.to_str().ok());
    let is_retry = count.and_then(|count| count.parse().ok()).is_some_and(|count: u32| count > 0);
    // The key of a first attempt is recorded but not looked up: a user may well send the same text
    // twice on purpose.
    let retry_window = if is_retry { RetryWindow::Short } else { RetryWindow::Disabled };
    IdempotencyKey {
        route,
        key: hex_digest(content),
        // The key itself is the digest of the content.
        fingerprint: String::new(),
        retry_window,
    }
}

fn hex_digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Refuses a query string, on routes that have no parameters.
pub(super) struct NoQueryParams;

impl<S: Send + Sync> FromRequestParts<S> for NoQueryParams {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Ok(query) = QueryParams::from_request_parts(parts, state).await;
        query.finish().map(|()| Self)
    }
}

pub(super) async fn route_not_found() -> Error {
    Error::new(
        ErrorKind::RouteNotFound,
        "there is no such route; GET /api/openapi.json lists them all",
    )
}

pub(super) async fn method_not_allowed() -> Error {
    Error::new(
        ErrorKind::MethodNotAllowed,
        "this route does not take that method; the Allow header names those it takes",
    )
}
