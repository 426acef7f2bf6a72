//! `/v1/conversations/:id/items`: the messages of a session's active path as OpenAI's items.
//!
//! Messages are immutable and cannot be deleted one by one. Deleting the last item moves the
//! session's head back to the message before it.

use super::conversations::{ConversationResource, load_conversation};
use super::ids::{ConversationId, ConversationPath, ItemId, ItemPath};
use super::item_mapping::{ConversationItem, to_items};
use super::new_items::{parse_items, store_items};
use crate::domain::page::{MAX_PAGE_SIZE, MessageSlice, MessageView};
use crate::domain::{Message, Principal, SessionId};
use crate::error::{Error, Result};
use crate::http::ApiState;
use crate::http::auth_middleware::CurrentUser;
use crate::http::body::{RawChatBody, parse_json};
use crate::http::envelope::ApiResult;
use crate::http::param::{parse_number, parse_param};
use crate::http::path::PathParams;
use crate::http::query::{QueryParams, RouteQuery};
use crate::store::MessageQuery;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

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

/// The page of a list of items.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct ListItemsQuery {
    /// ID of the item that precedes the page
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<String>)]
    pub(super) after: Option<ItemId>,
    /// Page size, 1 to 100 (default 20)
    #[serde(deserialize_with = "parse_number::<_, 1, MAX_PAGE_SIZE>")]
    limit: Option<u32>,
    /// desc (default) or asc
    #[param(value_type = Option<String>)]
    order: ItemOrder,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ItemOrder {
    #[default]
    Desc,
    Asc,
}

impl RouteQuery for ListItemsQuery {}

impl ListItemsQuery {
    pub(super) fn limit(&self) -> u32 {
        self.limit.unwrap_or(20)
    }

    pub(super) fn is_newest_first(&self) -> bool {
        self.order == ItemOrder::Desc
    }
}

/// Add up to 20 items to a conversation.
#[utoipa::path(
    post, path = "/v1/conversations/{conversation}/items", tag = "openai",
    params(ConversationPath),
    request_body(content = Object, description = "OpenAI's field `items`"),
    responses((status = 200, body = ItemList), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn create_conversation_items(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(path): PathParams<ConversationPath>,
    headers: HeaderMap,
    RawChatBody(bytes): RawChatBody,
) -> ApiResult<Json<ItemList>> {
    #[derive(Deserialize)]
    struct CreateItemsRequest<'a> {
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    let ConversationId(session) = path.conversation;
    let CreateItemsRequest { items } = parse_json(&bytes)?;
    let items = parse_items(items, api.size_limits.message)?;
    let stored = store_items(&api, &principal, &session, items, &headers).await?;
    Ok(Json(ItemList::new(stored, false)))
}

/// List the items of a conversation: its active path, newest first by default.
#[utoipa::path(
    get, path = "/v1/conversations/{conversation}/items", tag = "openai",
    params(ConversationPath, ListItemsQuery),
    responses((status = 200, body = ItemList), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn list_conversation_items(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(path): PathParams<ConversationPath>,
    QueryParams(query): QueryParams<ListItemsQuery>,
) -> ApiResult<Json<ItemList>> {
    let ConversationId(session) = path.conversation;
    let limit = query.limit();
    let is_newest_first = query.is_newest_first();
    let (mut items, slice) = match query.after {
        None if is_newest_first => (Vec::new(), MessageSlice::Newest),
        None => return Ok(Json(load_oldest_items(&api, &principal, &session, limit).await?)),
        Some(after) => {
            let rest =
                load_items_beyond(&api, &principal, &session, &after, is_newest_first).await?;
            let slice = match is_newest_first {
                true => MessageSlice::Before(after.message),
                false => MessageSlice::After(after.message),
            };
            (rest, slice)
        }
    };
    let (mut messages, mut has_more) =
        load_message_page(&api, &principal, &session, slice, limit).await?;
    if is_newest_first {
        messages.reverse();
    }
    items.extend(messages.iter().flat_map(|message| to_ordered_items(message, is_newest_first)));
    // A page of `limit` messages may be more items than that.
    has_more |= items.len() > limit as usize;
    items.truncate(limit as usize);
    Ok(Json(ItemList::new(items, has_more)))
}

fn to_ordered_items(message: &Message, is_newest_first: bool) -> Vec<ConversationItem> {
    let mut items = to_items(message);
    if is_newest_first {
        items.reverse();
    }
    items
}

/// Loads the items of a message that follow `after` in the order of the list.
///
/// A message may be several items, and the previous page may have ended between them.
async fn load_items_beyond(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    after: &ItemId,
    is_newest_first: bool,
) -> Result<Vec<ConversationItem>> {
    let message = api.store.get_message(principal, session, &after.message).await?;
    let mut items = to_ordered_items(&message, is_newest_first);
    let index = items.iter().position(|found| found.id == after.text);
    Ok(items.split_off(index.ok_or_else(Error::message_not_found)? + 1))
}

async fn load_message_page(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    slice: MessageSlice,
    limit: u32,
) -> Result<(Vec<Message>, bool)> {
    let query = MessageQuery { view: MessageView::Path, slice, limit, with_siblings: false };
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
    params(ItemPath),
    responses((status = 200, body = ConversationItem), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn get_conversation_item(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(path): PathParams<ItemPath>,
) -> ApiResult<Json<ConversationItem>> {
    let ItemPath { conversation: ConversationId(session), item } = path;
    let items = to_items(&api.store.get_message(&principal, &session, &item.message).await?);
    let found = items.into_iter().find(|found| found.id == item.text);
    Ok(Json(found.ok_or_else(Error::message_not_found)?))
}

/// Delete the last item of a conversation.
///
/// Its message stays in the session as a branch outside of the active path. Other items cannot be
/// deleted, because later messages depend on them.
#[utoipa::path(
    delete, path = "/v1/conversations/{conversation}/items/{item}", tag = "openai",
    params(ItemPath),
    responses((status = 200, body = ConversationResource), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn delete_conversation_item(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(path): PathParams<ItemPath>,
) -> ApiResult<Json<ConversationResource>> {
    let ItemPath { conversation: ConversationId(session), item } = path;
    let items = to_items(&api.store.get_message(&principal, &session, &item.message).await?);
    let is_last = items.last().is_some_and(|last| last.id == item.text);
    // `pop_head` takes all items of a message off the active path, so only its last one qualifies.
    if !is_last || !api.chat.pop_head(&principal, &session, &item.message).await? {
        let expected = "must be the last item of the conversation, and not its only one";
        return Err(Error::invalid_field("item_id", expected));
    }
    Ok(Json(load_conversation(&api, &principal, &session).await?))
}
