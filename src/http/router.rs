//! The list of all routes, and the middleware around them.

use super::openapi::{ApiDocument, complete_document};
use super::{
    ApiState, admin, auth_middleware, branches, chat, console, events, export, extract, health,
    import, me, memory_preview, messages, models, nodes, openapi, origin, project_files, projects,
    render, request_id, search, security_headers, sessions, turns, usage, v1,
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

/// The routes in the OpenAPI document. `auth_middleware.rs` lists those that need no credentials.
fn build_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(ApiDocument::openapi())
        .routes(routes!(chat::send_message))
        .routes(routes!(turns::resume_reply))
        .routes(routes!(turns::stop_reply))
        .routes(routes!(turns::regenerate_reply))
        .routes(routes!(events::stream_events))
        .routes(routes!(search::search_messages))
        .routes(routes!(
            sessions::create_session,
            sessions::list_sessions,
            sessions::delete_sessions
        ))
        .routes(routes!(sessions::get_session, sessions::update_session, sessions::delete_session))
        .routes(routes!(sessions::set_session_title))
        .routes(routes!(sessions::set_session_meta))
        .routes(routes!(branches::set_session_head))
        .routes(routes!(branches::fork_session))
        .routes(routes!(nodes::mark_messages_seen))
        .routes(routes!(nodes::list_nodes))
        .routes(routes!(nodes::get_node))
        .routes(routes!(memory_preview::preview_memory))
        .routes(routes!(messages::list_messages))
        .routes(routes!(messages::get_message))
        .routes(routes!(messages::create_message))
        .routes(routes!(projects::create_project, projects::list_projects))
        .routes(routes!(projects::get_project, projects::update_project, projects::delete_project))
        .routes(routes!(projects::list_project_sessions))
        .routes(routes!(
            project_files::get_project_file,
            project_files::put_project_file,
            project_files::delete_project_file
        ))
        .routes(routes!(export::export_sessions))
        .routes(routes!(import::import_sessions))
        .routes(routes!(render::render_markdown))
        .routes(routes!(models::list_models))
        .routes(routes!(me::get_current_user))
        .routes(routes!(me::delete_user_data))
        .routes(routes!(me::create_ticket))
        .routes(routes!(usage::get_usage))
        .routes(routes!(admin::list_users))
        .routes(routes!(usage::get_all_usage))
        .routes(routes!(admin::list_all_sessions))
        .routes(routes!(v1::chat_completions::create_chat_completion))
        .routes(routes!(v1::models::list_openai_models))
        .routes(routes!(v1::models::get_openai_model))
        .routes(routes!(v1::conversations::create_conversation))
        .routes(routes!(
            v1::conversations::get_conversation,
            v1::conversations::update_conversation,
            v1::conversations::delete_conversation
        ))
        .routes(routes!(
            v1::conversation_items::list_conversation_items,
            v1::conversation_items::create_conversation_items
        ))
        .routes(routes!(
            v1::conversation_items::get_conversation_item,
            v1::conversation_items::delete_conversation_item
        ))
        .routes(routes!(v1::responses::create_response))
        .routes(routes!(v1::responses::get_response, v1::responses::delete_response))
        .routes(routes!(v1::responses::cancel_response))
        .routes(routes!(v1::responses::list_response_input_items))
        .routes(routes!(health::check_liveness))
        .routes(routes!(health::check_readiness))
}

/// Builds the service with all routes and middleware.
pub fn build_router(api: ApiState) -> Router {
    let (routes, _) = build_routes().split_for_parts();
    let cors = build_cors_layer(&api.cors_origins);
    let router = routes
        .route("/api/openapi.json", get(openapi::get_openapi_document))
        .route("/", get(console::serve_index))
        .route("/assets/{*path}", get(console::serve_asset))
        .fallback(extract::route_not_found)
        .method_not_allowed_fallback(extract::method_not_allowed)
        // The last layer runs first: hosts are checked before credentials are.
        .layer(from_fn_with_state(api.clone(), auth_middleware::authenticate))
        .layer(from_fn_with_state(api.clone(), origin::check_origin))
        .with_state(api);
    // The CORS layer is outside of authentication, because preflight requests carry no credentials.
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    // Outermost last: a panic becomes an error, errors of `/v1` get OpenAI's format, and every
    // response gets its headers, its ID and its line in the log.
    router
        .layer(CatchPanicLayer::custom(handle_panic))
        .layer(from_fn(v1::encode_openai_errors))
        .layer(from_fn(security_headers::add_security_headers))
        .layer(from_fn(request_id::assign_request_id))
}

pub fn openapi_document() -> utoipa::openapi::OpenApi {
    complete_document(build_routes().into_openapi())
}

/// `None` unless the operator allows origins: browsers then refuse cross-origin reads.
fn build_cors_layer(origins: &[String]) -> Option<CorsLayer> {
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

/// A panic in a handler: 500 `internal`, with the panic message in the log only.
fn handle_panic(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::internal(format!("a handler panicked: {text}")).into_response()
}
