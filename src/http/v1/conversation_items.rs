//! `/v1/conversations/:id/items`: the messages of a session's active path as OpenAI's items.
//!
//! Messages are immutable and cannot be deleted one by one. Deleting the last item moves the
//! session's head back to the message before it.

use super::conversations::{
    ConversationResource, check_item_count, load_conversation, parse_conversation_id,
};
use super::item_mapping::{
    ConversationItem, NewItemMessage, PositionedItem, build_messages, parse_item_id, to_items,
};
use crate::clock;
use crate::domain::page::{MAX_PAGE_SIZE, MessageSlice, MessageView};
use crate::domain::{Message, MessageId, Principal, SessionId};
use crate::error::{Error, Result};
use crate::http::ApiState;
use crate::http::body::{RawChatBody, parse_json};
use crate::http::envelope::ApiResult;
use crate::http::extract::{CurrentUser, NoQueryParams};
use crate::http::idempotency::{IdempotencyScope, derive_retry_key};
use crate::http::query::QueryParams;
use crate::memory::tokens;
use crate::store::{MessageParent, MessageQuery, NewMessage, PostMessage};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Limit of one request, as in OpenAI's API.
pub(super) const MAX_NEW_ITEMS: usize = 20;

/// A list of items of the OpenAI API.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct ItemList {
    /// Always `list`.
    object: &'static str,
    data: Vec<ConversationItem>,
    /// ID of the first item in `data`.
    first_id: Option<String>,
    /// ID of the last item in `data`. Pass it as `after` to get the next page.
    last_id: Option<String>,
    /// Whether there are more items after the last one.
    has_more: bool,
}

