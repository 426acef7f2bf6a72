//! The HTTP surface: routes, what they read and how they answer.
//!
//! Handlers are thin: they read the request, call the core once, and render. axum stays in this
//! folder. One file per resource; every route stands in `router.rs`.

mod admin;
mod body;
mod branches;
mod chat;
mod connection;
mod envelope;
mod events;
mod export;
mod extract;
mod files;
mod gate;
mod guard;
mod health;
mod import;
mod limits;
mod memory;
mod messages;
mod models;
mod nodes;
mod openapi;
mod pages;
mod people;
mod projects;
mod query;
mod render;
mod router;
mod safety;
mod search;
mod serve;
mod sessions;
mod sse;
mod turns;
mod ui;
mod usage;
mod v1;

pub use connection::Patient;
pub use gate::public_routes;
pub use guard::Hosts;
pub use limits::Rates;
pub use router::{openapi_document, router};
pub use serve::{Patience, serve};

use crate::auth::Auth;
use crate::chat::ChatService;
use crate::memory::Memory;
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;

/// What handlers work with.
#[derive(Clone)]
pub struct Api {
    /// Turns.
    pub chat: Arc<ChatService>,
    /// Sessions and messages.
    pub store: Arc<dyn Store>,
    /// Prompts, for their preview.
    pub memory: Arc<Memory>,
    /// Who is asking.
    pub auth: Arc<Auth>,
    /// How often somebody may ask.
    pub rates: Arc<Rates>,
    /// What is too large.
    pub limits: Limits,
    /// The names the server answers to.
    pub hosts: Arc<Hosts>,
    /// The origins whose pages may use the server.
    pub cors_origins: Arc<[String]>,
    /// How long a stream may be silent before a comment keeps it warm.
    pub heartbeat: Duration,
}

/// What is too large, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A request's body.
    pub body: usize,
    /// A message's text.
    pub message: usize,
}
