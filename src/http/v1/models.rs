//! `/v1/models`: the available models in OpenAI's format.

use crate::chat::ModelInfo;
use crate::error::{Error, ErrorKind};
use crate::http::ApiState;
use crate::http::auth_middleware::CurrentUser;
use crate::http::envelope::ApiResult;
use crate::http::path::PathParams;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A list of models of the OpenAI API.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct OpenAiModelListResponse {
    /// Always `list`.
    object: &'static str,
    data: Vec<OpenAiModel>,
}

/// A model of the OpenAI API.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct OpenAiModel {
    /// Name of the model.
    id: String,
    /// Always `model`.
    object: &'static str,
    /// Always 0: the server does not know the time of creation.
    created: u64,
    /// The provider.
    owned_by: String,
}

impl From<ModelInfo> for OpenAiModel {
    fn from(model: ModelInfo) -> Self {
        Self { id: model.id, object: "model", created: 0, owned_by: model.provider }
    }
}

/// List the available models in OpenAI's format.
#[utoipa::path(
    get, path = "/v1/models", tag = "openai",
    responses((status = 200, body = OpenAiModelListResponse), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn list_openai_models(
    State(api): State<ApiState>,
    CurrentUser(_principal): CurrentUser,
) -> ApiResult<Json<OpenAiModelListResponse>> {
    let models = api.chat.list_models().await?;
    let data = models.into_iter().map(OpenAiModel::from).collect();
    Ok(Json(OpenAiModelListResponse { object: "list", data }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(in crate::http) struct ModelPath {
    /// Name of the model; may contain slashes
    model: String,
}

/// Get a model in OpenAI's format.
#[utoipa::path(
    get, path = "/v1/models/{*model}", tag = "openai",
    params(ModelPath),
    responses((status = 200, body = OpenAiModel), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn get_openai_model(
    State(api): State<ApiState>,
    CurrentUser(_principal): CurrentUser,
    PathParams(ModelPath { model: name }): PathParams<ModelPath>,
) -> ApiResult<Json<OpenAiModel>> {
    let models = api.chat.list_models().await?;
    // A wildcard route, because names such as `meta-llama/llama-3` contain slashes.
    let found = models.into_iter().find(|model| model.id == name);
    let absent = || Error::new(ErrorKind::ModelNotFound, "there is no such model");
    Ok(Json(found.ok_or_else(absent)?.into()))
}
