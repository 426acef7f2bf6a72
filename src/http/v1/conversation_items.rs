//! `/v1/conversations/:id/items`: a session's messages as OpenAI's items.
//!
//! Messages never change and never go one by one: only the last item can be deleted, which takes the
//! conversation back to what stood before it.

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
use crate::http::extract::{CurrentUser, NoQueryParams, derive_retry_key};
use crate::http::query::QueryParams;
use crate::memory::tokens;
use crate::store::{MessageParent, MessageQuery, NewMessage, PostMessage};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// The most items that are added at once.
pub(super) const MAX_NEW_ITEMS: usize = 20;

/// Some items.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct ItemList {
    object: &'static str,
    data: Vec<ConversationItem>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl ItemList {
    pub(super) fn new(data: Vec<ConversationItem>, has_more: bool) -> Self {
        let id = |item: Option<&ConversationItem>| item.map(|item| item.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

/// Reads all of them, so that a bad one keeps the good ones from being stored.
pub(super) fn parse_items(items: Vec<&RawValue>, limit: usize) -> Result<Vec<NewItemMessage>> {
    check_item_count(items.len())?;
    let read = |(index, item)| PositionedItem::parse(format!("items[{index}]"), item);
    let items: Result<Vec<PositionedItem>> = items.into_iter().enumerate().map(read).collect();
    build_messages(items?, limit)
}

/// Stores items behind one another, at the session's head.
pub(super) async fn store_items(
    api: &ApiState,
    who: &Principal,
    session: &SessionId,
    items: Vec<NewItemMessage>,
    headers: &HeaderMap,
) -> Result<Vec<ConversationItem>> {
    let mut stored = Vec::with_capacity(items.len());
    for (index, NewItemMessage { role, body, reply }) in items.into_iter().enumerate() {
        let said = format!(
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
                "POST /v1/conversations/:id/items",
                said.as_bytes(),
            )),
            message: NewMessage {
                id: MessageId::generate(),
                client_message_id: None,
                role,
                sender_id: who.user.clone(),
                tokens: tokens::count_tokens_async(&body.countable_text()).await,
                body,
                created_at: now,
                reply,
            },
        };
        let (message, _) = api.chat.post_message(who, post).await?;
        stored.extend(to_items(&message));
    }
    Ok(stored)
}

/// Add up to 20 messages to a conversation.
#[utoipa::path(
    post, path = "/v1/conversations/{conversation}/items", tag = "openai",
    params(("conversation" = String, Path)),
    request_body(content = Object, description = "`items`"),
    responses((status = 200, body = ItemList), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn create_conversation_items(
    State(api): State<ApiState>,
    mut query: QueryParams,
    CurrentUser(who): CurrentUser,
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
    let stored = store_items(&api, &who, &session, items, &headers).await?;
    Ok(Json(ItemList::new(stored, false)))
}

/// List a conversation's messages: those of the active path, the newest first.
#[utoipa::path(
    get, path = "/v1/conversations/{conversation}/items", tag = "openai",
    params(
        ("conversation" = String, Path),
        ("after" = Option<String>, Query, description = "The item that the page follows"),
        ("limit" = Option<u32>, Query, description = "From 1 to 100, 20 by default"),
        ("order" = Option<String>, Query, description = "desc (default) or asc"),
    ),
    responses((status = 200, body = ItemList), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn list_conversation_items(
    State(api): State<ApiState>,
    mut query: QueryParams,
    CurrentUser(who): CurrentUser,
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
        (None, false) => return Ok(Json(load_oldest_items(&api, &who, &session, limit).await?)),
        (Some((item, message)), is_newest_first) => {
            // A message may be several items: those of the last one that were not listed come first.
            let mut own = to_items(&api.store.get_message(&who, &session, &message).await?);
            if is_newest_first {
                own.reverse();
            }
            let place = own.iter().position(|own| own.id == item);
            let rest = own.split_off(place.ok_or_else(Error::message_not_found)? + 1);
            let slice = if is_newest_first {
                MessageSlice::Before(message)
            } else {
                MessageSlice::After(message)
            };
            (rest, slice)
        }
    };
    let (mut messages, mut has_more) =
        load_message_page(&api, &who, &session, slice, limit).await?;
    if is_newest_first {
        messages.reverse();
    }
    for message in &messages {
        let own = to_items(message).into_iter();
        if is_newest_first { items.extend(own.rev()) } else { items.extend(own) }
    }
    has_more |= items.len() > limit as usize;
    items.truncate(limit as usize);
    Ok(Json(ItemList::new(items, has_more)))
}

async fn load_message_page(
    api: &ApiState,
    who: &Principal,
    session: &SessionId,
    slice: MessageSlice,
    limit: u32,
) -> Result<(Vec<Message>, bool)> {
    let query = MessageQuery { view: MessageView::Path, slice, limit };
    let page = api.store.list_messages(who, session, query).await?;
    Ok((page.messages, page.has_more))
}

/// The beginning of the path. It is known from its end only, so all of it is passed over once.
async fn load_oldest_items(
    api: &ApiState,
    who: &Principal,
    session: &SessionId,
    limit: u32,
) -> Result<ItemList> {
    let most = limit as usize;
    let (mut first, mut is_behind, mut slice) = (Vec::new(), false, MessageSlice::Newest);
    loop {
        let (mut messages, has_more) =
            load_message_page(api, who, session, slice, MAX_PAGE_SIZE).await?;
        let Some(oldest) = messages.first() else { break };
        slice = MessageSlice::Before(oldest.id.clone());
        messages.append(&mut first);
        is_behind |= messages.len() > most;
        messages.truncate(most);
        first = messages;
        if !has_more {
            break;
        }
    }
    let mut items: Vec<ConversationItem> = first.iter().flat_map(to_items).collect();
    is_behind |= items.len() > most;
    items.truncate(most);
    Ok(ItemList::new(items, is_behind))
}

/// Get one item.
#[utoipa::path(
    get, path = "/v1/conversations/{conversation}/items/{item}", tag = "openai",
    params(("conversation" = String, Path), ("item" = String, Path, description = "`msg_<messageId>`, `fc_<n>_<messageId>` or `fco_<n>_<messageId>`")),
    responses((status = 200, body = ConversationItem), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn get_conversation_item(
    State(api): State<ApiState>,
    mut query: QueryParams,
    CurrentUser(who): CurrentUser,
    Path((id, item)): Path<(String, String)>,
) -> ApiResult<Json<ConversationItem>> {
    ignore_include(&mut query);
    query.finish()?;
    let (session, message) = (parse_conversation_id(&id)?, parse_item_id("item_id", &item)?);
    let items = to_items(&api.store.get_message(&who, &session, &message).await?);
    let found = items.into_iter().find(|found| found.id == item);
    Ok(Json(found.ok_or_else(Error::message_not_found)?))
}

/// Delete a conversation's last item. Its message stays in the session, on a branch of its own; any
/// other item is refused, for what follows it stands on it.
#[utoipa::path(
    delete, path = "/v1/conversations/{conversation}/items/{item}", tag = "openai",
    params(("conversation" = String, Path), ("item" = String, Path)),
    responses((status = 200, body = ConversationResource), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn delete_conversation_item(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    Path((id, item)): Path<(String, String)>,
) -> ApiResult<Json<ConversationResource>> {
    let (session, message) = (parse_conversation_id(&id)?, parse_item_id("item_id", &item)?);
    let items = to_items(&api.store.get_message(&who, &session, &message).await?);
    let is_last = items.last().is_some_and(|last| last.id == item);
    if !is_last || !api.chat.pop_head(&who, &session, &message).await? {
        let wants =
            "must be the last of several items: the others stay, as what follows stands on them";
        return Err(Error::invalid_field("item_id", wants));
    }
    Ok(Json(load_conversation(&api, &who, &session).await?))
}

/// There is nothing that an item could include.
pub(super) fn ignore_include(query: &mut QueryParams) {
    query.ignore("include");
    query.ignore("include[]");
}
