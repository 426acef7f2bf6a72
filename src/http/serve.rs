//! Serving: connections accepted, so many at a time, each with its deadlines, until told to stop.
//!
//! hyper is used directly, because what the framework offers has no deadline for a request's head:
//! a client that sends a byte a minute would keep its connection for ever.

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

/// Connections that are open at the same time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 16 << 10;
/// The most bytes of a request's head; hyper takes at most 100 headers.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// Whom a connection comes from: a client, or a proxy before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddress(pub(super) IpAddr);

/// How long clients may take to send.
#[derive(Debug, Clone, Copy)]
pub struct ReadTimeouts {
    /// For a request's head, also the first one; also how long a connection may lie idle.
    pub head: Duration,
    /// For each next piece of a request's body.
    pub body: Duration,
}

/// Serves until `stop`, then lets requests that are under way end.
pub async fn serve(
    mut listener: TimeoutListener,
    router: Router,
    patience: ReadTimeouts,
    stop: CancellationToken,
) {
    let (room, connections) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), GracefulShutdown::new());
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, (stream, peer)) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        let service =
            TowerToHyperService::new(build_connection_service(router.clone(), peer, patience.body));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience.head)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // How a connection ends is its client's business.
            let _ = connection.await;
            drop(place);
        });
    }
    connections.shutdown().await;
}

/// The service of one connection: each of its requests says whom it comes from.
fn build_connection_service(
    router: Router,
    peer: SocketAddr,
    patience: Duration,
) -> impl tower::Service<
    hyper::Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone {
    router.map_request(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(|body| Body::new(TimeoutBody::new(patience, body)));
        request.extensions_mut().insert(PeerAddress(peer.ip()));
        request
    })
}
