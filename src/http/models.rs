//! `/api/models`: what can be asked for.

use super::ApiState;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::{CurrentUser, NoQueryParams};
use crate::chat::ModelInfo;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// The models there are.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelListResponse {
    models: Vec<ModelInfo>,
    /// The one that answers unless another is asked for.
    default: String,
}

/// List the provider's models.
#[utoipa::path(
    get, path = "/api/models", tag = "models",
    responses((status = 200, body = Envelope<ModelListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_models(
    State(api): State<ApiState>,
    CurrentUser(_who): CurrentUser,
    _query: NoQueryParams,
) -> ApiResult<Json<Envelope<ModelListResponse>>> {
    let models = api.chat.list_models().await?;
    let default = api.memory.default_model().to_owned();
    Ok(ok_response("Models retrieved successfully", ModelListResponse { models, default }))
}
