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
mod errors;
mod item_mapping;
mod message_content;
pub(super) mod models;
pub(super) mod responses;

pub(super) use errors::encode_openai_errors;

/// Names the session, in requests and responses.
const SESSION_HEADER: &str = "x-echoic-session";
