//! The OpenAPI document: generated from the handlers, then completed by hand.

use crate::error::ErrorKind;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bytes::Bytes;
use serde_json::json;
use std::sync::LazyLock;
use utoipa::OpenApi;
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{RefOr, Schema};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Echoic",
        description = "A self-hosted backend for LLM chat with conversation memory.",
        license(name = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "chat", description = "Send messages and stream replies"),
        (name = "events", description = "Live changes of sessions, as server-sent events"),
        (name = "sessions", description = "Conversations"),
        (name = "messages", description = "Messages of a session, read marks and search"),
        (name = "projects", description = "Instructions and files shared by several sessions"),
        (name = "memory", description = "The part of a session that the model is shown"),
        (name = "import", description = "Export and import of whole sessions"),
        (name = "models", description = "Available models"),
        (name = "openai", description = "Routes compatible with the OpenAI API, with sessions"),
        (name = "people", description = "The authenticated user, their usage and their data"),
        (name = "admin", description = "Users, sessions and usage of the whole server, for admins"),
        (name = "health", description = "Liveness and readiness probes"),
    )
)]
pub(super) struct ApiDocument;

/// Adds to the generated document what utoipa cannot derive: the list of error codes, and path
/// templates in the syntax of OpenAPI.
pub(super) fn complete_document(
    mut document: utoipa::openapi::OpenApi,
) -> utoipa::openapi::OpenApi {
    let mut schemas = document.components.as_mut().map(|components| &mut components.schemas);
    let failure = schemas.as_mut().and_then(|schemas| schemas.get_mut("ErrorObject"));
    if let Some(RefOr::T(Schema::Object(object))) = failure
        && let Some(RefOr::T(Schema::Object(code))) = object.properties.get_mut("code")
    {
        code.enum_values = Some(ErrorKind::ALL.iter().map(|kind| json!(kind.code())).collect());
    }
    // utoipa makes an untagged enum a `oneOf`. An empty list matches both variants, which `oneOf`
    // forbids, so it becomes an `anyOf`.
    let lists = schemas.and_then(|schemas| schemas.get_mut("Envelope_MessageListResponse"));
    if let Some(RefOr::T(Schema::Object(object))) = lists
        && let Some(data) = object.properties.get_mut("data")
        && let RefOr::T(Schema::OneOf(one)) = data
    {
        let items = std::mem::take(&mut one.items);
        let any = items.into_iter().fold(AnyOfBuilder::new(), |any, item| any.item(item));
        *data = RefOr::T(any.description(one.description.take()).into());
    }
    // OpenAPI has no wildcard segments: axum's `{*path}` becomes `{path}`.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths =
        paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    document
}

/// The document as JSON, built once.
static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec(&super::openapi_document()).unwrap_or_default().into());

pub(super) async fn get_openapi_document() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}
