//! The ID of each request, and its line in the request log.

use super::envelope::LoggedError;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use std::time::Instant;
use uuid::Uuid;

const REQUEST_ID_HEADER: &str = "x-request-id";
/// The longest id a caller may give a request.
const MAX_REQUEST_ID_LEN: usize = 128;

/// Gives the request an id and writes its line into the log: method, route, status, time. Never
/// what anybody wrote.
pub(super) async fn assign_request_id(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    // The route, not the path: ids of users' sessions need not stand in logs.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID_HEADER, id.clone());
    log_response(&id, &method, route.as_deref().unwrap_or("-"), &mut response, started);
    response
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_sane = |id: &&HeaderValue| {
        (1..=MAX_REQUEST_ID_LEN).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let own = || {
        HeaderValue::from_str(&Uuid::now_v7().to_string()).unwrap_or(HeaderValue::from_static("-"))
    };
    headers.get(REQUEST_ID_HEADER).filter(is_sane).cloned().unwrap_or_else(own)
}

fn log_response(
    id: &HeaderValue,
    method: &Method,
    route: &str,
    response: &mut Response,
    started: Instant,
) {
    let status = response.status().as_u16();
    let took = started.elapsed().as_micros() as f64 / 1000.0;
    let id = id.to_str().unwrap_or("-");
    match response.extensions_mut().remove::<LoggedError>() {
        Some(LoggedError(error)) if status >= 500 => tracing::error!(
            request.id = id, http.method = %method, http.route = route, http.status = status, http.ms = took,
            error = %error.chain(), "request failed"
        ),
        Some(LoggedError(error)) => tracing::info!(
            request.id = id, http.method = %method, http.route = route, http.status = status, http.ms = took,
            error.code = error.kind.code(), "request refused"
        ),
        None => tracing::info!(
            request.id = id, http.method = %method, http.route = route, http.status = status, http.ms = took,
            "request"
        ),
    }
}
