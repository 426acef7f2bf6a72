//! Extractors and parsers for everything but the body: the caller, path parameters and ETags.

pub(super) use super::auth_middleware::CurrentUser;

use super::ApiState;
use super::query::QueryParams;
use crate::domain::{FieldError, FilePath, MessageId, ProjectId, SessionId};
use crate::error::{Error, ErrorKind, Result};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::HeaderMap;
use axum::http::header::IF_MATCH;
use axum::http::request::Parts;

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
