//! The start page at `/`: where to go from here.

use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::response::{Html, IntoResponse};

/// Plain HTML, no script, nothing from elsewhere.
pub(super) async fn start() -> impl IntoResponse {
    let policy = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'";
    ([(CONTENT_SECURITY_POLICY, policy)], Html(include_str!("../../web/index.html")))
}
