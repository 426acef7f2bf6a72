//! `/api/chat-sessions/:id/memory`: the exact prompt that the next turn would send.

use super::ApiState;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::{CurrentUser, SessionPath};
use super::query::QueryParams;
use crate::clock;
use crate::domain::MessageType;
use crate::domain::content::MessageBody;
use crate::domain::memory::{MemoryOptions, STRATEGY_NAMES};
use crate::domain::message::MessageParts;
use crate::domain::principal::AccessLevel;
use crate::memory::AssembledPrompt;
use axum::Json;
use axum::extract::State;

/// Preview the prompt of the next turn.
///
/// Shows each section exactly as it would be sent, with its token count. No model is called.
/// Requires the session's owner.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/memory", tag = "memory",
    params(
        ("sessionId" = String, Path),
        ("message" = Option<String>, Query, description = "Text of the next message; without it the prompt ends with the active path"),
        ("strategy" = Option<String>, Query, description = "auto, buffer, window, token, summary or recall"),
        ("maxTokens" = Option<u32>, Query, description = "Maximum tokens of memory: summary, recent and recalled messages together"),
        ("recallTokens" = Option<u32>, Query, description = "Maximum tokens of recalled messages, within maxTokens"),
        ("lastMessages" = Option<u32>, Query, description = "Number of messages that the strategy window includes, at least 1"),
    ),
    responses((status = 200, body = Envelope<AssembledPrompt>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn preview_memory(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    SessionPath(id): SessionPath,
    mut query: QueryParams,
) -> ApiResult<Json<Envelope<AssembledPrompt>>> {
    let message = query.take_text("message");
    let memory = MemoryOptions {
        strategy: query.take_choice("strategy", &STRATEGY_NAMES),
        max_tokens: query.take_number("maxTokens", 0..=u32::MAX),
        last_messages: query.take_number("lastMessages", 1..=u32::MAX),
        recall_tokens: query.take_number("recallTokens", 0..=u32::MAX),
    };
    query.finish()?;
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
    Ok(ok_response("Memory retrieved successfully", assembled))
}
