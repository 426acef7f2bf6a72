//! Deadlines of request bodies: a client that sends slowly, or forever, does not keep its request.

use axum::BoxError;
use axum::body::{Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Slowest rate at which a body may arrive. Time is credited at this rate for received bytes.
const MIN_BYTES_PER_SECOND: u64 = 1 << 10;
/// Longest time that a body may take, apart from the time for its size.
const MAX_DURATION: Duration = Duration::from_secs(5 * 60);
/// The rate at which the size of a body extends [`MAX_DURATION`].
const BULK_BYTES_PER_SECOND: u64 = 64 << 10;

/// A request body that fails with [`BodyTimeout`] if it arrives too slowly. Only the time counts
/// during which the server waits for the client.
pub(super) struct TimedBody<B: HttpBody> {
    body: B,
    /// Longest pause between two chunks, and the credit that a client can save.
    timeout: Duration,
    /// How much longer the server waits unless bytes arrive.
    credit: Duration,
    waited: Duration,
    received: u64,
    wait: Option<Wait>,
    /// Set when the body is dropped before its end.
    is_cut_off: Arc<AtomicBool>,
    has_ended: bool,
}

/// A wait for the next chunk.
struct Wait {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

/// A body that did not arrive in time.
#[derive(Debug)]
pub(super) struct BodyTimeout {
    /// Whether the whole body took too long, rather than its last part.
    is_total: bool,
    waited: Duration,
    received: u64,
}

impl<B: HttpBody> TimedBody<B> {
    /// `is_cut_off` is set if the body is not read to its end.
    pub(super) fn new(body: B, timeout: Duration, is_cut_off: Arc<AtomicBool>) -> Self {
        Self {
            body,
            timeout,
            credit: timeout,
            waited: Duration::ZERO,
            received: 0,
            wait: None,
            is_cut_off,
            has_ended: false,
        }
    }

    fn remaining_total(&self) -> Duration {
        let by_size = Duration::from_secs(self.received / BULK_BYTES_PER_SECOND);
        (MAX_DURATION + by_size).saturating_sub(self.waited)
    }

    fn record_wait(&mut self) {
        let Some(wait) = self.wait.take() else { return };
        let waited = wait.since.elapsed();
        self.waited += waited;
        self.credit = self.credit.saturating_sub(waited);
    }

    fn record_bytes(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.received += bytes;
        let earned = Duration::from_micros(bytes * 1_000_000 / MIN_BYTES_PER_SECOND);
        self.credit = (self.credit + earned).min(self.timeout);
    }
}

impl<B> HttpBody for TimedBody<B>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.record_wait();
            let frame = frame.map(|frame| frame.map_err(Into::into));
            match &frame {
                Some(Ok(frame)) => this.record_bytes(frame.data_ref().map_or(0, Bytes::len)),
                // A connection that failed has nothing left to read.
                Some(Err(_)) | None => this.has_ended = true,
            }
            return Poll::Ready(frame);
        }
        let left = this.credit.min(this.remaining_total());
        let wait = this.wait.get_or_insert_with(|| {
            let since = Instant::now();
            Wait { since, timer: Box::pin(sleep_until(since + left)) }
        });
        ready!(wait.timer.as_mut().poll(context));
        this.record_wait();
        let is_total = this.remaining_total().is_zero();
        let timeout = BodyTimeout { is_total, waited: this.waited, received: this.received };
        Poll::Ready(Some(Err(timeout.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: HttpBody> Drop for TimedBody<B> {
    fn drop(&mut self) {
        if !self.has_ended && !self.body.is_end_stream() {
            self.is_cut_off.store(true, Ordering::Relaxed);
        }
    }
}

impl BodyTimeout {
    /// The limit's name in the metrics.
    pub(super) fn limit_name(&self) -> &'static str {
        if self.is_total { "body_time" } else { "body_rate" }
    }
}

impl fmt::Display for BodyTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, waited, .. } = self;
        let seconds = waited.as_secs_f32();
        write!(f, "the body did not arrive in time: {received} bytes in {seconds:.1} s; ")?;
        match self.is_total {
            true => write!(
                f,
                "it may take {} s, and a second for every {BULK_BYTES_PER_SECOND} bytes",
                MAX_DURATION.as_secs()
            ),
            false => {
                write!(f, "it must arrive at {MIN_BYTES_PER_SECOND} bytes per second or faster")
            }
        }
    }
}

impl std::error::Error for BodyTimeout {}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Reads a body of `count` chunks of `size` bytes with a pause before each.
    async fn read_paced(count: usize, size: usize, pause: Duration) -> Result<usize, BodyTimeout> {
        let chunks = futures::stream::unfold(0, move |sent| async move {
            tokio::time::sleep(pause).await;
            let frame = Frame::data(Bytes::from(vec![b'x'; size]));
            (sent < count).then_some((Ok::<_, BoxError>(frame), sent + 1))
        });
        let body = StreamBody::new(Box::pin(chunks));
        let body = TimedBody::new(body, TIMEOUT, Arc::default());
        let read = body.collect().await.map(|body| body.to_bytes().len());
        read.map_err(|error| *error.downcast::<BodyTimeout>().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn trickling_body_ends_and_steady_one_passes() {
        let second = Duration::from_secs(1);
        assert_eq!(read_paced(100, 1024, second).await.unwrap(), 102_400);
        let slow = read_paced(1000, 1, second).await.unwrap_err();
        assert!((29..=31).contains(&slow.waited.as_secs()), "{slow}");
        assert_eq!(slow.limit_name(), "body_rate");
    }

    #[tokio::test(start_paused = true)]
    async fn early_bytes_earn_no_more_than_one_timeout() {
        let chunks = [1 << 20, 1, 1, 1, 1];
        let frames = futures::stream::iter(chunks).then(async |size: usize| {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'x'; size])))
        });
        let body = StreamBody::new(Box::pin(frames));
        let read = TimedBody::new(body, TIMEOUT, Arc::default()).collect().await;
        assert!(read.unwrap_err().is::<BodyTimeout>());
    }

    #[tokio::test(start_paused = true)]
    async fn body_at_the_slowest_rate_ends_after_minutes() {
        let endless = read_paced(usize::MAX, 1024, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(endless.limit_name(), "body_time");
        assert!((300..320).contains(&endless.waited.as_secs()), "{endless}");
    }

    use futures::StreamExt;
}
