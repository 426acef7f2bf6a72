//! A reply as it arrives: bytes become events, events become what the vendor's dialect says.
//!
//! A cut connection is an error, a clean end is an end, and JSON where a stream was promised is
//! read as what it is.

use super::sse::SseDecoder;
use super::surrogates::SurrogateJoiner;
use super::{errors, parse_retry_after, read_body};
use crate::provider::{ProviderError, ProviderErrorKind, ProviderEvent, ProviderEvents};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use reqwest::RequestBuilder;
use reqwest::header::{ACCEPT, CONTENT_TYPE};

/// How much of a body is kept to see what it was, if it turns out to be no stream.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How a vendor writes a reply. `key` must not be shown in an error.
pub(in crate::provider) trait StreamParser: Send + 'static {
    /// Reads one event of a stream into `events`. Whether the reply is over with it.
    fn parse_event(
        &mut self,
        name: &[u8],
        data: &[u8],
        key: Option<&str>,
        events: &mut Vec<ProviderEvent>,
    ) -> Result<bool, ProviderError>;

    /// Reads a body that is one JSON object: a whole reply, or an error.
    fn parse_body(
        &mut self,
        body: &[u8],
        key: Option<&str>,
    ) -> Result<Vec<ProviderEvent>, ProviderError>;
}

/// Sends a request with a JSON body and reads the streamed reply. Gives the stream as soon as the
/// endpoint has accepted the request; dropping it hangs up.
pub(in crate::provider) async fn open_reply_stream(
    request: RequestBuilder,
    mut dialect: impl StreamParser,
    key: Option<String>,
) -> Result<ProviderEvents, ProviderError> {
    let request =
        request.header(CONTENT_TYPE, "application/json").header(ACCEPT, "text/event-stream");
    let response = request.send().await.map_err(|error| errors::connection_error(&error))?;
    let status = response.status();
    if !status.is_success() {
        let pause = parse_retry_after(response.headers());
        let body = read_body(response).await?;
        return Err(errors::status_error(status.as_u16(), pause, &body, key.as_deref()));
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with("application/json")) {
        let body = read_body(response).await?;
        return Ok(stream::iter([dialect.parse_body(&body, key.as_deref())]).boxed());
    }
    let bytes = response
        .bytes_stream()
        .map(|piece| piece.map_err(|error| errors::connection_error(&error)));
    let reply = ReplyReader {
        bytes: bytes.boxed(),
        decoder: SseDecoder::default(),
        surrogates: SurrogateJoiner::default(),
        parser: dialect,
        key,
        head: Vec::new(),
        has_events: false,
        is_done: false,
    };
    Ok(stream::unfold(reply, ReplyReader::next_batch).boxed())
}

/// A reply as its bytes arrive.
struct ReplyReader<D> {
    bytes: BoxStream<'static, Result<Bytes, ProviderError>>,
    decoder: SseDecoder,
    surrogates: SurrogateJoiner,
    parser: D,
    key: Option<String>,
    /// The beginning of the body, kept until the first event is seen.
    head: Vec<u8>,
    has_events: bool,
    is_done: bool,
}

impl<D: StreamParser> ReplyReader<D> {
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
        let (mut broken, mut is_done) = (None, false);
        let (key, halves, has_events) =
            (self.key.as_deref(), &mut self.surrogates, &mut self.has_events);
        let dialect = &mut self.parser;
        let fits = self.decoder.push(bytes, |name, data| {
            *has_events = true;
            if broken.is_some() || is_done {
                return;
            }
            match dialect.parse_event(name, &halves.join_halves(data), key, &mut events) {
                Ok(is_last) => is_done = is_last,
                Err(error) => broken = Some(error),
            }
        });
        if !self.has_events {
            let room = MAX_HEAD_BYTES.saturating_sub(self.head.len());
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        // The connection may stay open, or break, behind the end: that is no matter of ours.
        self.is_done |= is_done;
        match broken {
            // What came before the error counts; the error comes next.
            Some(error) if events.is_empty() => Err(error),
            Some(error) => {
                self.bytes = stream::iter([Err(error)]).boxed();
                Ok(events)
            }
            None if fits => Ok(events),
            None => Err(ProviderError::new(
                ProviderErrorKind::BadResponse,
                "the provider sent an event that is too large",
            )),
        }
    }

    /// Some servers send an error as bare JSON, whatever they said of the content type.
    fn parse_remainder(&mut self) -> Option<Result<Vec<ProviderEvent>, ProviderError>> {
        if self.has_events || self.head.is_empty() {
            return None;
        }
        Some(self.parser.parse_body(&self.head, self.key.as_deref()))
    }
}
