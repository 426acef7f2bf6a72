//! Connections: accepted one by one, and ended when their reader hangs.
//!
//! A reader that takes nothing for a minute costs the turn nothing, but its socket and its place in
//! this process: its connection is closed, and it can come back with the id of its last frame.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};

/// After an error that is not a single connection's: too many open files, say.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A listener whose connections give up on readers that hang.
pub struct TimeoutListener {
    listener: TcpListener,
    write_timeout: Duration,
}

impl TimeoutListener {
    /// Accepts from `listener`; a write that hangs for `patience` ends its connection.
    pub fn new(listener: TcpListener, patience: Duration) -> Self {
        Self { listener, write_timeout: patience }
    }
}

impl TimeoutListener {
    /// The next connection, and whom it comes from.
    pub(super) async fn accept(&mut self) -> (TimeoutConnection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // A token that waits for an acknowledgement is a token late.
                    let _ = stream.set_nodelay(true);
                    return (
                        TimeoutConnection {
                            stream,
                            write_timeout: self.write_timeout,
                            write_deadline: None,
                        },
                        address,
                    );
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
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

/// A connection that ends when a write hangs for too long.
pub(super) struct TimeoutConnection {
    stream: TcpStream,
    write_timeout: Duration,
    /// Until when the write that hangs may go on hanging.
    write_deadline: Option<Pin<Box<Sleep>>>,
}

impl TimeoutConnection {
    fn check_write_timeout<T>(
        &mut self,
        context: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.write_deadline = None;
            return write;
        }
        let hanging =
            self.write_deadline.get_or_insert_with(|| Box::pin(sleep(self.write_timeout)));
        ready!(hanging.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing")))
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
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
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
