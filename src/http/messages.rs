//! `…/messages` and `/api/chat-messages`: messages read, and stored without a model.

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
    /// Whether there are more in the direction of reading.
    has_more: bool,
}

/// Messages in either form.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum MessageListResponse {
    /// As stored.
    Plain(MessageList<Message>),
    /// As `useChat` keeps them.
    Ui(MessageList<UiMessage>),
}

#[derive(Clone, Copy, PartialEq)]
enum MessageFormat {
    Plain,
    Ui,
}

/// Read messages, oldest first within a page; by default the newest 50 of the active path.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/messages", tag = "messages",
    params(
        ("sessionId" = String, Path),
        ("limit" = Option<u32>, Query, description = "From 1 to 100, 50 by default"),
        ("before" = Option<String>, Query, description = "Only messages before this one"),
        ("after" = Option<String>, Query, description = "Only messages after this one"),
        ("view" = Option<String>, Query, description = "path (default): the active path; all: every branch, in the order stored"),
        ("format" = Option<String>, Query, description = "plain (default), or ui for AI SDK UIMessages"),
    ),
    responses((status = 200, body = Envelope<MessageListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_messages(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
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
            query.add_error("after", "must not come with before");
            MessageSlice::Newest
        }
    };
    query.finish()?;
    let page = api.store.list_messages(&who, &session, MessageQuery { view, slice, limit }).await?;
    let list = match format {
        MessageFormat::Plain => {
            let MessagePage { messages, has_more } = page;
            MessageListResponse::Plain(MessageList { messages, has_more })
        }
        MessageFormat::Ui => {
            let page = extend_to_first_reply(&api, &who, &session, page).await?;
            let (messages, has_more) = (to_ui_messages(page.messages), page.has_more);
            MessageListResponse::Ui(MessageList { messages, has_more })
        }
    };
    Ok(ok_response("Messages retrieved successfully", list))
}

/// A page that begins amid what `useChat` shows as one message, from that message's first reply on.
async fn extend_to_first_reply(
    api: &ApiState,
    who: &Principal,
    session: &SessionId,
    page: MessagePage,
) -> Result<MessagePage> {
    let Some(first) = page.messages.first() else { return Ok(page) };
    if matches!(first.role, Role::User | Role::System) || first.parent_id.is_none() {
        return Ok(page);
    }
    let parent;
    let results = match (first.role, &first.parent_id) {
        (Role::Assistant, Some(id)) => {
            parent = api.store.get_message(who, session, id).await?;
            &parent
        }
        _ => first,
    };
    let Some(beginning) = tool::find_continued_reply(results.role, &results.parts) else {
        return Ok(page);
    };
    let slice = MessageSlice::Before(first.id.clone());
    let query = MessageQuery { view: MessageView::Path, slice, limit: MAX_PAGE_SIZE };
    let before = api.store.list_messages(who, session, query).await?;
    let place = before.messages.iter().position(|message| message.id == beginning);
    let Some(place) = place else { return Ok(page) };
    let has_more = before.has_more || place > 0;
    let messages = before.messages.into_iter().skip(place).chain(page.messages).collect();
    Ok(MessagePage { messages, has_more })
}

/// Read one message.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/messages/{messageId}", tag = "messages",
    params(("sessionId" = String, Path), ("messageId" = String, Path, description = "Its id, or the one its client gave it")),
    responses((status = 200, body = Envelope<Message>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_message(
    State(api): State<ApiState>,
    CurrentUser(who): CurrentUser,
    MessagePath(session, id): MessagePath,
    _query: NoQueryParams,
) -> ApiResult<Json<Envelope<Message>>> {
    let message = api.store.get_message(&who, &session, &id).await?;
    Ok(ok_response("Message retrieved successfully", message))
}

/// A message to store without a model.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateMessageRequest {
    chat_session_id: String,
    role: Role,
    /// Its text; may be empty where there are parts.
    #[serde(default)]
    content: String,
    #[serde(default, rename = "type")]
    kind: MessageType,
    #[schema(value_type = Option<Vec<Object>>)]
    parts: Option<Box<RawValue>>,
    /// A repeated one gives the first result.
    client_message_id: Option<String>,
    /// The message it follows; null makes it a root, left out it follows the newest.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>)]
    parent_id: Option<Option<String>>,
    /// When it was written; now, if left out.
    #[schema(value_type = Option<String>, format = DateTime)]
    created_at: Option<Timestamp>,
}

/// Where a message stands, as clients say it.
pub(super) fn parse_parent(parent_id: Option<Option<String>>) -> Result<MessageParent> {
    Ok(match parent_id {
        None => MessageParent::Head,
        Some(None) => MessageParent::Root,
        Some(Some(id)) => MessageParent::Message(MessageId::parse("parentId", &id)?),
    })
}

/// What was stored.
#[derive(Serialize, ToSchema)]
pub(super) struct CreateMessageResponse {
    message: Message,
    session: Session,
}

/// Store one message without a model. Names the session and moves its counters.
#[utoipa::path(
    post, path = "/api/chat-messages", tag = "messages",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeated one gives the first result, for 24 hours")),
    request_body = CreateMessageRequest,
    responses((status = 201, body = Envelope<CreateMessageResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn create_message(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
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
            sender_id: who.user.clone(),
            tokens: tokens::count_tokens_async(&content.countable_text()).await,
            body: content,
            created_at: body.created_at.unwrap_or(now),
            reply: ReplyFields::default(),
        },
    };
    audit_session(&who, "/api/chat-messages", &post.session_id);
    let (message, session) = api.chat.post_message(&who, post).await?;
    Ok((
        StatusCode::CREATED,
        ok_response("Message created successfully", CreateMessageResponse { message, session }),
    ))
}
