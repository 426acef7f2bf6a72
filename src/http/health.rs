//! `/health`: for whoever keeps the server running. Public.

use super::ApiState;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::NoQueryParams;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// How the server is.
#[derive(Serialize, ToSchema)]
pub(super) struct HealthResponse {
    status: &'static str,
    version: &'static str,
    /// The name of this instance: `<host>/<address>`.
    instance: String,
}

impl HealthResponse {
    fn new(api: &ApiState) -> Self {
        let instance = api.chat.instance_name().to_owned();
        Self { status: "ok", version: env!("CARGO_PKG_VERSION"), instance }
    }
}

/// Whether the process answers.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = Envelope<HealthResponse>)))]
pub(super) async fn check_liveness(
    State(api): State<ApiState>,
    _query: NoQueryParams,
) -> Json<Envelope<HealthResponse>> {
    ok_response("The server is running", HealthResponse::new(&api))
}

/// Whether turns can begin: the store can be read and written, and the server is not going down.
#[utoipa::path(
    get, path = "/health/ready", tag = "health",
    responses((status = 200, body = Envelope<HealthResponse>), (status = 503, body = ErrorResponse))
)]
pub(super) async fn check_readiness(
    State(api): State<ApiState>,
    _query: NoQueryParams,
) -> ApiResult<Json<Envelope<HealthResponse>>> {
    api.chat.ensure_not_draining()?;
    api.store.check_ready().await?;
    Ok(ok_response("The server is ready", HealthResponse::new(&api)))
}
