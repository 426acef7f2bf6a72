//! `/api/models`: what can be asked for.

use super::Api;
use super::envelope::{Answer, Envelope, Failure, ok};
use super::extract::{Caller, NoQuery};
use crate::chat::ModelInfo;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// The models there are.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelList {
    models: Vec<ModelInfo>,
    /// The one that answers unless another is asked for.
    default: String,
}

/// List the provider's models.
#[utoipa::path(
    get, path = "/api/models", tag = "models",
    responses((status = 200, body = Envelope<ModelList>), (status = "default", body = Failure))
)]
pub(super) async fn list(
    State(api): State<Api>,
    Caller(_who): Caller,
    _query: NoQuery,
) -> Answer<Json<Envelope<ModelList>>> {
    let models = api.chat.list_models().await?;
    let default = api.memory.default_model().to_owned();
    Ok(ok("Models retrieved successfully", ModelList { models, default }))
}
