//! `/v1`: OpenAI's own routes in OpenAI's own shapes, so that its SDKs gain sessions by another base
//! URL.
//!
//! With a session a request is a turn like any other, stored, remembered and to be joined at
//! `/api/chat/:sessionId/stream`. A chat completion without one is handed on to the provider; a
//! response has a session of its own, unless it is not to be stored.

mod chat_completion_request;
mod chat_completion_response;
pub(super) mod chat_completions;
pub(super) mod conversation_items;
pub(super) mod conversations;
mod errors;
mod item_mapping;
mod message_content;
pub(super) mod models;
pub(super) mod responses;

pub(super) use errors::encode_openai_errors;

/// The header that names a session.
const SESSION_HEADER: &str = "x-echoic-session";
