//! Streamed responses: a turn's frames, and events.

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

/// Proxies and load balancers cut connections that are silent for a minute.
const HEARTBEAT_COMMENT: Bytes = Bytes::from_static(b": still here\n\n");

/// Streams what `reader` reads of a turn, as the AI SDK expects it.
pub(super) fn stream_turn_reply(reader: TurnReader, heartbeat: Duration) -> Response {
    let mut response = stream_with_heartbeat(reader, heartbeat);
    let protocol = HeaderValue::from_static("v1");
    response.headers_mut().insert("x-vercel-ai-ui-message-stream", protocol);
    response
}

/// What a response is made of, piece by piece.
pub(super) trait SseSource: Send + 'static {
    /// The next piece; `None` behind the last. One that is not waited for to its end is not lost.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

impl SseSource for TurnReader {
    async fn next(&mut self) -> Option<Bytes> {
        Self::next(self).await
    }
}

/// Streams pieces; a comment goes out whenever nothing else did for `heartbeat`.
pub(super) fn stream_with_heartbeat(pieces: impl SseSource, heartbeat: Duration) -> Response {
    let body = stream::unfold(pieces, move |mut pieces| async move {
        let piece = match timeout(heartbeat, pieces.next()).await {
            Ok(piece) => piece?,
            Err(_) => HEARTBEAT_COMMENT,
        };
        Some((Ok::<_, Infallible>(piece), pieces))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    disable_buffering(headers);
    response
}

/// Tells whoever stands between to hand a stream on as it comes.
pub(super) fn disable_buffering(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
}
