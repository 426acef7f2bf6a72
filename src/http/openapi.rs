//! The OpenAPI document: generated from the handlers, completed with what they cannot say.

use crate::error::ErrorKind;
use axum::Json;
use serde_json::json;
use utoipa::OpenApi;
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{RefOr, Schema};

/// What stands above the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Echoic",
        description = "A self-hosted backend for LLM chat with conversation memory.",
        license(name = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "chat", description = "Turns: a message in, the streamed reply out"),
        (name = "events", description = "What happens to conversations, as it happens"),
        (name = "sessions", description = "Conversations"),
        (name = "messages", description = "What was said in them"),
        (name = "projects", description = "What sessions have in common: instructions and files"),
        (name = "memory", description = "What of it the model is shown"),
        (name = "import", description = "Whole conversations, in and out"),
        (name = "models", description = "Who answers"),
        (name = "openai", description = "OpenAI's own routes, with sessions"),
        (name = "people", description = "Who is asking, and what is theirs"),
        (name = "admin", description = "Who uses the server, for admins"),
        (name = "health", description = "For whoever keeps the server running"),
    )
)]
pub(super) struct ApiDocument;

/// Lists the codes of errors, which are stable, in the schema of a failure, and spells paths as
/// OpenAPI does.
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
    // An empty list is one of either kind.
    let lists = schemas.and_then(|schemas| schemas.get_mut("Envelope_MessageListResponse"));
    if let Some(RefOr::T(Schema::Object(object))) = lists
        && let Some(data) = object.properties.get_mut("data")
        && let RefOr::T(Schema::OneOf(one)) = data
    {
        let items = std::mem::take(&mut one.items);
        let any = items.into_iter().fold(AnyOfBuilder::new(), |any, item| any.item(item));
        *data = RefOr::T(any.description(one.description.take()).into());
    }
    // A path that takes the rest of an address, as the router spells it: `{*path}`.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths =
        paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    document
}

/// This document.
pub(super) async fn get_openapi_document() -> Json<utoipa::openapi::OpenApi> {
    Json(super::openapi_document())
}
