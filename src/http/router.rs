//! The list of all routes with their policies, and the middleware around them.

use super::openapi::{ApiDocument, complete_document};
use super::route_policy::{PolicyRouter, RoutePolicy};
use super::serve::refuse_excess_connections;
use super::{
    ApiState, admin, auth_middleware, branches, chat, console, events, export, health, import,
    invitations, me, memory_preview, messages, models, nodes, openapi, origin, project_files,
    projects, query, render, request_id, search, security_headers, sessions, turns, usage, v1,
};
use crate::error::{Error, ErrorKind};
use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, CorsLayer};
use utoipa::OpenApi;
use utoipa_axum::routes;

/// Asks for optional content of items, which items here do not have. OpenAI's libraries write it
/// both ways.
const INCLUDE_PARAMS: &[&str] = &["include", "include[]"];

/// All routes with their policies. Without state, so that the OpenAPI document can be built alone.
fn declare_routes() -> PolicyRouter {
    let router = PolicyRouter::new(ApiDocument::openapi());
    let areas = [
        declare_pages,
        declare_chat,
        declare_sessions,
        declare_projects,
        declare_account,
        declare_admin,
        declare_openai,
    ];
    areas.into_iter().fold(router, |router, declare| declare(router))
}

fn declare_pages(router: PolicyRouter) -> PolicyRouter {
    router
        .declare_page(RoutePolicy::PUBLIC, "/", get(console::serve_index))
        .declare_page(RoutePolicy::PUBLIC, "/assets/{*path}", get(console::serve_asset))
        .declare_page(RoutePolicy::PUBLIC, "/api/openapi.json", get(openapi::get_openapi_document))
        .declare(
            RoutePolicy::PROBE,
            [routes!(health::check_liveness), routes!(health::check_readiness)],
        )
}

fn declare_chat(router: PolicyRouter) -> PolicyRouter {
    router
        .declare(RoutePolicy::TURN.audited_by_handler(), [routes!(chat::send_message)])
        .declare(RoutePolicy::TURN, [routes!(turns::regenerate_reply)])
        .declare(RoutePolicy::CANCEL, [routes!(turns::stop_reply)])
        .declare(
            RoutePolicy::USER.accepting_tickets(),
            [routes!(turns::resume_reply), routes!(events::stream_events)],
        )
        .declare(RoutePolicy::USER.audited_by_handler(), [routes!(messages::create_message)])
        .declare(RoutePolicy::READ_ONLY, [routes!(render::render_markdown)])
        .declare(
            RoutePolicy::USER,
            [routes!(search::search_messages), routes!(models::list_models)],
        )
}

fn declare_sessions(router: PolicyRouter) -> PolicyRouter {
    router.declare(
        RoutePolicy::USER,
        [
            routes!(sessions::create_session, sessions::list_sessions, sessions::delete_sessions),
            routes!(sessions::get_session, sessions::update_session, sessions::delete_session),
            routes!(sessions::set_session_title),
            routes!(sessions::set_session_meta),
            routes!(invitations::accept_invitation),
            routes!(invitations::leave_session),
            routes!(branches::set_session_head),
            routes!(branches::fork_session),
            routes!(nodes::mark_messages_seen),
            routes!(nodes::list_nodes),
            routes!(nodes::get_node),
            routes!(memory_preview::preview_memory),
            routes!(messages::list_messages),
            routes!(messages::get_message),
            routes!(messages::list_siblings),
            routes!(export::export_sessions),
            routes!(import::import_sessions),
        ],
    )
}

fn declare_projects(router: PolicyRouter) -> PolicyRouter {
    router.declare(
        RoutePolicy::USER,
        [
            routes!(projects::create_project, projects::list_projects),
            routes!(projects::get_project, projects::update_project, projects::delete_project),
            routes!(projects::list_project_sessions),
            routes!(
                project_files::get_project_file,
                project_files::put_project_file,
                project_files::delete_project_file
            ),
        ],
    )
}

