//! `/health`: for whoever keeps the server running. Public.

use super::Api;
use super::envelope::{Answer, Envelope, Failure, ok};
use super::extract::NoQuery;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// How the server is.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
    version: &'static str,
    /// The name of this instance: `<host>/<address>`.
    instance: String,
}

impl Health {
    fn of(api: &Api) -> Self {
        let instance = api.chat.instance_name().to_owned();
        Self { status: "ok", version: env!("CARGO_PKG_VERSION"), instance }
    }
}

/// Whether the process answers.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = Envelope<Health>)))]
pub(super) async fn live(State(api): State<Api>, _query: NoQuery) -> Json<Envelope<Health>> {
    ok("The server is running", Health::of(&api))
}

/// Whether turns can begin: the store can be read and written, and the server is not going down.
#[utoipa::path(
    get, path = "/health/ready", tag = "health",
    responses((status = 200, body = Envelope<Health>), (status = 503, body = Failure))
)]
pub(super) async fn ready(
    State(api): State<Api>,
    _query: NoQuery,
) -> Answer<Json<Envelope<Health>>> {
    api.chat.ensure_not_draining()?;
    api.store.check_ready().await?;
    Ok(ok("The server is ready", Health::of(&api)))
}
