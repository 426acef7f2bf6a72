//! Ends requests whose credentials become invalid before they are answered to the end: streams,
//! downloads, and calls that wait for a reply.

use crate::auth::{OpenCredentials, invalid_credentials};
use axum::body::{Body, BodyDataStream, HttpBody};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use std::sync::Arc;

/// Runs a handler while the credentials of its request are valid, and lets its response be read for
/// as long.
pub(super) async fn run_while_valid(
    handler: impl Future<Output = Response>,
    credentials: Option<Arc<OpenCredentials>>,
) -> Response {
    let Some(credentials) = credentials else { return handler.await };
    let mut invalid = credentials.wait_until_invalid();
    tokio::select! {
        biased;
        response = handler => end_when_invalid(response, credentials, invalid),
        // As for any client that disconnects: turns and writes that have begun are completed.
        () = &mut invalid => invalid_credentials().into_response(),
    }
}

/// A body that is read while the credentials of its request are valid.
struct GuardedBody {
    chunks: BodyDataStream,
    credentials: Arc<OpenCredentials>,
    /// Ready when they are invalid.
    invalid: BoxFuture<'static, ()>,
    is_event_stream: bool,
}

/// Cuts a streamed body off when `invalid` is ready.
fn end_when_invalid(
    response: Response,
    credentials: Arc<OpenCredentials>,
    invalid: BoxFuture<'static, ()>,
) -> Response {
    // A body of a known size is in memory and sent at once.
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let is_event_stream = response.headers().get(CONTENT_TYPE).is_some_and(is_event_stream_type);
    response.map(|body| {
        let chunks = body.into_data_stream();
        let guarded = GuardedBody { chunks, credentials, invalid, is_event_stream };
        Body::from_stream(stream::unfold(Some(guarded), |guarded| async {
            let mut guarded = guarded?;
            let chunk = guarded.next_chunk().await?;
            let rest = chunk.is_ok().then_some(guarded);
            Some((chunk, rest))
        }))
    })
}

impl GuardedBody {
    async fn next_chunk(&mut self) -> Option<Result<Bytes, axum::Error>> {
        let Self { chunks, credentials, invalid, is_event_stream } = self;
        let confirmed_chunk = async {
            let chunk = chunks.next().await?;
            credentials.wait_until_confirmed().await;
            Some(chunk)
        };
        tokio::select! {
            biased;
            // A stream of events may end anywhere. A download must not look complete, so its
            // connection is broken off.
            () = invalid => (!*is_event_stream)
                .then(|| Err(axum::Error::new("the credentials are not valid any more"))),
            chunk = confirmed_chunk => chunk,
        }
    }
}

fn is_event_stream_type(value: &HeaderValue) -> bool {
    value.as_bytes().starts_with(b"text/event-stream")
}
