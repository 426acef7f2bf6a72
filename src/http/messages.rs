//! `/api/chat-sessions/:id/messages`: reading messages. `/api/chat-messages`: storing one without
//! calling a model.

use super::ApiState;
use super::auth_middleware::{CurrentUser, SessionAudit};
use super::body::{RawJsonBody, parse_json};
use super::envelope::{ApiResult, Envelope, ErrorResponse, encode_response, ok_response};
use super::idempotency::{IdempotencyScope, read_idempotency_key};
use super::param::{parse_number, parse_param};
use super::path::{MessagePath, PathParams, SessionPath};
use super::query::{QueryParams, RouteQuery};
use super::ui_message::{UiMessage, to_ui_messages};
use crate::clock;
use crate::domain::content::MessageBody;
use crate::domain::message::MessageParts;
use crate::domain::page::{MAX_PAGE_SIZE, MessageSlice, MessageView};
use crate::domain::{
    FieldError, Message, MessageId, MessageType, Principal, Role, Session, SessionId, Timestamp,
    tool,
};
use crate::error::{Error, Result};
use crate::json::deserialize_present;
use crate::memory::tokens;
use crate::store::{
    MessagePage, MessageParent, MessageQuery, NewMessage, PostMessage, ReplyFields,
};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

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

/// Page and format of a list of messages.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListMessagesQuery {
    /// Page size, 1 to 100 (default 50)
    #[serde(deserialize_with = "parse_number::<_, 1, MAX_PAGE_SIZE>")]
    limit: Option<u32>,
    /// Only messages before the one with this ID
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    before: Option<MessageId>,
    /// Only messages after the one with this ID; not together with before
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    after: Option<MessageId>,
    /// path (default), the active path; or all, every branch in the order stored
    #[param(value_type = Option<String>)]
    view: MessageView,
    /// plain (default); or ui, the AI SDK's UIMessages
    #[param(value_type = Option<String>)]
    format: MessageFormat,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MessageFormat {
    #[default]
    Plain,
    Ui,
}

impl RouteQuery for ListMessagesQuery {
    fn check(&self, errors: &mut Vec<FieldError>) {
        errors.extend(self.slice().err());
    }
}

impl ListMessagesQuery {
    fn slice(&self) -> Result<MessageSlice, FieldError> {
        match (&self.before, &self.after) {
            (None, None) => Ok(MessageSlice::Newest),
            (Some(id), None) => Ok(MessageSlice::Before(id.clone())),
            (None, Some(id)) => Ok(MessageSlice::After(id.clone())),
            (Some(_), Some(_)) => Err(FieldError::new("after", "must not be combined with before")),
        }
    }
}

/// List messages of a session.
///
/// By default the newest 50 of the active path. A page is ordered oldest first.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/messages", tag = "messages",
    params(SessionPath, ListMessagesQuery),
    responses((status = 200, body = Envelope<MessageListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_messages(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(SessionPath { session_id: session }): PathParams<SessionPath>,
    QueryParams(query): QueryParams<ListMessagesQuery>,
) -> ApiResult<Response> {
    let format = query.format;
    let query = MessageQuery {
        view: query.view,
        slice: query.slice()?,
        limit: query.limit.unwrap_or(50),
        with_siblings: matches!(format, MessageFormat::Plain),
    };
    let mut page = api.store.list_messages(&principal, &session, query).await?;
    if matches!(format, MessageFormat::Ui) {
        page = extend_to_first_reply(&api, &principal, &session, page).await?;
    }
    let texts = page.messages.iter();
    let size = texts.map(|message| message.content.len() + message.parts.as_json().len()).sum();
    encode_response(&api, &principal.user, size, move || {
        let MessagePage { messages, has_more } = page;
        let list = match format {
            MessageFormat::Plain => MessageListResponse::Plain(MessageList { messages, has_more }),
            MessageFormat::Ui => {
                let messages = to_ui_messages(messages);
                MessageListResponse::Ui(MessageList { messages, has_more })
            }
        };
        ok_response("Messages retrieved successfully", list)
    })
    .await
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
    let query =
        MessageQuery { view: MessageView::Path, slice, limit: MAX_PAGE_SIZE, with_siblings: false };
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
    params(MessagePath),
    responses((status = 200, body = Envelope<Message>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn get_message(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(MessagePath { session_id, message_id }): PathParams<MessagePath>,
) -> ApiResult<Json<Envelope<Message>>> {
    let message = api.store.get_message(&principal, &session_id, &message_id).await?;
    Ok(ok_response("Message retrieved successfully", message))
}

/// A page of a message's siblings.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SiblingListResponse {
    /// Oldest first; the message itself is among them.
    #[schema(value_type = Vec<String>)]
    sibling_ids: Vec<MessageId>,
    /// Number of all siblings, including the message itself.
    sibling_count: usize,
    /// Whether more siblings follow.
    has_more: bool,
}

/// The page of a list of siblings.
#[derive(Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListSiblingsQuery {
    /// Page size, 1 to 100 (default 100)
    #[serde(deserialize_with = "parse_number::<_, 1, MAX_PAGE_SIZE>")]
    limit: Option<u32>,
    /// Only siblings after the one with this ID
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    after: Option<MessageId>,
}

impl RouteQuery for ListSiblingsQuery {}

/// List the IDs of a message's siblings.
///
/// Siblings have the same parent. A message names only the nearest ones in `siblingIds`.
#[utoipa::path(
    get, path = "/api/chat-sessions/{sessionId}/messages/{messageId}/siblings", tag = "messages",
    params(MessagePath, ListSiblingsQuery),
    responses((status = 200, body = Envelope<SiblingListResponse>), (status = "default", body = ErrorResponse))
)]
pub(super) async fn list_siblings(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(MessagePath { session_id, message_id }): PathParams<MessagePath>,
    QueryParams(query): QueryParams<ListSiblingsQuery>,
) -> ApiResult<Json<Envelope<SiblingListResponse>>> {
    let all = api.store.list_siblings(&principal, &session_id, &message_id).await?;
    let first = match &query.after {
        Some(after) => {
            let place = all.iter().position(|id| id == after);
            place.ok_or_else(|| Error::invalid_field("after", "must be the ID of a sibling"))? + 1
        }
        None => 0,
    };
    let sibling_count = all.len();
    let limit = query.limit.unwrap_or(MAX_PAGE_SIZE) as usize;
    let sibling_ids: Vec<_> = all.into_iter().skip(first).take(limit).collect();
    let has_more = first + sibling_ids.len() < sibling_count;
    let page = SiblingListResponse { sibling_ids, sibling_count, has_more };
    Ok(ok_response("Siblings retrieved successfully", page))
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
    CurrentUser(principal): CurrentUser,
    audit: SessionAudit,
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
        idempotency_key: read_idempotency_key(&headers, IdempotencyScope::ChatMessage, &raw)?,
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
    audit.record(&post.session_id);
    let (message, session) = api.chat.post_message(&principal, post).await?;
    Ok((
        StatusCode::CREATED,
        ok_response("Message created successfully", CreateMessageResponse { message, session }),
    ))
}
