//! The ID of each request, and its line in the request log.

use super::envelope::LoggedError;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use std::time::Instant;
use uuid::Uuid;

const REQUEST_ID_HEADER: &str = "x-request-id";
const MAX_REQUEST_ID_LEN: usize = 128;

/// Middleware that sets `x-request-id` (the client's, if valid) and logs method, route, status and
/// duration. Content is never logged.
pub(super) async fn assign_request_id(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    // The route template instead of the path keeps IDs of users' sessions out of the log.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID_HEADER, id.clone());
    log_response(&id, &method, route.as_deref().unwrap_or("-"), &mut response, started);
    response
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_valid = |id: &&HeaderValue| {
        (1..=MAX_REQUEST_ID_LEN).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let generate = || {
        HeaderValue::from_str(&Uuid::now_v7().to_string()).unwrap_or(HeaderValue::from_static("-"))
    };
    headers.get(REQUEST_ID_HEADER).filter(is_valid).cloned().unwrap_or_else(generate)
}

fn log_response(
    id: &HeaderValue,
    method: &Method,
    route: &str,
    response: &mut Response,
    started: Instant,
) {
    let status = response.status().as_u16();
    let millis = started.elapsed().as_micros() as f64 / 1000.0;
    let id = id.to_str().unwrap_or("-");
    // A client's error is described by its code. The causes of a server error are logged here and
    // nowhere else, and they are never part of the response.
    match response.extensions_mut().remove::<LoggedError>() {
        Some(LoggedError(error)) if status >= 500 => tracing::error!(
            request.id = id, http.method = %method, http.route = route, http.status = status, http.ms = millis,
            error = %error.chain(), "request failed"
        ),
        Some(LoggedError(error)) => tracing::info!(
            request.id = id, http.method = %method, http.route = route, http.status = status, http.ms = millis,
            error.code = error.kind.code(), "request refused"
        ),
        None => tracing::info!(
            request.id = id, http.method = %method, http.route = route, http.status = status, http.ms = millis,
            "request"
        ),
    }
}
