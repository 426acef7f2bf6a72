//! Reads a streamed reply: bytes become server-sent events, and a vendor's parser turns these into
//! provider events.
//!
//! A lost connection is an error, a clean end is an end, and JSON in place of a promised stream is
//! parsed as JSON.

use super::sse::SseDecoder;
use super::{MAX_BODY_BYTES, errors, parse_retry_after, read_body, too_large_error};
use crate::json::escapes::{SurrogateJoiner, repair_escapes};
use crate::provider::{ProviderError, ProviderErrorKind, ProviderEvent, ProviderEvents};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use reqwest::RequestBuilder;
use reqwest::header::{ACCEPT, CONTENT_TYPE};

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

    /// Adds the events of text that the parser has held back. Called where a stream ends or breaks
    /// off.
    fn parse_end(&mut self, _: &mut Vec<ProviderEvent>) {}

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
    parser: impl StreamParser,
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
    /// The body until the first event is decoded, in case it turns out to be JSON.
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
            Some(Err(error)) => self.fail_after_rest(error),
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
            self.head.extend_from_slice(bytes);
            if self.head.len() > MAX_BODY_BYTES {
                return Err(too_large_error());
            }
        }
        // After the last event the connection may stay open or break; neither matters.
        self.is_done |= is_done;
        match failure {
            Some(error) => {
                self.parser.parse_end(&mut events);
                self.fail_after(events, error)
            }
            None if is_within_limit => Ok(events),
            None => Err(ProviderError::new(
                ProviderErrorKind::BadResponse,
                "the provider sent an event that is too large",
            )),
        }
    }

    /// Events before an error are passed on first, the error next.
    fn fail_after(
        &mut self,
        events: Vec<ProviderEvent>,
        error: ProviderError,
    ) -> Result<Vec<ProviderEvent>, ProviderError> {
        if events.is_empty() {
            return Err(error);
        }
        self.bytes = stream::iter([Err(error)]).boxed();
        Ok(events)
    }

    fn fail_after_rest(
        &mut self,
        error: ProviderError,
    ) -> Result<Vec<ProviderEvent>, ProviderError> {
        let mut events = Vec::new();
        self.parser.parse_end(&mut events);
        self.fail_after(events, error)
    }

    /// Parses the body as JSON if it had no events: some servers ignore `stream: true`, and some
    /// send errors as bare JSON. The content type is not reliable, in either direction.
    fn parse_remainder(&mut self) -> Option<Result<Vec<ProviderEvent>, ProviderError>> {
        if self.has_events {
            let mut rest = Vec::new();
            self.parser.parse_end(&mut rest);
            return (!rest.is_empty()).then_some(Ok(rest));
        }
        if self.head.is_empty() {
            return None;
        }
        let body = String::from_utf8_lossy(&self.head);
        let repaired = repair_escapes(&body);
        let body = repaired.as_ref().map_or(&*body, |repaired| &repaired.json);
        Some(self.parser.parse_body(body.as_bytes(), self.key.as_deref()))
    }
}
