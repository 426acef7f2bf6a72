//! The HTTP surface: routes, what they read and how they answer.
//!
//! Handlers are thin: they read the request, call the core once, and render. axum stays in this
//! folder. One file per resource; every route stands in `router.rs`.

mod admin;
mod auth_middleware;
mod body;
mod branches;
mod chat;
mod connection;
mod console;
mod envelope;
mod events;
mod export;
mod extract;
mod health;
mod import;
mod me;
mod memory_preview;
mod messages;
mod models;
mod nodes;
mod openapi;
mod origin;
mod project_files;
mod projects;
mod query;
mod rate_limit;
mod render;
mod request_id;
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

pub use auth_middleware::public_routes;
pub use connection::TimeoutListener;
pub use origin::AllowedHosts;
pub use rate_limit::RequestRateLimiter;
pub use router::{build_router, openapi_document};
pub use serve::{ReadTimeouts, serve};

use crate::auth::Authenticator;
use crate::chat::ChatService;
use crate::memory::Memory;
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;

/// What handlers work with.
#[derive(Clone)]
pub struct ApiState {
    /// Turns.
    pub chat: Arc<ChatService>,
    /// Sessions and messages.
    pub store: Arc<dyn Store>,
    /// Prompts, for their preview.
    pub memory: Arc<Memory>,
    /// Who is asking.
    pub auth: Arc<Authenticator>,
    /// How often somebody may ask.
    pub rate_limiter: Arc<RequestRateLimiter>,
    /// What is too large.
    pub size_limits: SizeLimits,
    /// The names the server answers to.
    pub allowed_hosts: Arc<AllowedHosts>,
    /// The origins whose pages may use the server.
    pub cors_origins: Arc<[String]>,
    /// How long a stream may be silent before a comment keeps it warm.
    pub heartbeat: Duration,
}

/// What is too large, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct SizeLimits {
    /// A request's body.
    pub body: usize,
    /// A message's text.
    pub message: usize,
}
