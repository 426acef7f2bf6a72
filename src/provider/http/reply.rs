//! Reads a streamed reply: bytes become server-sent events, and a vendor's parser turns these into
//! provider events.
//!
//! A lost connection is an error, a clean end is an end, and JSON in place of a promised stream is
//! parsed as JSON.

use super::sse::SseDecoder;
use super::surrogates::SurrogateJoiner;
use super::{errors, parse_retry_after, read_body};
use crate::provider::{ProviderError, ProviderErrorKind, ProviderEvent, ProviderEvents};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use reqwest::RequestBuilder;
use reqwest::header::{ACCEPT, CONTENT_TYPE};

/// Bytes kept from the beginning of a body, in case it turns out not to be a stream.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Parser of a vendor's reply. Errors must not contain `key`.
pub(in crate::provider) trait StreamParser: Send + 'static {
    /// Parses one event of a stream into `events`. Returns whether the reply is complete.
    fn parse_event(
        &mut self,
        name: &[u8],
        data: &[u8],
        key: Option<&str>,
        events: &mut Vec<ProviderEvent>,
    ) -> Result<bool, ProviderError>;

    /// Parses a body that is one JSON object: a whole reply, or an error.
    fn parse_body(
        &mut self,
        body: &[u8],
        key: Option<&str>,
    ) -> Result<Vec<ProviderEvent>, ProviderError>;
}

/// Sends a request with a JSON body and reads the streamed reply. Returns the stream as soon as the
/// endpoint has accepted the request; dropping it closes the connection.
pub(in crate::provider) async fn open_reply_stream(
    request: RequestBuilder,
    mut parser: impl StreamParser,
    key: Option<String>,
) -> Result<ProviderEvents, ProviderError> {
    let request =
        request.header(CONTENT_TYPE, "application/json").header(ACCEPT, "text/event-stream");
    let response = request.send().await.map_err(|error| errors::connection_error(&error))?;
    let status = response.status();
    if !status.is_success() {
        let retry_after = parse_retry_after(response.headers());
        let body = read_body(response).await?;
        return Err(errors::status_error(status.as_u16(), retry_after, &body, key.as_deref()));
    }
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // Some servers ignore `stream: true`, and some report errors as JSON with status 200.
    if media_type.is_some_and(|media_type| media_type.starts_with("application/json")) {
        let body = read_body(response).await?;
        return Ok(stream::iter([parser.parse_body(&body, key.as_deref())]).boxed());
    }
    let bytes = response
        .bytes_stream()
        .map(|chunk| chunk.map_err(|error| errors::connection_error(&error)));
    let reply = ReplyReader {
        bytes: bytes.boxed(),
        decoder: SseDecoder::default(),
        surrogates: SurrogateJoiner::default(),
        parser,
        key,
        head: Vec::new(),
        has_events: false,
        is_done: false,
    };
    Ok(stream::unfold(reply, ReplyReader::next_batch).boxed())
}

/// A reply in progress.
struct ReplyReader<P> {
    bytes: BoxStream<'static, Result<Bytes, ProviderError>>,
    decoder: SseDecoder,
    surrogates: SurrogateJoiner,
    parser: P,
    key: Option<String>,
    /// Beginning of the body, until the first event is decoded.
    head: Vec<u8>,
    has_events: bool,
    is_done: bool,
}

impl<P: StreamParser> ReplyReader<P> {
    async fn next_batch(mut self) -> Option<(Result<Vec<ProviderEvent>, ProviderError>, Self)> {
        if self.is_done {
            return None;
        }
        let batch = match self.bytes.next().await {
            Some(Ok(bytes)) => self.parse_bytes(&bytes),
            Some(Err(error)) => Err(error),
            None => {
                self.is_done = true;
                self.parse_remainder()?
            }
        };
        self.is_done |= batch.is_err();
        Some((batch, self))
    }

    fn parse_bytes(&mut self, bytes: &[u8]) -> Result<Vec<ProviderEvent>, ProviderError> {
        let mut events = Vec::new();
        let mut failure = None;
        let mut is_done = false;
        let key = self.key.as_deref();
        let surrogates = &mut self.surrogates;
        let has_events = &mut self.has_events;
        let parser = &mut self.parser;
        let is_within_limit = self.decoder.push(bytes, |name, data| {
            *has_events = true;
            if failure.is_some() || is_done {
                return;
            }
            match parser.parse_event(name, &surrogates.join_halves(data), key, &mut events) {
                Ok(is_last) => is_done = is_last,
                Err(error) => failure = Some(error),
            }
        });
        if !self.has_events {
            let room = MAX_HEAD_BYTES.saturating_sub(self.head.len());
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        // After the last event the connection may stay open or break; neither matters.
        self.is_done |= is_done;
        match failure {
            Some(error) if events.is_empty() => Err(error),
            // Events before the error in the same chunk are passed on first, the error next.
            Some(error) => {
                self.bytes = stream::iter([Err(error)]).boxed();
                Ok(events)
            }
            None if is_within_limit => Ok(events),
            None => Err(ProviderError::new(
                ProviderErrorKind::BadResponse,
                "the provider sent an event that is too large",
            )),
        }
    }

    /// Parses the body as JSON if it had no events: some servers send errors as bare JSON, whatever
    /// the content type says.
    fn parse_remainder(&mut self) -> Option<Result<Vec<ProviderEvent>, ProviderError>> {
        if self.has_events || self.head.is_empty() {
            return None;
        }
        Some(self.parser.parse_body(&self.head, self.key.as_deref()))
    }
}
