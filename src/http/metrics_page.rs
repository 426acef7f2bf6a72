//! `/metrics` for Prometheus, on an address of its own: it is for the operator, not for users.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves the text that `render` returns until `stop`.
pub async fn serve_metrics(
    listener: TcpListener,
    render: Arc<dyn Fn() -> String + Send + Sync>,
    stop: CancellationToken,
) {
    let page = get(move || async move { ([(CONTENT_TYPE, METRICS_TYPE)], render()) });
    let router = Router::new().route("/metrics", page);
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "serving metrics failed");
    }
}
