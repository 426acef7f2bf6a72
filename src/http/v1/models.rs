//! `/v1/models`: the provider's models as OpenAI lists them.

use crate::chat::ModelInfo;
use crate::error::{Error, Kind};
use crate::http::Api;
use crate::http::envelope::Answer;
use crate::http::extract::{Caller, NoQuery};
use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

/// The models there are.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct OpenAiModels {
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
    responses((status = 200, body = OpenAiModels), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn list(
    State(api): State<Api>,
    Caller(_who): Caller,
    _query: NoQuery,
) -> Answer<Json<OpenAiModels>> {
    let models = api.chat.list_models().await?;
    let data = models.into_iter().map(OpenAiModel::from).collect();
    Ok(Json(OpenAiModels { object: "list", data }))
}

/// Get one model, in OpenAI's shape.
#[utoipa::path(
    get, path = "/v1/models/{*model}", tag = "openai",
    params(("model" = String, Path, description = "Its name; may hold slashes")),
    responses((status = 200, body = OpenAiModel), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn get(
    State(api): State<Api>,
    Caller(_who): Caller,
    _query: NoQuery,
    Path(name): Path<String>,
) -> Answer<Json<OpenAiModel>> {
    let models = api.chat.list_models().await?;
    let found = models.into_iter().find(|model| model.id == name);
    let absent = || Error::new(Kind::ModelNotFound, "there is no such model");
    Ok(Json(found.ok_or_else(absent)?.into()))
}