fn declare_account(router: PolicyRouter) -> PolicyRouter {
    router
        .declare(
            RoutePolicy::USER,
            [
                routes!(me::get_current_user),
                routes!(me::delete_user_data),
                routes!(usage::get_usage),
            ],
        )
        .declare(RoutePolicy::READ_ONLY, [routes!(me::create_ticket)])
}

fn declare_admin(router: PolicyRouter) -> PolicyRouter {
    router.declare(
        RoutePolicy::ADMIN,
        [
            routes!(admin::list_users),
            routes!(admin::list_all_sessions),
            routes!(usage::get_all_usage),
        ],
    )
}

fn declare_openai(router: PolicyRouter) -> PolicyRouter {
    let router = router
        .declare(
            RoutePolicy::TURN.audited_by_handler(),
            [
                routes!(v1::chat_completions::create_chat_completion),
                routes!(v1::responses::create_response::create_response),
            ],
        )
        .declare(RoutePolicy::CANCEL, [routes!(v1::responses::cancel_response)])
        .declare(
            RoutePolicy::USER.ignoring_params(&["include", "include[]", "include_obfuscation"]),
            [routes!(v1::responses::get_response)],
        )
        .declare(
            RoutePolicy::USER.ignoring_params(INCLUDE_PARAMS),
            [routes!(v1::responses::list_response_input_items)],
        )
        .declare(
            RoutePolicy::USER,
            [
                routes!(v1::responses::delete_response),
                routes!(v1::models::list_openai_models),
                routes!(v1::models::get_openai_model),
            ],
        );
    declare_conversations(router)
}

fn declare_conversations(router: PolicyRouter) -> PolicyRouter {
    router
        .declare(
            RoutePolicy::USER,
            [
                routes!(v1::conversations::create_conversation),
                routes!(
                    v1::conversations::get_conversation,
                    v1::conversations::update_conversation,
                    v1::conversations::delete_conversation
                ),
                routes!(v1::conversation_items::delete_conversation_item),
            ],
        )
        .declare(
            RoutePolicy::USER.ignoring_params(INCLUDE_PARAMS),
            [
                routes!(
                    v1::conversation_items::list_conversation_items,
                    v1::conversation_items::create_conversation_items
                ),
                routes!(v1::conversation_items::get_conversation_item),
            ],
        )
}

/// Builds the service with all routes and middleware.
pub fn build_router(api: ApiState) -> Router {
    let (routes, policies) = declare_routes().into_parts();
    let policies = Arc::new(policies);
    let cors = build_cors_layer(&api.cors_origins);
    let router = Router::from(routes)
        .fallback(route_not_found)
        .method_not_allowed_fallback(method_not_allowed)
        // The last layer runs first: hosts are checked before credentials, and those before the
        // query.
        .layer(from_fn(query::refuse_unexpected_query))
        .layer(from_fn_with_state((api.clone(), policies.clone()), auth_middleware::authenticate))
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
        .layer(from_fn_with_state(policies, refuse_excess_connections))
        .layer(CatchPanicLayer::custom(handle_panic))
        .layer(from_fn(v1::encode_openai_errors))
        .layer(from_fn(security_headers::add_security_headers))
        .layer(from_fn(request_id::assign_request_id))
}

pub fn openapi_document() -> utoipa::openapi::OpenApi {
    complete_document(declare_routes().into_parts().0.into_openapi())
}

/// Every route as `METHOD path`, with its policy in words: `User ByMethod`, `Admin ByMethod`.
pub fn route_policies() -> Vec<(String, String)> {
    let (_, policies) = declare_routes().into_parts();
    policies.iter().map(|(route, policy)| (route, policy.to_string())).collect()
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

async fn route_not_found() -> Error {
    Error::new(
        ErrorKind::RouteNotFound,
        "there is no such route; GET /api/openapi.json lists them all",
    )
}

async fn method_not_allowed() -> Error {
    Error::new(
        ErrorKind::MethodNotAllowed,
        "this route does not take that method; the Allow header names those it takes",
    )
}

/// A panic in a handler: 500 `internal`, with the panic message in the log only.
fn handle_panic(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
    Error::internal(format!("a handler panicked: {text}")).into_response()
}
