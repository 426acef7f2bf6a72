//! `/v1`: OpenAI's own routes in OpenAI's own shapes, so that its SDKs gain sessions by another base
//! URL.
//!
//! Without a session a request is handed on to the provider; with one it is a turn like any other,
//! stored, remembered and to be joined at `/api/chat/:sessionId/stream`.

mod completion;
pub(super) mod completions;
mod content;
pub(super) mod conversations;
mod errors;
mod item;
pub(super) mod items;
pub(super) mod models;
mod request;

pub(super) use errors::in_their_words;

/// The header that names a session.
const SESSION: &str = "x-echoic-session";
