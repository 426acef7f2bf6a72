//! `…/nodes` and `…/seen`: a session as people-to-people chats read it, and how far they have read.

use super::ApiState;
use super::body::JsonBody;
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::{CurrentUser, NoQueryParams, NodePath, SessionPath};
use super::query::QueryParams;
use crate::domain::node::{ChatNode, format_chat_id, parse_chat_id};
use crate::domain::page::MAX_PAGE_SIZE;
use crate::domain::{FieldError, MessageId, SessionId, UserId};
use crate::error::{Error, ErrorKind};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The nodes of a session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeListResponse {
    /// By number: `_1`, `_2`, …
    nodes: Vec<ChatNode>,
    /// Where the list goes on: the name of the next node; `null` at its end.
    next_cursor: Option<String>,
}

/// Read a session's nodes with their messages, all branches. Nodes hold at most 10,000 messages or
/// 128 KiB each; a long list is given in pieces.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/nodes", tag = "messages",
    params(
        ("sessionId" = String, Path),
        ("limit" = Option<u32>, Query, description = "From 1 to 100, 100 by default"),
        ("cursor" = Option<String>, Query, description = "A nextCursor"),
    ),
    responses((status = 200, body = Envelope<NodeListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_nodes(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    SessionPath(session): SessionPath,
    mut query: QueryParams,
) -> ApiResult<Json<Envelope<NodeListResponse>>> {
    let limit = query.take_number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(MAX_PAGE_SIZE);
    let wants = || FieldError::new("cursor", "must be a nextCursor of the same list");
    let first = query.take_parsed("cursor", |name| parse_chat_id(&session, name).ok_or_else(wants));
    query.finish()?;
    let page = api.store.list_nodes(&who, &session, first.unwrap_or(1), limit).await?;
    let next_cursor = page.next_node.map(|number| format_chat_id(&session, number));
    Ok(ok_response(
        "Nodes retrieved successfully",
        NodeListResponse { nodes: page.nodes, next_cursor },
    ))
}

/// Read one node.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/nodes/{chatId}", tag = "messages",
    params(("sessionId" = String, Path), ("chatId" = String, Path, description = "`chat_<sessionId>_<number>`")),
    responses((status = 200, body = Envelope<ChatNode>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_node(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    NodePath(session, name): NodePath,
    _query: NoQueryParams,
) -> ApiResult<Json<Envelope<ChatNode>>> {
    // Number 0 is no node's: whoever may not see the session learns nothing of its nodes.
    let number = parse_chat_id(&session, &name).unwrap_or(0);
    let page = api.store.list_nodes(&who, &session, number, 1).await?;
    let node = page.nodes.into_iter().find(|node| node.chat_id == name);
    let node = node.ok_or_else(|| {
        Error::new(ErrorKind::NodeNotFound, "there is no such node in the session")
    })?;
    Ok(ok_response("Node retrieved successfully", node))
}

/// How far the caller has read.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MarkSeenRequest {
    /// A message of the session.
    up_to: String,
}

/// A read mark.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MarkSeenResponse {
    #[schema(value_type = String)]
    session_id: SessionId,
    #[schema(value_type = String)]
    user_id: UserId,
    /// The message that was named.
    #[schema(value_type = String)]
    up_to: MessageId,
}

/// Move the caller's read mark forward. Messages of others up to it are `seen` from then on; a mark
/// never goes back.
#[utoipa::path(
    post, path = "/api/chat-sessions/{sessionId}/seen", tag = "messages",
    params(("sessionId" = String, Path)),
    request_body = MarkSeenRequest,
    responses((status = 200, body = Envelope<MarkSeenResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn mark_messages_seen(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    SessionPath(session_id): SessionPath,
    JsonBody(body): JsonBody<MarkSeenRequest>,
) -> ApiResult<Json<Envelope<MarkSeenResponse>>> {
    let named = MessageId::parse("upTo", &body.up_to)?;
    let seen = api.chat.mark_seen(&who, &session_id, &named).await?;
    let mark = MarkSeenResponse { session_id, user_id: who.user, up_to: seen.message_id };
    Ok(ok_response("Messages marked as seen successfully", mark))
}
