//! `/api/chat-sessions/:id/messages`: reading messages. `/api/chat-messages`: storing one without
//! calling a model.

use super::ApiState;
use super::auth_middleware::audit_session;
use super::body::{RawJsonBody, parse_json};
use super::envelope::{ApiResult, Envelope, ErrorResponse, ok_response};
use super::extract::{CurrentUser, MessagePath, NoQueryParams, SessionPath, read_idempotency_key};
use super::query::QueryParams;
use super::ui_message::{UiMessage, to_ui_messages};
use crate::clock;
use crate::domain::content::MessageBody;
use crate::domain::message::MessageParts;
use crate::domain::page::{MAX_PAGE_SIZE, MessageSlice, MessageView};
use crate::domain::{
    Message, MessageId, MessageType, Principal, Role, Session, SessionId, Timestamp, tool,
};
use crate::error::Result;
use crate::json::deserialize_present;
use crate::memory::tokens;
use crate::store::{
    MessagePage, MessageParent, MessageQuery, NewMessage, PostMessage, ReplyFields,
};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A page of messages.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessageList<T> {
    /// Oldest first.
    messages: Vec<T>,
    /// Whether there are more messages in the direction of reading.
    has_more: bool,
}

/// A page of messages, in the requested format.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum MessageListResponse {
    /// With `format=plain`: messages as stored.
    Plain(MessageList<Message>),
    /// With `format=ui`: UIMessages of the AI SDK.
    Ui(MessageList<UiMessage>),
}

#[derive(Clone, Copy, PartialEq)]
enum MessageFormat {
    Plain,
    Ui,
}

