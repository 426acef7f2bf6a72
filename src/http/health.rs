//! `/health`: liveness and readiness probes. Public.

use super::ApiState;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};

use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use axum::Json;
use axum::extract::State;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use utoipa::ToSchema;

/// How long a read and a write may wait in a server that is ready.
const MAX_STORE_WAIT: Duration = Duration::from_secs(1);

/// Checks how long the store takes. Probes that come at the same time share one check.
#[derive(Default)]
pub struct ReadinessProbe {
    running: Mutex<Option<RunningCheck>>,
}

struct RunningCheck {
    task: AbortHandle,
    result: Shared<BoxFuture<'static, Result<()>>>,
}

impl ReadinessProbe {
    /// Errors: `store_unavailable`, also if the store does not answer within a second.
    async fn check(&self, store: &Arc<dyn Store>) -> Result<()> {
        let result = self.join_check(store);
        timeout(MAX_STORE_WAIT, result).await.unwrap_or_else(|_| Err(too_slow_error()))
    }

    /// The running check, or a new one. It runs on if no request waits for it any more, so that
    /// probes of a store that hangs do not add to its load.
    fn join_check(&self, store: &Arc<dyn Store>) -> Shared<BoxFuture<'static, Result<()>>> {
        let mut running = self.running.lock();
        if let Some(check) = running.as_ref().filter(|check| !check.task.is_finished()) {
            return check.result.clone();
        }
        let store = store.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "one at a time, and `running` keeps its handle"
        )]
        let check = tokio::spawn(async move { store.check_ready().await });
        let task = check.abort_handle();
        let result = check.map(|checked| checked.map_err(Error::internal)?).boxed().shared();
        *running = Some(RunningCheck { task, result: result.clone() });
        result
    }
}

fn too_slow_error() -> Error {
    let seconds = MAX_STORE_WAIT.as_secs();
    let sentence = format!("reads or writes have waited for more than {seconds} s");
    Error::new(ErrorKind::StoreUnavailable, sentence)
}

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
/// It can if the database is read and written within a second and the server is not shutting down.
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
    api.readiness.check(&api.store).await?;
    Ok(ok_response("The server is ready", HealthResponse::new(&api)))
}
