//! ETags: the version of a session or project, in responses and in `If-Match`.

use crate::error::{Error, Result};
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::{ETAG, HeaderName, IF_MATCH};
use axum::http::request::Parts;
use utoipa::IntoParams;

/// The header `ETag` of a response.
pub(super) type EtagHeader = [(HeaderName, String); 1];

pub(super) fn etag_header(version: u32) -> EtagHeader {
    [(ETAG, format!("\"{version}\""))]
}

/// The versions that `If-Match` allows. Empty means any version: the header is absent or `*`.
#[derive(IntoParams)]
#[into_params(names("If-Match"), parameter_in = Header)]
pub(super) struct IfMatch(
    /// ETag that the session or project must still have; otherwise 412 `version_conflict`
    #[param(value_type = Option<String>)]
    pub(super) Vec<u32>,
);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parse_if_match(&parts.headers).map(Self)
    }
}

/// Parses `"3"`, `3`, `W/"3"` or a list of them.
fn parse_if_match(headers: &HeaderMap) -> Result<Vec<u32>> {
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