impl ItemList {
    pub(super) fn new(data: Vec<ConversationItem>, has_more: bool) -> Self {
        let id = |item: Option<&ConversationItem>| item.map(|item| item.id.clone());
        let first_id = id(data.first());
        let last_id = id(data.last());
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

/// Parses all items before any is stored.
pub(super) fn parse_items(items: Vec<&RawValue>, limit: usize) -> Result<Vec<NewItemMessage>> {
    check_item_count(items.len())?;
    let read = |(index, item)| PositionedItem::parse(format!("items[{index}]"), item);
    let items: Result<Vec<PositionedItem>> = items.into_iter().enumerate().map(read).collect();
    build_messages(items?, limit)
}

/// Appends items at the session's head, one message after the other.
pub(super) async fn store_items(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    items: Vec<NewItemMessage>,
    headers: &HeaderMap,
) -> Result<Vec<ConversationItem>> {
    let mut stored = Vec::with_capacity(items.len());
    for (index, NewItemMessage { role, body, reply }) in items.into_iter().enumerate() {
        // The items of one request may be equal, so the index is part of the retry key.
        let content = format!(
            "{session}\n{index}\n{}\n{}\n{}",
            role.as_str(),
            body.content,
            body.parts.as_json()
        );
        let now = clock::now();
        let post = PostMessage {
            session_id: session.clone(),
            now,
            parent: MessageParent::Head,
            idempotency_key: Some(derive_retry_key(
                headers,
                IdempotencyScope::ConversationItem,
                content.as_bytes(),
            )),
            message: NewMessage {
                id: MessageId::generate(),
                client_message_id: None,
                role,
                sender_id: principal.user.clone(),
                tokens: tokens::count_tokens_async(&body.countable_text()).await,
                body,
                created_at: now,
                reply,
            },
        };
        let (message, _) = api.chat.post_message(principal, post).await?;
        stored.extend(to_items(&message));
    }
    Ok(stored)
}

/// Add up to 20 items to a conversation.
#[utoipa::path(
    post, path = "/v1/conversations/{conversation}/items", tag = "openai",
    params(("conversation" = String, Path)),
    request_body(content = Object, description = "OpenAI's field `items`"),
    responses((status = 200, body = ItemList), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn create_conversation_items(
    State(api): State<ApiState>,
    mut query: QueryParams,
    CurrentUser(principal): CurrentUser,
    Path(id): Path<String>,
    headers: HeaderMap,
    RawChatBody(bytes): RawChatBody,
) -> ApiResult<Json<ItemList>> {
    #[derive(Deserialize)]
    struct CreateItemsRequest<'a> {
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    ignore_include(&mut query);
    query.finish()?;
    let session = parse_conversation_id(&id)?;
    let CreateItemsRequest { items } = parse_json(&bytes)?;
    let items = parse_items(items, api.size_limits.message)?;
    let stored = store_items(&api, &principal, &session, items, &headers).await?;
    Ok(Json(ItemList::new(stored, false)))
}

/// List the items of a conversation: its active path, newest first by default.
#[utoipa::path(
    get, path = "/v1/conversations/{conversation}/items", tag = "openai",
    params(
        ("conversation" = String, Path),
        ("after" = Option<String>, Query, description = "ID of the item that precedes the page"),
        ("limit" = Option<u32>, Query, description = "Page size, 1 to 100 (default 20)"),
        ("order" = Option<String>, Query, description = "desc (default) or asc"),
    ),
    responses((status = 200, body = ItemList), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn list_conversation_items(
    State(api): State<ApiState>,
    mut query: QueryParams,
    CurrentUser(principal): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Json<ItemList>> {
    let limit = query.take_number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(20);
    let is_newest_first =
        query.take_choice("order", &[("desc", true), ("asc", false)]).unwrap_or(true);
    let after = query.take_parsed("after", |id| Ok((id.to_owned(), parse_item_id("after", id)?)));
    ignore_include(&mut query);
    query.finish()?;
    let session = parse_conversation_id(&id)?;
    let (mut items, slice) = match (after, is_newest_first) {
        (None, true) => (Vec::new(), MessageSlice::Newest),
        (None, false) => {
            return Ok(Json(load_oldest_items(&api, &principal, &session, limit).await?));
        }
        (Some((item, message)), is_newest_first) => {
            // A message may be several items, and the previous page may have ended between them. So
            // this page starts with the rest of that message.
            let mut items_of_message =
                to_items(&api.store.get_message(&principal, &session, &message).await?);
            if is_newest_first {
                items_of_message.reverse();
            }
            let index = items_of_message.iter().position(|found| found.id == item);
            let rest = items_of_message.split_off(index.ok_or_else(Error::message_not_found)? + 1);
            let slice = if is_newest_first {
                MessageSlice::Before(message)
            } else {
                MessageSlice::After(message)
            };
            (rest, slice)
        }
    };
    let (mut messages, mut has_more) =
        load_message_page(&api, &principal, &session, slice, limit).await?;
    if is_newest_first {
        messages.reverse();
    }
    for message in &messages {
        let items_of_message = to_items(message).into_iter();
        if is_newest_first {
            items.extend(items_of_message.rev())
        } else {
            items.extend(items_of_message)
        }
    }
    // A page of `limit` messages may be more items than that.
    has_more |= items.len() > limit as usize;
    items.truncate(limit as usize);
    Ok(Json(ItemList::new(items, has_more)))
}

async fn load_message_page(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    slice: MessageSlice,
    limit: u32,
) -> Result<(Vec<Message>, bool)> {
    let query = MessageQuery { view: MessageView::Path, slice, limit };
    let page = api.store.list_messages(principal, session, query).await?;
    Ok((page.messages, page.has_more))
}

/// Loads the first items of the path.
///
/// A path is linked from each message to its parent, so its beginning can only be reached from its
/// end: this reads the whole path in pages and keeps the oldest messages.
async fn load_oldest_items(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    limit: u32,
) -> Result<ItemList> {
    let limit = limit as usize;
    let mut first = Vec::new();
    let mut has_more_items = false;
    let mut slice = MessageSlice::Newest;
    loop {
        let (mut messages, has_more) =
            load_message_page(api, principal, session, slice, MAX_PAGE_SIZE).await?;
        let Some(oldest) = messages.first() else { break };
        slice = MessageSlice::Before(oldest.id.clone());
        messages.append(&mut first);
        has_more_items |= messages.len() > limit;
        messages.truncate(limit);
        first = messages;
        if !has_more {
            break;
        }
    }
    let mut items: Vec<ConversationItem> = first.iter().flat_map(to_items).collect();
    has_more_items |= items.len() > limit;
    items.truncate(limit);
    Ok(ItemList::new(items, has_more_items))
}

/// Get an item of a conversation.
#[utoipa::path(
    get, path = "/v1/conversations/{conversation}/items/{item}", tag = "openai",
    params(("conversation" = String, Path), ("item" = String, Path, description = "`msg_<messageId>`, `fc_<n>_<messageId>` or `fco_<n>_<messageId>`")),
    responses((status = 200, body = ConversationItem), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn get_conversation_item(
    State(api): State<ApiState>,
    mut query: QueryParams,
    CurrentUser(principal): CurrentUser,
    Path((id, item)): Path<(String, String)>,
) -> ApiResult<Json<ConversationItem>> {
    ignore_include(&mut query);
    query.finish()?;
    let session = parse_conversation_id(&id)?;
    let message = parse_item_id("item_id", &item)?;
    let items = to_items(&api.store.get_message(&principal, &session, &message).await?);
    let found = items.into_iter().find(|found| found.id == item);
    Ok(Json(found.ok_or_else(Error::message_not_found)?))
}

/// Delete the last item of a conversation.
///
/// Its message stays in the session as a branch outside of the active path. Other items cannot be
/// deleted, because later messages depend on them.
#[utoipa::path(
    delete, path = "/v1/conversations/{conversation}/items/{item}", tag = "openai",
    params(("conversation" = String, Path), ("item" = String, Path)),
    responses((status = 200, body = ConversationResource), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn delete_conversation_item(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(principal): CurrentUser,
    Path((id, item)): Path<(String, String)>,
) -> ApiResult<Json<ConversationResource>> {
    let session = parse_conversation_id(&id)?;
    let message = parse_item_id("item_id", &item)?;
    let items = to_items(&api.store.get_message(&principal, &session, &message).await?);
    let is_last = items.last().is_some_and(|last| last.id == item);
    // `pop_head` takes all items of a message off the active path, so only its last one qualifies.
    if !is_last || !api.chat.pop_head(&principal, &session, &message).await? {
        let expected = "must be the last item of the conversation, and not its only one";
        return Err(Error::invalid_field("item_id", expected));
    }
    Ok(Json(load_conversation(&api, &principal, &session).await?))
}

/// Accepts `include`, in both spellings of OpenAI's libraries: items have no optional content here.
pub(super) fn ignore_include(query: &mut QueryParams) {
    query.ignore("include");
    query.ignore("include[]");
}
