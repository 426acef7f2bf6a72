//! The accept loop: a bounded number of connections, each with read deadlines, until shutdown.
//!
//! hyper is used directly, because `axum::serve` has no deadline for a request's head: a client
//! that sends one byte per minute would keep its connection forever.

use super::connection::TimeoutListener;
use super::connection_registry::{
    ActiveRequest, ConnectionLimits, ConnectionRegistry, ConnectionSlot,
};
use super::request_body::TimedBody;
use super::route_policy::{RouteAccess, RoutePolicies};
use crate::error::Result;
use crate::limits;
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Connections over a bound that are open at the same time, to be told so. Further ones are
/// closed without an answer.
const MAX_REFUSALS: usize = 32;
/// Time in which a connection over a bound must send its request.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
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

impl ReadTimeouts {
    fn shortened(self, longest: Duration) -> Self {
        Self { head: self.head.min(longest), body: self.body.min(longest) }
    }
}

/// The bounds of connections.
#[derive(Clone)]
pub struct ConnectionPolicy {
    pub limits: ConnectionLimits,
    /// Peers whose address stands for many clients.
    pub is_proxy: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
}

/// Serves until `stop`, then stops accepting and waits for running requests to end.
pub async fn serve(
    mut listener: TimeoutListener,
    router: Router,
    timeouts: ReadTimeouts,
    policy: ConnectionPolicy,
    stop: CancellationToken,
) {
    let registry = ConnectionRegistry::new(policy.limits);
    // Connections over a bound are only open until they have been told so.
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let connections = GracefulShutdown::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let admission = registry.admit(peer.ip(), (policy.is_proxy)(peer.ip()));
        let (permit, timeouts) = match &admission {
            Ok(_) => (None, timeouts),
            Err(_) => {
                // Too many to be told why: others must not wait for them.
                let Ok(permit) = refusals.clone().try_acquire_owned() else { continue };
                (Some(permit), timeouts.shortened(REFUSAL_TIMEOUT))
            }
        };
        let slot = admission.as_ref().ok().cloned();
        let context = RequestContext {
            peer: PeerAddress(peer.ip()),
            body_timeout: timeouts.body,
            has_unread_body: stream.unread_body_flag(),
            admission: admission.map_err(|bound| bound.to_error(policy.limits)),
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.head)
            .max_buf_size(MAX_HEAD_BYTES)
            .keep_alive(slot.is_some())
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(build_connection_service(router.clone(), context)),
            );
        let connection = connections.watch(connection);
        #[expect(clippy::disallowed_methods, reason = "`connections` waits for it")]
        tokio::spawn(async move {
            // Errors of a connection, such as a reset, are caused by its client and not logged.
            match slot {
                Some(slot) => {
                    tokio::select! { biased; () = slot.evicted() => {}, _ = connection => {} }
                }
                None => drop(connection.await),
            }
            drop(permit);
        });
    }
    connections.shutdown().await;
}

/// Data that a connection adds to each of its requests.
#[derive(Clone)]
struct RequestContext {
    peer: PeerAddress,
    body_timeout: Duration,
    has_unread_body: Arc<AtomicBool>,
    /// The place of the connection, or the reason why its requests are refused.
    admission: Result<Arc<ConnectionSlot>>,
}

/// The service of one connection. It adds the peer's address, the connection's admission and the
/// body deadline to each request, and keeps the connection's place for as long as the response
/// lasts.
fn build_connection_service(
    router: Router,
    context: RequestContext,
) -> impl tower::Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
+ Clone {
    tower::service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        let context = context.clone();
        async move {
            let active = match &context.admission {
                Ok(slot) => match slot.begin_request() {
                    Some(active) => Some(active),
                    // The connection is about to be closed.
                    None => return Ok(StatusCode::SERVICE_UNAVAILABLE.into_response()),
                },
                Err(_) => None,
            };
            let RequestContext { peer, body_timeout, has_unread_body, admission } = context;
            has_unread_body.store(false, Ordering::Relaxed);
            let mut request: Request =
                request.map(|body| Body::new(TimedBody::new(body, body_timeout, has_unread_body)));
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(ConnectionAdmission(admission));
            let response = router.oneshot(request).await?;
            Ok(match active {
                Some(active) => {
                    response.map(|body| Body::new(ActiveBody { body, active: Arc::new(active) }))
                }
                None => response,
            })
        }
    })
}

/// A response's body. Its connection counts as used until it is dropped, and until its last bytes
/// are sent: hyper drops a body once it has taken these.
struct ActiveBody {
    body: Body,
    active: Arc<ActiveRequest>,
}

struct LastBytes {
    bytes: Bytes,
    _active: Arc<ActiveRequest>,
}

impl AsRef<[u8]> for LastBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl hyper::body::Body for ActiveBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let body = self.get_mut();
        let polled = Pin::new(&mut body.body).poll_frame(context);
        if !body.body.is_end_stream() {
            return polled;
        }
        polled.map_ok(|frame| {
            frame.map_data(|bytes| {
                Bytes::from_owner(LastBytes { bytes, _active: body.active.clone() })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The place of a request's connection. Absent in a router without connections, as in some tests.
#[derive(Clone)]
pub(super) struct ConnectionAdmission(pub(super) Result<Arc<ConnectionSlot>>);

/// Middleware that refuses requests of connections over a bound. Probes are always answered.
pub(super) async fn refuse_excess_connections(
    State(policies): State<Arc<RoutePolicies>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let is_probe = policies.find(request.method(), path).access == RouteAccess::Probe;
    match request.extensions().get::<ConnectionAdmission>() {
        Some(ConnectionAdmission(Err(error))) if !is_probe => {
            let peer = request.extensions().get::<PeerAddress>().map(|peer| peer.0.to_string());
            let limit = error.limit_name().unwrap_or("connections");
            limits::note_hit(limit, peer.unwrap_or_default(), &error.message);
            error.clone().into_response()
        }
        _ => next.run(request).await,
    }
}
