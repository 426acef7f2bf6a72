//! A turn's frames as a streamed response.

use crate::chat::Reader;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::timeout;

/// Proxies and load balancers cut connections that are silent for a minute.
const COMMENT: Bytes = Bytes::from_static(b": still here\n\n");

/// Streams what `reader` reads; a comment goes out whenever nothing else did for `heartbeat`.
pub(super) fn stream(reader: Reader, heartbeat: Duration) -> Response {
    let frames = stream::unfold(reader, move |mut reader| async move {
        let frames = match timeout(heartbeat, reader.next()).await {
            Ok(frames) => frames?,
            Err(_) => COMMENT,
        };
        Some((Ok::<_, Infallible>(frames), reader))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert("x-vercel-ai-ui-message-stream", HeaderValue::from_static("v1"));
    response
}
