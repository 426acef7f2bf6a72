//! `/api/chat-sessions/:id/nodes` and `…/seen`: a session in the format of person-to-person chats,
//! and read marks.

use super::ApiState;
use super::auth_middleware::CurrentUser;
use super::body::JsonBody;
use super::envelope::{ApiResult, Envelope, ErrorResponse, encode_response, ok_response};
use super::param::parse_number;
use super::path::{NodePath, PathParams, SessionPath};
use super::query::{QueryParams, RouteQuery};
use crate::domain::node::{ChatNode, format_chat_id, parse_chat_id};
use crate::domain::page::MAX_PAGE_SIZE;
use crate::domain::{MessageId, SessionId, UserId};
use crate::error::{Error, ErrorKind};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// About the size of a message in a response, besides its text.
const MESSAGE_FIELDS_BYTES: usize = 150;

/// A page of a session's nodes.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeListResponse {
    /// Ordered by number: `_1`, `_2`, …
    nodes: Vec<ChatNode>,
    /// Pass as `cursor` to get the next page; `null` on the last page.
    next_cursor: Option<String>,
}

/// The page of a list of nodes.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListNodesQuery {
    /// Page size, 1 to 100 (default 100)
    #[serde(deserialize_with = "parse_number::<_, 1, MAX_PAGE_SIZE>")]
    limit: Option<u32>,
    /// The nextCursor of the previous page
    cursor: Option<String>,
}

impl RouteQuery for ListNodesQuery {}

/// List a session's nodes with their messages.
///
/// All branches are included. A node holds at most 10,000 messages or 128 KiB.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/nodes", tag = "messages",
    params(SessionPath, ListNodesQuery),
    responses((status = 200, body = Envelope<NodeListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_nodes(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: session }): PathParams<SessionPath>,
    QueryParams(query): QueryParams<ListNodesQuery>,
) -> ApiResult<Response> {
    let first = match &query.cursor {
        Some(cursor) => parse_chat_id(&session, cursor).ok_or_else(|| {
            Error::invalid_field("cursor", "must be a nextCursor of the same list")
        })?,
        None => 1,
    };
    let limit = query.limit.unwrap_or(MAX_PAGE_SIZE);
    let page = api.store.list_nodes(&principal, &session, first, limit).await?;
    let next_cursor = page.next_node.map(|number| format_chat_id(&session, number));
    let messages = page.nodes.iter().flat_map(|node| &node.messages);
    let size = messages.map(|message| message.text.len() + MESSAGE_FIELDS_BYTES).sum();
    encode_response(&api, &principal.user, size, move || {
        ok_response(
            "Nodes retrieved successfully",
            NodeListResponse { nodes: page.nodes, next_cursor },
        )
    })
    .await
}

/// Get a node with its messages.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/nodes/{chatId}", tag = "messages",
    params(NodePath),
    responses((status = 200, body = Envelope<ChatNode>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_node(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(NodePath { session_id: session, chat_id: name }): PathParams<NodePath>,
) -> ApiResult<Json<Envelope<ChatNode>>> {
    // A malformed name is looked up as the nonexistent node 0, so that a caller without access to
    // the session gets `session_not_found` for any name.
    let number = parse_chat_id(&session, &name).unwrap_or(0);
    let page = api.store.list_nodes(&principal, &session, number, 1).await?;
    let node = page.nodes.into_iter().find(|node| node.chat_id == name);
    let node = node.ok_or_else(|| {
        Error::new(ErrorKind::NodeNotFound, "there is no such node in the session")
    })?;
    Ok(ok_response("Node retrieved successfully", node))
}

/// The position of the caller's read mark.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MarkSeenRequest {
    /// The last message read, by its ID or `clientMessageId`.
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
    /// The message that the request named.
    #[schema(value_type = String)]
    up_to: MessageId,
}

/// Move the caller's read mark forward.
///
/// Messages of other users up to the mark become `seen`. A mark never moves back.
#[utoipa::path(
    post, path = "/api/chat-sessions/{sessionId}/seen", tag = "messages",
    params(SessionPath),
    request_body = MarkSeenRequest,
    responses((status = 200, body = Envelope<MarkSeenResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn mark_messages_seen(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id }): PathParams<SessionPath>,
    JsonBody(body): JsonBody<MarkSeenRequest>,
) -> ApiResult<Json<Envelope<MarkSeenResponse>>> {
    let up_to = MessageId::parse("upTo", &body.up_to)?;
    let seen = api.chat.mark_seen(&principal, &session_id, &up_to).await?;
    let mark = MarkSeenResponse { session_id, user_id: principal.user, up_to: seen.message_id };
    Ok(ok_response("Messages marked as seen successfully", mark))
}
