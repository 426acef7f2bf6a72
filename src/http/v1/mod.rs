//! `/v1`: routes compatible with the OpenAI API. Its SDKs get sessions by changing the base URL.
//!
//! A request with a session is an ordinary turn: it is stored, uses memory, and its stream can be
//! resumed at `/api/chat/:sessionId/stream`. A chat completion without a session is forwarded to
//! the provider. A response without a conversation gets its own session unless `store` is false.

mod chat_completion_request;
mod chat_completion_response;
pub(super) mod chat_completions;
pub(super) mod conversation_items;
pub(super) mod conversations;
mod encrypted_reasoning;
mod errors;
mod ids;
mod item_mapping;
mod message_content;
pub(super) mod models;
mod new_items;
pub(super) mod responses;

pub(super) use errors::encode_openai_errors;

use crate::domain::SessionId;
use axum::http::HeaderValue;
use axum::response::Response;

/// Names the session, in requests and responses.
const SESSION_HEADER: &str = "x-echoic-session";

/// Adds the header that names the session of a turn. Once the turn has begun, error responses have
/// it as well.
fn insert_session_header(response: &mut Response, session: Option<&SessionId>) {
    let session = session.and_then(|id| HeaderValue::from_str(id.as_str()).ok());
    if let Some(session) = session {
        response.headers_mut().insert(SESSION_HEADER, session);
    }
}