/// List messages of a session.
///
/// By default the newest 50 of the active path. A page is ordered oldest first.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/messages", tag = "messages",
    params(
        ("sessionId" = String, Path),
        ("limit" = Option<u32>, Query, description = "Page size, 1 to 100 (default 50)"),
        ("before" = Option<String>, Query, description = "Only messages before the one with this ID"),
        ("after" = Option<String>, Query, description = "Only messages after the one with this ID; not together with before"),
        ("view" = Option<String>, Query, description = "path (default), the active path; or all, every branch in the order stored"),
        ("format" = Option<String>, Query, description = "plain (default); or ui, the AI SDK's UIMessages"),
    ),
    responses((status = 200, body = Envelope<MessageListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_messages(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    SessionPath(session): SessionPath,
    mut query: QueryParams,
) -> ApiResult<Json<Envelope<MessageListResponse>>> {
    let limit = query.take_number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(50);
    let before = query.take_parsed("before", |id| MessageId::parse("before", id));
    let after = query.take_parsed("after", |id| MessageId::parse("after", id));
    let view = query
        .take_choice("view", &[("path", MessageView::Path), ("all", MessageView::All)])
        .unwrap_or_default();
    let format = query
        .take_choice("format", &[("plain", MessageFormat::Plain), ("ui", MessageFormat::Ui)])
        .unwrap_or(MessageFormat::Plain);
    let slice = match (before, after) {
        (None, None) => MessageSlice::Newest,
        (Some(id), None) => MessageSlice::Before(id),
        (None, Some(id)) => MessageSlice::After(id),
        (Some(_), Some(_)) => {
            query.add_error("after", "must not be combined with before");
            // Never used: `finish` returns the error.
            MessageSlice::Newest
        }
    };
    query.finish()?;
    let page =
        api.store.list_messages(&principal, &session, MessageQuery { view, slice, limit }).await?;
    let list = match format {
        MessageFormat::Plain => {
            let MessagePage { messages, has_more } = page;
            MessageListResponse::Plain(MessageList { messages, has_more })
        }
        MessageFormat::Ui => {
            let page = extend_to_first_reply(&api, &principal, &session, page).await?;
            let (messages, has_more) = (to_ui_messages(page.messages), page.has_more);
            MessageListResponse::Ui(MessageList { messages, has_more })
        }
    };
    Ok(ok_response("Messages retrieved successfully", list))
}

/// Extends a page that begins in the middle of a UIMessage to that message's first reply.
///
/// A reply with tool calls, the tool results and the reply that follows are one message in
/// `useChat`, but several stored messages. A page must not begin with a later one of them.
async fn extend_to_first_reply(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    page: MessagePage,
) -> Result<MessagePage> {
    let Some(first) = page.messages.first() else { return Ok(page) };
    // Users and the system begin messages of their own; only replies and results can continue one.
    if matches!(first.role, Role::User | Role::System) || first.parent_id.is_none() {
        return Ok(page);
    }
    // The first message is a reply to tool results, or the results themselves.
    let parent;
    let results = match (first.role, &first.parent_id) {
        (Role::Assistant, Some(id)) => {
            parent = api.store.get_message(principal, session, id).await?;
            &parent
        }
        _ => first,
    };
    let Some(beginning) = tool::find_continued_reply(results.role, &results.parts) else {
        return Ok(page);
    };
    let slice = MessageSlice::Before(first.id.clone());
    let query = MessageQuery { view: MessageView::Path, slice, limit: MAX_PAGE_SIZE };
    let before = api.store.list_messages(principal, session, query).await?;
    let start = before.messages.iter().position(|message| message.id == beginning);
    // More than a page of tool calls: the message is shown in part rather than the page grow on.
    let Some(start) = start else { return Ok(page) };
    let has_more = before.has_more || start > 0;
    let messages = before.messages.into_iter().skip(start).chain(page.messages).collect();
    Ok(MessagePage { messages, has_more })
}

/// Get a message.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/messages/{messageId}", tag = "messages",
    params(("sessionId" = String, Path), ("messageId" = String, Path, description = "The message's ID, or its clientMessageId")),
    responses((status = 200, body = Envelope<Message>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_message(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    MessagePath(session, id): MessagePath,
    _query: NoQueryParams,
) -> ApiResult<Json<Envelope<Message>>> {
    let message = api.store.get_message(&principal, &session, &id).await?;
    Ok(ok_response("Message retrieved successfully", message))
}

/// A message to store without calling a model.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateMessageRequest {
    /// The session to add the message to.
    chat_session_id: String,
    /// Roles other than `user` require the session's owner.
    role: Role,
    /// The text; may be empty if there are parts.
    #[serde(default)]
    content: String,
    /// The primary content type.
    #[serde(default, rename = "type")]
    kind: MessageType,
    /// Attachments.
    #[schema(value_type = Option<Vec<Object>>)]
    parts: Option<Box<RawValue>>,
    /// The client's own ID of the message. Sending the same ID again returns the first result.
    client_message_id: Option<String>,
    /// The message to reply to (default: the session's head). `null` starts a branch at the root.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>)]
    parent_id: Option<Option<String>>,
    /// Time the message was written (default: now).
    #[schema(value_type = Option<String>, format = DateTime)]
    created_at: Option<Timestamp>,
}

/// Maps the JSON field `parentId`: absent, null or an ID.
pub(super) fn parse_parent(parent_id: Option<Option<String>>) -> Result<MessageParent> {
    Ok(match parent_id {
        None => MessageParent::Head,
        Some(None) => MessageParent::Root,
        Some(Some(id)) => MessageParent::Message(MessageId::parse("parentId", &id)?),
    })
}

/// The stored message, and its session after the change.
#[derive(Serialize, ToSchema)]
pub(super) struct CreateMessageResponse {
    message: Message,
    session: Session,
}

/// Store a message without calling a model.
///
/// The first user message names the session, as in a chat.
#[utoipa::path(
    post, path = "/api/chat-messages", tag = "messages",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeated request returns the first result, for 24 hours")),
    request_body = CreateMessageRequest,
    responses((status = 201, body = Envelope<CreateMessageResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn create_message(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(principal): CurrentUser,
    headers: HeaderMap,
    RawJsonBody(raw): RawJsonBody,
) -> ApiResult<(StatusCode, Json<Envelope<CreateMessageResponse>>)> {
    let body: CreateMessageRequest = parse_json(&raw)?;
    let session_id = SessionId::parse("chatSessionId", &body.chat_session_id)?;
    let parts = body
        .parts
        .map(|parts| MessageParts::parse("parts", &parts))
        .transpose()?
        .unwrap_or_default();
    let content =
        MessageBody::parse("content", body.content, parts, body.kind, api.size_limits.message)?;
    let now = clock::now();
    let post = PostMessage {
        session_id,
        now,
        parent: parse_parent(body.parent_id)?,
        idempotency_key: read_idempotency_key(&headers, "POST /api/chat-messages", &raw)?,
        message: NewMessage {
            id: MessageId::generate(),
            client_message_id: body
                .client_message_id
                .map(|id| MessageId::parse("clientMessageId", &id))
                .transpose()?,
            role: body.role,
            sender_id: principal.user.clone(),
            // Counted before the store's transaction, because it takes long for a long text.
            tokens: tokens::count_tokens_async(&content.countable_text()).await,
            body: content,
            created_at: body.created_at.unwrap_or(now),
            reply: ReplyFields::default(),
        },
    };
    // The session is named in the body, so the middleware could not write the audit line.
    audit_session(&principal, "/api/chat-messages", &post.session_id);
    let (message, session) = api.chat.post_message(&principal, post).await?;
    Ok((
        StatusCode::CREATED,
        ok_response("Message created successfully", CreateMessageResponse { message, session }),
    ))
}
