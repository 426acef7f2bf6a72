//! `/api/models`: the models of the configured provider.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use crate::chat::ModelInfo;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// The available models.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelListResponse {
    models: Vec<ModelInfo>,
    /// The model used when a request and its session name none.
    default: String,
}

/// List the available models.
#[utoipa::path(
    get, path = "/api/models", tag = "models",
    responses((status = 200, body = Envelope<ModelListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_models(
    State(api): State<ApiState>,
    CurrentUser(_principal): CurrentUser,
) -> ApiResult<Json<Envelope<ModelListResponse>>> {
    let models = api.chat.list_models().await?;
    let default = api.memory.default_model().to_owned();
    Ok(ok_response("Models retrieved successfully", ModelListResponse { models, default }))
}
