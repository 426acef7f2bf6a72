//! Streamed responses: server-sent events with heartbeats.

use crate::chat::TurnReader;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::timeout;

/// Sent when a stream is silent: many proxies close a connection that is idle for a minute.
const HEARTBEAT_COMMENT: Bytes = Bytes::from_static(b": still here\n\n");

/// Streams the frames of a turn with the headers that the AI SDK expects.
pub(super) fn stream_turn_reply(reader: TurnReader, heartbeat: Duration) -> Response {
    let mut response = stream_with_heartbeat(reader, heartbeat);
    let protocol = HeaderValue::from_static("v1");
    response.headers_mut().insert("x-vercel-ai-ui-message-stream", protocol);
    response
}

/// A source of encoded server-sent events.
pub(super) trait SseSource: Send + 'static {
    /// Returns the next chunk, or `None` at the end. Must be cancel-safe: a heartbeat drops the
    /// future while it waits, and no chunk may be lost by that.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

impl SseSource for TurnReader {
    async fn next(&mut self) -> Option<Bytes> {
        Self::next(self).await
    }
}

/// Streams a source, with a comment after each `heartbeat` of silence.
pub(super) fn stream_with_heartbeat(source: impl SseSource, heartbeat: Duration) -> Response {
    let body = stream::unfold(source, move |mut source| async move {
        let chunk = match timeout(heartbeat, source.next()).await {
            Ok(chunk) => chunk?,
            Err(_) => HEARTBEAT_COMMENT,
        };
        Some((Ok::<_, Infallible>(chunk), source))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    disable_buffering(headers);
    response
}

/// Tells proxies to pass a stream on without buffering or compressing it.
pub(super) fn disable_buffering(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // nginx and its relatives.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}
