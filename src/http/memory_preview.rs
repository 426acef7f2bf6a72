//! `/api/chat-sessions/:id/memory`: the exact prompt that the next turn would send.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::envelope::{ApiResult, Envelope, ErrorResponse, encode_response, ok_response};
use super::param::parse_number;
use super::path::{PathParams, SessionPath};
use super::query::{QueryParams, RouteQuery};
use crate::clock;
use crate::domain::MessageType;
use crate::domain::content::MessageBody;
use crate::domain::memory::{MemoryOptions, MemoryStrategy};
use crate::domain::message::MessageParts;
use crate::domain::principal::AccessLevel;
use crate::memory::AssembledPrompt;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

/// The next message, and memory options in place of the session's.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct PreviewMemoryQuery {
    /// Text of the next message; without it the prompt ends with the active path
    message: Option<String>,
    /// auto, buffer, window, token, summary or recall
    #[param(value_type = Option<String>)]
    strategy: Option<MemoryStrategy>,
    /// Maximum tokens of memory: summary, recent and recalled messages together
    #[serde(deserialize_with = "parse_number::<_, 0, { u32::MAX }>")]
    max_tokens: Option<u32>,
    /// Maximum tokens of recalled messages, within maxTokens
    #[serde(deserialize_with = "parse_number::<_, 0, { u32::MAX }>")]
    recall_tokens: Option<u32>,
    /// Number of messages that the strategy window includes, at least 1
    #[serde(deserialize_with = "parse_number::<_, 1, { u32::MAX }>")]
    last_messages: Option<u32>,
}

impl RouteQuery for PreviewMemoryQuery {}

/// Preview the prompt of the next turn.
///
/// Shows each section exactly as it would be sent, with its token count. No model is called.
/// Requires the session's owner.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/memory", tag = "memory",
    params(SessionPath, PreviewMemoryQuery),
    responses((status = 200, body = Envelope<AssembledPrompt>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn preview_memory(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: id }): PathParams<SessionPath>,
    QueryParams(query): QueryParams<PreviewMemoryQuery>,
) -> ApiResult<Response> {
    let PreviewMemoryQuery { message, strategy, max_tokens, recall_tokens, last_messages } = query;
    let memory = MemoryOptions { strategy, max_tokens, last_messages, recall_tokens };
    // Validated like a real message, so that the preview refuses what a turn would refuse.
    let read = |text| {
        MessageBody::parse(
            "message",
            text,
            MessageParts::default(),
            MessageType::Text,
            api.size_limits.message,
        )
    };
    let message = message.map(read).transpose()?.map(|body| body.content);
    // The prompt contains the system prompt and the project, which participants may not see.
    let session = api.store.get_session(&principal, &id, AccessLevel::Owner).await?;
    let assembled = api.memory.preview_prompt(&session, memory, message, clock::now()).await?;
    let size = assembled.pieces.iter().map(|piece| piece.text.len()).sum();
    let respond = move || ok_response("Memory retrieved successfully", assembled);
    encode_response(&api, &principal.user, size, respond).await
}
