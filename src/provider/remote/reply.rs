//! A reply as it arrives: bytes become events, events become what the vendor's dialect says.
//!
//! A cut connection is an error, a clean end is an end, and JSON where a stream was promised is
//! read as what it is.

use super::sse::Decoder;
use super::surrogates::Halves;
use super::{failure, retry_after, whole_body};
use crate::provider::{Event, Events, Fault, ProviderError};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use reqwest::RequestBuilder;
use reqwest::header::{ACCEPT, CONTENT_TYPE};

/// How much of a body is kept to see what it was, if it turns out to be no stream.
const MAX_HEAD: usize = 64 << 10;

/// How a vendor writes a reply. `key` must not be shown in an error.
pub(in crate::provider) trait Dialect: Send + 'static {
    /// Reads one event of a stream into `events`. Whether the reply is over with it.
    fn read(
        &mut self,
        name: &[u8],
        data: &[u8],
        key: Option<&str>,
        events: &mut Vec<Event>,
    ) -> Result<bool, ProviderError>;

    /// Reads a body that is one JSON object: a whole reply, or an error.
    fn read_whole(&mut self, body: &[u8], key: Option<&str>) -> Result<Vec<Event>, ProviderError>;
}

/// Sends a request with a JSON body and reads the streamed reply. Gives the stream as soon as the
/// endpoint has accepted the request; dropping it hangs up.
pub(in crate::provider) async fn reply(
    request: RequestBuilder,
    mut dialect: impl Dialect,
    key: Option<String>,
) -> Result<Events, ProviderError> {
    let request =
        request.header(CONTENT_TYPE, "application/json").header(ACCEPT, "text/event-stream");
    let response = request.send().await.map_err(|error| failure::of_connection(&error))?;
    let status = response.status();
    if !status.is_success() {
        let pause = retry_after(response.headers());
        let body = whole_body(response).await?;
        return Err(failure::of_status(status.as_u16(), pause, &body, key.as_deref()));
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with("application/json")) {
        let body = whole_body(response).await?;
        return Ok(stream::iter([dialect.read_whole(&body, key.as_deref())]).boxed());
    }
    let bytes =
        response.bytes_stream().map(|piece| piece.map_err(|error| failure::of_connection(&error)));
    let reply = Reply {
        bytes: bytes.boxed(),
        decoder: Decoder::default(),
        halves: Halves::default(),
        dialect,
        key,
        head: Vec::new(),
        has_events: false,
        is_over: false,
    };
    Ok(stream::unfold(reply, Reply::next).boxed())
}

/// A reply as its bytes arrive.
struct Reply<D> {
    bytes: BoxStream<'static, Result<Bytes, ProviderError>>,
    decoder: Decoder,
    halves: Halves,
    dialect: D,
    key: Option<String>,
    /// The beginning of the body, kept until the first event is seen.
    head: Vec<u8>,
    has_events: bool,
    is_over: bool,
}

impl<D: Dialect> Reply<D> {
    async fn next(mut self) -> Option<(Result<Vec<Event>, ProviderError>, Self)> {
        if self.is_over {
            return None;
        }
        let batch = match self.bytes.next().await {
            Some(Ok(bytes)) => self.read(&bytes),
            Some(Err(error)) => Err(error),
            None => {
                self.is_over = true;
                self.end()?
            }
        };
        self.is_over |= batch.is_err();
        Some((batch, self))
    }

    fn read(&mut self, bytes: &[u8]) -> Result<Vec<Event>, ProviderError> {
        let mut events = Vec::new();
        let (mut broken, mut is_done) = (None, false);
        let (key, halves, has_events) =
            (self.key.as_deref(), &mut self.halves, &mut self.has_events);
        let dialect = &mut self.dialect;
        let fits = self.decoder.push(bytes, |name, data| {
            *has_events = true;
            if broken.is_some() || is_done {
                return;
            }
            match dialect.read(name, &halves.mend(data), key, &mut events) {
                Ok(is_last) => is_done = is_last,
                Err(error) => broken = Some(error),
            }
        });
        if !self.has_events {
            let room = MAX_HEAD.saturating_sub(self.head.len());
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        // The connection may stay open, or break, behind the end: that is no matter of ours.
        self.is_over |= is_done;
        match broken {
            // What came before the error counts; the error comes next.
            Some(error) if events.is_empty() => Err(error),
            Some(error) => {
                self.bytes = stream::iter([Err(error)]).boxed();
                Ok(events)
            }
            None if fits => Ok(events),
            None => Err(ProviderError::new(
                Fault::Refused,
                "the provider sent an event that is too large",
            )),
        }
    }

    /// Some servers send an error as bare JSON, whatever they said of the content type.
    fn end(&mut self) -> Option<Result<Vec<Event>, ProviderError>> {
        if self.has_events || self.head.is_empty() {
            return None;
        }
        Some(self.dialect.read_whole(&self.head, self.key.as_deref()))
    }
}
