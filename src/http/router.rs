//! Every route in one list, and what happens around all of them.

use super::openapi::{Document, complete};
use super::{
    Api, admin, branches, chat, events, export, extract, files, gate, guard, health, import,
    memory, messages, models, nodes, openapi, pages, people, projects, render, safety, search,
    sessions, turns, usage, v1,
};
use crate::error::Error;
use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::any::Any;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, CorsLayer};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes that the OpenAPI document describes. Which of them need no credentials stands in
/// `gate.rs`.
fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(chat::chat))
        .routes(routes!(turns::join))
        .routes(routes!(turns::stop))
        .routes(routes!(turns::regenerate))
        .routes(routes!(events::listen))
        .routes(routes!(search::search))
        .routes(routes!(sessions::create, sessions::list, sessions::delete_many))
        .routes(routes!(sessions::get, sessions::change, sessions::delete))
        .routes(routes!(sessions::set_title))
        .routes(routes!(sessions::set_meta))
        .routes(routes!(branches::set_head))
        .routes(routes!(branches::fork))
        .routes(routes!(nodes::seen))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::get))
        .routes(routes!(memory::preview))
        .routes(routes!(messages::list))
        .routes(routes!(messages::get))
        .routes(routes!(messages::post))
        .routes(routes!(projects::create, projects::list))
        .routes(routes!(projects::get, projects::change, projects::delete))
        .routes(routes!(projects::sessions))
        .routes(routes!(files::get, files::put, files::delete))
        .routes(routes!(export::export))
        .routes(routes!(import::import))
        .routes(routes!(render::render))
        .routes(routes!(models::list))
        .routes(routes!(people::me))
        .routes(routes!(people::delete_data))
        .routes(routes!(people::ticket))
        .routes(routes!(usage::usage))
        .routes(routes!(admin::users))
        .routes(routes!(usage::everybodys))
        .routes(routes!(admin::sessions))
        .routes(routes!(v1::completions::create))
        .routes(routes!(v1::models::list))
        .routes(routes!(v1::models::get))
        .routes(routes!(v1::conversations::create))
        .routes(routes!(
            v1::conversations::get,
            v1::conversations::update,
            v1::conversations::delete
        ))
        .routes(routes!(v1::items::items, v1::items::add_items))
        .routes(routes!(v1::items::item, v1::items::delete_item))
        .routes(routes!(v1::responses::create))
        .routes(routes!(v1::responses::get, v1::responses::delete))
        .routes(routes!(v1::responses::cancel))
        .routes(routes!(v1::responses::input_items))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
}

/// The whole service.
pub fn router(api: Api) -> Router {
    let (routes, _) = routes().split_for_parts();
    let cors = cors(&api.cors_origins);
    let router = routes
        .route("/api/openapi.json", get(openapi::document))
        .route("/", get(pages::start))
        .route("/assets/{*path}", get(pages::asset))
        .fallback(extract::not_found)
        .method_not_allowed_fallback(extract::method_not_allowed)
        .layer(from_fn_with_state(api.clone(), gate::guarded))
        .layer(from_fn_with_state(api.clone(), guard::same_site))
        .with_state(api);
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(v1::in_their_words))
        .layer(from_fn(safety::with_safe_headers))
        .layer(from_fn(guard::with_request_id))
}

/// The OpenAPI document.
pub fn openapi_document() -> utoipa::openapi::OpenApi {
    complete(routes().into_openapi())
}

/// Closed unless the operator lists origins.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origins: Vec<HeaderValue> =
        origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let exposed = [
        "x-request-id",
        "etag",
        "retry-after",
        "x-should-retry",
        "x-echoic-session",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
    ]
    .map(HeaderName::from_static);
    Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(exposed)
            .allow_credentials(true)
            .max_age(Duration::from_secs(600)),
    )
}

/// A mistake of ours is told as one, without its details.
fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::internal(format!("a handler panicked: {text}")).into_response()
}
