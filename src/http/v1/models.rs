//! `/v1/models`: the provider's models as OpenAI lists them.

use crate::chat::ModelInfo;
use crate::error::{Error, ErrorKind};
use crate::http::ApiState;
use crate::http::envelope::ApiResult;
use crate::http::extract::{CurrentUser, NoQueryParams};
use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

/// The models there are.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct OpenAiModelListResponse {
    object: &'static str,
    data: Vec<OpenAiModel>,
}

/// One model.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct OpenAiModel {
    id: String,
    object: &'static str,
    /// Unknown: providers are not asked.
    created: u64,
    owned_by: String,
}

impl From<ModelInfo> for OpenAiModel {
    fn from(model: ModelInfo) -> Self {
        Self { id: model.id, object: "model", created: 0, owned_by: model.provider }
    }
}

/// List the provider's models, in OpenAI's shape.
#[utoipa::path(
    get, path = "/v1/models", tag = "openai",
    responses((status = 200, body = OpenAiModelListResponse), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn list_openai_models(
    State(api): State<ApiState>,
    CurrentUser(_who): CurrentUser,
    _query: NoQueryParams,
) -> ApiResult<Json<OpenAiModelListResponse>> {
    let models = api.chat.list_models().await?;
    let data = models.into_iter().map(OpenAiModel::from).collect();
    Ok(Json(OpenAiModelListResponse { object: "list", data }))
}

/// Get one model, in OpenAI's shape.
#[utoipa::path(
    get, path = "/v1/models/{*model}", tag = "openai",
    params(("model" = String, Path, description = "Its name; may hold slashes")),
    responses((status = 200, body = OpenAiModel), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn get_openai_model(
    State(api): State<ApiState>,
    CurrentUser(_who): CurrentUser,
    _query: NoQueryParams,
    Path(name): Path<String>,
) -> ApiResult<Json<OpenAiModel>> {
    let models = api.chat.list_models().await?;
    let found = models.into_iter().find(|model| model.id == name);
    let absent = || Error::new(ErrorKind::ModelNotFound, "there is no such model");
    Ok(Json(found.ok_or_else(absent)?.into()))
}
