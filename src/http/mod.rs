//! The HTTP surface: routes, extractors, middleware and the response envelope.
//!
//! Handlers are thin: they read the request, call the core once and render the result. axum is used
//! in this folder only. There is one file per resource; `router.rs` lists every route.

mod admin;
mod auth_middleware;
mod body;
mod body_budget;
mod branches;
mod chat;
mod connection;
mod connection_registry;
mod console;
mod envelope;
mod etag;
mod events;
mod export;
mod health;
mod idempotency;
mod import;
mod import_body;
mod import_queue;
mod invitations;
mod me;
mod memory_preview;
mod messages;
mod metrics_page;
mod models;
mod nodes;
mod open_requests;
mod openapi;
mod origin;
mod param;
mod path;
mod project_files;
mod projects;
mod query;
mod rate_limit;
mod render;
mod request_body;
mod request_id;
mod route_policy;
mod router;
mod search;
mod security_headers;
mod serve;
mod sessions;
mod sse;
mod turns;
mod ui_message;
mod usage;
mod v1;

pub use body::MAX_CHAT_BODY;
pub use body_budget::BodyBudget;
pub use connection::TimeoutListener;
pub use connection_registry::ConnectionLimits;
pub use health::ReadinessProbe;
pub use import_queue::ImportQueue;
pub use metrics_page::serve_metrics;
pub use origin::AllowedHosts;
pub use rate_limit::RequestRateLimiter;
pub use router::{build_router, openapi_document, route_policies};
pub use serve::{ConnectionPolicy, ReadTimeouts, serve};

use crate::auth::Authenticator;
use crate::chat::ChatService;
use crate::memory::Memory;
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;

/// State shared by all handlers and middleware. Cloning it is cheap.
#[derive(Clone)]
pub struct ApiState {
    pub chat: Arc<ChatService>,
    pub store: Arc<dyn Store>,
    /// Used for prompt previews and the default model.
    pub memory: Arc<Memory>,
    pub auth: Arc<Authenticator>,
    pub rate_limiter: Arc<RequestRateLimiter>,
    pub body_budget: Arc<BodyBudget>,
    pub readiness: Arc<ReadinessProbe>,
    pub imports: Arc<ImportQueue>,
    pub size_limits: SizeLimits,
    /// Whether new participants are invited and get in when they accept.
    pub needs_consent: bool,
    /// Values of `Host` that are accepted in addition to loopback names.
    pub allowed_hosts: Arc<AllowedHosts>,
    /// Origins whose pages may call the API from a browser.
    pub cors_origins: Arc<[String]>,
    /// A stream that has been silent this long gets an SSE comment, so that proxies keep it open.
    pub heartbeat: Duration,
}

/// Upper bounds in bytes. Chat bodies have a larger limit of their own (`body.rs`).
#[derive(Debug, Clone, Copy)]
pub struct SizeLimits {
    pub body: usize,
    /// Text of one message, with the texts attached to it.
    pub message: usize,
}
