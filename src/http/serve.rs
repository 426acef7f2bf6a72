//! Serving: connections accepted, so many at a time, each with its deadlines, until told to stop.
//!
//! hyper is used directly, because what the framework offers has no deadline for a request's head:
//! a client that sends a byte a minute would keep its connection for ever.

use super::connection::Patient;
use axum::Router;
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

/// Connections that are open at the same time; more wait to be accepted.
const CONNECTIONS: usize = 16 << 10;
/// The most bytes of a request's head; hyper takes at most 100 headers.
const MAX_HEAD: usize = 32 << 10;

/// Whom a connection comes from: a client, or a proxy before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Serves until `stop`, then lets requests that are under way end. `head` is how long a client may
/// take to send a request's head, also the first one, and how long a connection may lie idle.
pub async fn serve(mut listener: Patient, router: Router, head: Duration, stop: CancellationToken) {
    let (room, connections) = (Arc::new(Semaphore::new(CONNECTIONS)), GracefulShutdown::new());
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, (stream, peer)) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        let service = TowerToHyperService::new(from(router.clone(), peer));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head)
            .max_buf_size(MAX_HEAD)
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
fn from(
    router: Router,
    peer: SocketAddr,
) -> impl tower::Service<
    hyper::Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone {
    router.map_request(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Peer(peer.ip()));
        request
    })
}
