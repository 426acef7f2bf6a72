//! Path parameters: a struct per kind of path, whose fields are the names in the route's template.

use super::param::parse_param;
use crate::domain::{FilePath, MessageId, ProjectId, SessionId};
use crate::error::{Error, Result};
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

/// Extracts the path parameters as `T`. Errors: `invalid_request`, with the name of the parameter.
pub(super) struct PathParams<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let error = match Path::from_request_parts(parts, state).await {
            Ok(Path(params)) => return Ok(Self(params)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => error,
            Err(rejection) => return Err(Error::internal(rejection)),
        };
        Err(match error.into_kind() {
            ErrorKind::InvalidUtf8InPathParam { key } => {
                Error::invalid_field(field_name(key), "must be UTF-8")
            }
            ErrorKind::DeserializeError { key, message, .. } => {
                Error::invalid_field(field_name(key), message)
            }
            // The struct does not fit the route's template.
            kind => Error::internal(kind.to_string()),
        })
    }
}

/// The name of a parameter in an error. OpenAI's documentation calls these three `…_id`.
fn field_name(key: String) -> String {
    match key.as_str() {
        "conversation" | "response" | "item" => key + "_id",
        _ => key,
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(super) struct SessionPath {
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) session_id: SessionId,
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(super) struct MessagePath {
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) session_id: SessionId,
    /// The message's ID, or its clientMessageId
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) message_id: MessageId,
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(super) struct NodePath {
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) session_id: SessionId,
    // An unknown or malformed name is a 404 of the handler, not an invalid request.
    /// `chat_<sessionId>_<number>`
    pub(super) chat_id: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(super) struct ProjectPath {
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) project_id: ProjectId,
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Path)]
pub(super) struct ProjectFilePath {
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) project_id: ProjectId,
    /// Path of the file: relative, without .., at most 512 bytes; may contain slashes
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = String)]
    pub(super) path: FilePath,
}
