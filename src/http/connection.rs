//! TCP connections that are closed when the client stops reading, and closed gently while it is
//! still sending.
//!
//! A stalled client does not slow its turn down, but it occupies a socket and a connection slot.
//! Its connection is closed after the write timeout; it can resume with the ID of its last frame.
//!
//! A request may be answered before its body has arrived. Closing a socket with unread bytes resets
//! the connection, and the client gets a broken pipe instead of the answer. So the rest of the body
//! is read and dropped for a while.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};

/// Pause after an accept error that concerns the listener, such as too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// How long the rest of a body is read and dropped, and how much of it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_DRAINED_BYTES: usize = 64 << 20;

/// A TCP listener whose connections time out on blocked writes.
pub struct TimeoutListener {
    listener: TcpListener,
    write_timeout: Duration,
}

impl TimeoutListener {
    /// A write that is blocked for `write_timeout` fails and ends its connection.
    pub fn new(listener: TcpListener, write_timeout: Duration) -> Self {
        Self { listener, write_timeout }
    }

    /// Waits for the next connection. Accept errors are logged and retried, never returned.
    pub(super) async fn accept(&mut self) -> (TimeoutConnection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // Nagle's algorithm would hold a small frame back until the previous one is
                    // acknowledged, which delays tokens.
                    let _ = stream.set_nodelay(true);
                    return (
                        TimeoutConnection {
                            stream,
                            write_timeout: self.write_timeout,
                            write_deadline: None,
                            has_unread_body: Arc::default(),
                            drain: None,
                        },
                        address,
                    );
                }
                // The client went away while it was in the backlog; the listener is fine.
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "accepting a connection failed; retrying");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A TCP stream whose writes fail with `TimedOut` when they are blocked for `write_timeout`.
pub(super) struct TimeoutConnection {
    stream: TcpStream,
    write_timeout: Duration,
    /// Set while a write is blocked.
    write_deadline: Option<Pin<Box<Sleep>>>,
    has_unread_body: Arc<AtomicBool>,
    /// Set once the connection is shut down for writing.
    drain: Option<BodyDrain>,
}

struct BodyDrain {
    deadline: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl TimeoutConnection {
    /// To be set when a request's body is dropped before its end.
    pub(super) fn unread_body_flag(&self) -> Arc<AtomicBool> {
        self.has_unread_body.clone()
    }

    /// Reads and drops what arrives, until the client is done or has had its time.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let drain = self.drain.get_or_insert_with(|| BodyDrain {
            deadline: Box::pin(sleep(DRAIN_TIMEOUT)),
            bytes_left: MAX_DRAINED_BYTES,
        });
        let mut buffer = [0; 16 << 10];
        while drain.deadline.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut buffer);
            let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
            let count = ready!(read).map_or(0, |()| buffer.filled().len());
            match drain.bytes_left.checked_sub(count) {
                Some(left) if count > 0 => drain.bytes_left = left,
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn check_write_timeout<T>(
        &mut self,
        context: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.write_deadline = None;
            return write;
        }
        // The deadline starts with the first blocked write and is kept across polls: only a write
        // that makes progress resets it.
        let deadline =
            self.write_deadline.get_or_insert_with(|| Box::pin(sleep(self.write_timeout)));
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the write timed out")))
    }
}

impl AsyncWrite for TimeoutConnection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let write = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.check_write_timeout(context, write)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let write = Pin::new(&mut this.stream).poll_write_vectored(context, pieces);
        this.check_write_timeout(context, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.drain.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        if this.has_unread_body.load(Ordering::Relaxed) {
            return this.poll_drain(context);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TimeoutConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}
