//! `/health`: liveness and readiness probes. Public.

use super::ApiState;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// The state of a server instance.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthResponse {
    /// Always `ok`.
    status: &'static str,
    /// Version of the server.
    version: &'static str,
    /// Name of the instance: `<host>/<address>`.
    instance: String,
}

impl HealthResponse {
    fn new(api: &ApiState) -> Self {
        let instance = api.chat.instance_name().to_owned();
        Self { status: "ok", version: env!("CARGO_PKG_VERSION"), instance }
    }
}

/// Check that the process is running.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = Envelope<HealthResponse>)))]
pub(super) async fn check_liveness(State(api): State<ApiState>) -> Json<Envelope<HealthResponse>> {
    ok_response("The server is running", HealthResponse::new(&api))
}

/// Check that the server can accept turns.
///
/// It can if the database is readable and writable and the server is not shutting down.
#[utoipa::path(
    get, path = "/health/ready", tag = "health",
    responses((status = 200, body = Envelope<HealthResponse>), (status = 503, body = ErrorResponse))
)]
pub(super) async fn check_readiness(
    State(api): State<ApiState>,
) -> ApiResult<Json<Envelope<HealthResponse>>> {
    // Checked first: a load balancer must stop sending requests as soon as a shutdown begins,
    // whether or not the database still answers.
    api.chat.ensure_not_draining()?;
    api.store.check_ready().await?;
    Ok(ok_response("The server is ready", HealthResponse::new(&api)))
}
