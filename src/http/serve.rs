//! The accept loop: a bounded number of connections, each with read deadlines, until shutdown.
//!
//! hyper is used directly, because `axum::serve` has no deadline for a request's head: a client
//! that sends one byte per minute would keep its connection forever.

use super::connection::TimeoutListener;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::timeout::TimeoutBody;

/// Connections open at the same time. Further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 16 << 10;
/// Size of a request's head. hyper itself limits the number of headers to 100.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// The remote address of a connection: the client, or the proxy in front of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddress(pub(super) IpAddr);

/// Read deadlines of a connection.
#[derive(Debug, Clone, Copy)]
pub struct ReadTimeouts {
    /// Time to receive a request's head. It also bounds how long a connection may be idle.
    pub head: Duration,
    /// Time between two chunks of a request's body.
    pub body: Duration,
}

/// Serves until `stop`, then stops accepting and waits for running requests to end.
pub async fn serve(
    mut listener: TimeoutListener,
    router: Router,
    timeouts: ReadTimeouts,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = GracefulShutdown::new();
    loop {
        // The slot is taken before accepting, so that a connection over the limit stays in the
        // backlog instead of being open without a task.
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, (stream, peer)) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        let service =
            TowerToHyperService::new(build_connection_service(router.clone(), peer, timeouts.body));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.head)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // Errors of a connection, such as a reset, are caused by its client and not logged.
            let _ = connection.await;
            drop(slot);
        });
    }
    connections.shutdown().await;
}

/// The service of one connection. It adds [`PeerAddress`] and the body deadline to each request.
fn build_connection_service(
    router: Router,
    peer: SocketAddr,
    body_timeout: Duration,
) -> impl tower::Service<
    hyper::Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone {
    router.map_request(move |request: hyper::Request<Incoming>| {
        let mut request: Request =
            request.map(|body| Body::new(TimeoutBody::new(body_timeout, body)));
        request.extensions_mut().insert(PeerAddress(peer.ip()));
        request
    })
}
