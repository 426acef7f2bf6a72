//! `…/memory`: the exact prompt that the next turn would send.

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

/// Preview the prompt of the next turn, without calling a model.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/memory", tag = "memory",
    params(
        ("sessionId" = String, Path),
        ("message" = Option<String>, Query, description = "The new message; without it the prompt ends with the path"),
        ("strategy" = Option<String>, Query, description = "auto, buffer, window, token, summary or recall"),
        ("maxTokens" = Option<u32>, Query, description = "Most tokens that memory may take"),
        ("recallTokens" = Option<u32>, Query, description = "The part of them that recalled messages may take"),
        ("lastMessages" = Option<u32>, Query, description = "How many messages window takes, at least 1"),
    ),
    responses((status = 200, body = Envelope<AssembledPrompt>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn preview_memory(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
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
    let session = api.store.get_session(&who, &id, AccessLevel::Owner).await?;
    let assembled = api.memory.preview_prompt(&session, memory, message, clock::now()).await?;
    Ok(ok_response("Memory retrieved successfully", assembled))
}
