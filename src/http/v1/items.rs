//! `/v1/conversations/:id/items`: a session's messages as OpenAI's items. An item's id is `msg_` and
//! the message's.
//!
//! Only messages are items: what calls tools, and what they return, is refused. Messages never
//! change and never go one by one, so an item cannot be deleted.

use super::content::Content;
use super::conversations::{Conversation, ensure_few, read, session_of};
use crate::clock;
use crate::domain::image::images;
use crate::domain::message::{Body, Status};
use crate::domain::page::{MAX_LIMIT, Slice, View};
use crate::domain::{Invalid, Message, MessageId, MessageType, Principal, Role, SessionId};
use crate::error::{Error, Result};
use crate::http::Api;
use crate::http::body::{ChatBytes, parse};
use crate::http::envelope::Answer;
use crate::http::extract::{Caller, NoQuery, retry};
use crate::http::query::Query;
use crate::json::Object;
use crate::memory::tokens;
use crate::store::{MessageQuery, NewMessage, Parent, PostMessage, ReplyFields};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// What stands before a message's id.
const PREFIX: &str = "msg_";
/// The most items that are added at once.
pub(super) const MAX_ITEMS: usize = 20;

/// A message as OpenAI calls it.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Item {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    role: Role,
    status: &'static str,
    #[schema(value_type = Vec<Object>)]
    content: Vec<Value>,
}

impl From<Message> for Item {
    fn from(message: Message) -> Self {
        let text = match message.role {
            Role::Assistant => {
                json!({"type": "output_text", "text": message.content, "annotations": [], "logprobs": []})
            }
            _ => json!({"type": "input_text", "text": message.content}),
        };
        let pictures = images(&message.parts).into_iter().map(|image| {
            let detail = image.detail.as_deref().unwrap_or("auto");
            json!({"type": "input_image", "image_url": image.url, "detail": detail, "file_id": null})
        });
        let text = (!message.content.is_empty()).then_some(text);
        Self {
            id: format!("{PREFIX}{}", message.id),
            kind: "message",
            role: message.role,
            status: match message.status {
                Status::Complete => "completed",
                Status::Interrupted | Status::Failed => "incomplete",
            },
            content: text.into_iter().chain(pictures).collect(),
        }
    }
}

/// Some items.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct ItemList {
    object: &'static str,
    data: Vec<Item>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl ItemList {
    fn new(data: Vec<Item>, has_more: bool) -> Self {
        let id = |item: Option<&Item>| item.map(|item| item.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

/// A message that a client adds.
pub(super) struct NewItem {
    pub(super) role: Role,
    pub(super) body: Body,
}

impl NewItem {
    /// Reads all of them, so that a bad one keeps the good ones from being stored.
    pub(super) fn read_all(items: Vec<&RawValue>, limit: usize) -> Result<Vec<Self>> {
        ensure_few(items.len())?;
        let read = |(index, item)| {
            Self::read(item, limit).map_err(|error: Error| error.at(&format!("items[{index}]")))
        };
        items.into_iter().enumerate().map(read).collect()
    }

    /// Reads one.
    pub(super) fn read(item: &RawValue, limit: usize) -> Result<Self> {
        #[derive(Deserialize)]
        struct Incoming<'a> {
            #[serde(rename = "type", default)]
            kind: Option<String>,
            #[serde(default)]
            role: Option<String>,
            #[serde(borrow, default)]
            content: Option<&'a RawValue>,
        }
        let wants = |_| Invalid::new("item", "must be a message {role, content}");
        let Object(Incoming { kind, role, content }) =
            serde_json::from_str(item.get()).map_err(wants)?;
        if kind.is_some_and(|kind| kind != "message") {
            return Err(Error::invalid("type", "must be message"));
        }
        let role = match role.as_deref() {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("system" | "developer") => Role::System,
            _ => {
                return Err(Error::invalid("role", "must be user, assistant, system or developer"));
            }
        };
        let content = content.ok_or_else(|| Error::invalid("content", "is missing"))?;
        let content =
            Content::read(content, &["input_text", "output_text", "text"], "input_image")?;
        let Content { text, parts } = content.ok_or_else(|| {
            let wants =
                "must be a string or a list of input_text, output_text and input_image parts";
            Error::invalid("content", wants)
        })?;
        let body = Body::parse("content", text, parts, MessageType::Text, limit)?;
        Ok(Self { role, body })
    }
}

/// Stores items behind one another, at the session's head.
pub(super) async fn post_all(
    api: &Api,
    who: &Principal,
    session: &SessionId,
    items: Vec<NewItem>,
    headers: &HeaderMap,
) -> Result<Vec<Item>> {
    let mut stored = Vec::with_capacity(items.len());
    for (index, NewItem { role, body }) in items.into_iter().enumerate() {
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
            parent: Parent::Head,
            idempotency: Some(retry(headers, "POST /v1/conversations/:id/items", said.as_bytes())),
            message: NewMessage {
                id: MessageId::generate(),
                client_message_id: None,
                role,
                sender_id: who.user.clone(),
                tokens: tokens::count_long(&body.content).await,
                body,
                created_at: now,
                reply: ReplyFields::default(),
            },
        };
        let (message, _) = api.chat.post_message(who, post).await?;
        stored.push(message.into());
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
pub(in crate::http) async fn add_items(
    State(api): State<Api>,
    mut query: Query,
    Caller(who): Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    ChatBytes(bytes): ChatBytes,
) -> Answer<Json<ItemList>> {
    #[derive(Deserialize)]
    struct Items<'a> {
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    ignore_include(&mut query);
    query.finish()?;
    let session = session_of(&id)?;
    let Items { items } = parse(&bytes)?;
    let items = NewItem::read_all(items, api.limits.message)?;
    let stored = post_all(&api, &who, &session, items, &headers).await?;
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
pub(in crate::http) async fn items(
    State(api): State<Api>,
    mut query: Query,
    Caller(who): Caller,
    Path(id): Path<String>,
) -> Answer<Json<ItemList>> {
    let limit = query.number("limit", 1..=MAX_LIMIT).unwrap_or(20);
    let is_newest_first = query.word("order", &[("desc", true), ("asc", false)]).unwrap_or(true);
    let after = query.parsed("after", |id| message_of("after", id));
    ignore_include(&mut query);
    query.finish()?;
    let session = session_of(&id)?;
    let slice = match (after, is_newest_first) {
        (None, true) => Slice::Newest,
        (Some(id), true) => Slice::Before(id),
        (Some(id), false) => Slice::After(id),
        (None, false) => return Ok(Json(oldest(&api, &who, &session, limit).await?)),
    };
    let page = page(&api, &who, &session, slice, limit).await?;
    let mut items: Vec<Item> = page.0.into_iter().map(Item::from).collect();
    if is_newest_first {
        items.reverse();
    }
    Ok(Json(ItemList::new(items, page.1)))
}

async fn page(
    api: &Api,
    who: &Principal,
    session: &SessionId,
    slice: Slice,
    limit: u32,
) -> Result<(Vec<Message>, bool)> {
    let query = MessageQuery { view: View::Path, slice, limit };
    let page = api.store.messages(who, session, query).await?;
    Ok((page.messages, page.has_more))
}

/// The beginning of the path. It is known from its end only, so all of it is passed over once.
async fn oldest(api: &Api, who: &Principal, session: &SessionId, limit: u32) -> Result<ItemList> {
    let most = limit as usize;
    let (mut first, mut is_behind, mut slice) = (Vec::new(), false, Slice::Newest);
    loop {
        let (mut messages, has_more) = page(api, who, session, slice, MAX_LIMIT).await?;
        let Some(oldest) = messages.first() else { break };
        slice = Slice::Before(oldest.id.clone());
        messages.append(&mut first);
        is_behind |= messages.len() > most;
        messages.truncate(most);
        first = messages;
        if !has_more {
            break;
        }
    }
    Ok(ItemList::new(first.into_iter().map(Item::from).collect(), is_behind))
}

/// Get one item.
#[utoipa::path(
    get, path = "/v1/conversations/{conversation}/items/{item}", tag = "openai",
    params(("conversation" = String, Path), ("item" = String, Path, description = "`msg_<messageId>`")),
    responses((status = 200, body = Item), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn item(
    State(api): State<Api>,
    mut query: Query,
    Caller(who): Caller,
    Path((id, item)): Path<(String, String)>,
) -> Answer<Json<Item>> {
    ignore_include(&mut query);
    query.finish()?;
    let (session, message) = (session_of(&id)?, message_of("item_id", &item)?);
    Ok(Json(api.store.message(&who, &session, &message).await?.into()))
}

/// Refused, for messages never go one by one: delete the conversation.
#[utoipa::path(
    delete, path = "/v1/conversations/{conversation}/items/{item}", tag = "openai",
    params(("conversation" = String, Path), ("item" = String, Path)),
    responses((status = 200, body = Conversation), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn delete_item(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    Path((id, item)): Path<(String, String)>,
) -> Answer<Json<Conversation>> {
    let (session, message) = (session_of(&id)?, message_of("item_id", &item)?);
    read(&api, &who, &session).await?;
    api.store.message(&who, &session, &message).await?;
    Err(Error::invalid("item_id", "cannot be deleted: messages never go one by one"))
}

fn message_of(field: &'static str, item: &str) -> Result<MessageId, Invalid> {
    let wants = "must be an ID that begins with msg_";
    let id = item.strip_prefix(PREFIX).ok_or(Invalid::new(field, wants))?;
    MessageId::parse(field, id)
}

/// What it could include there is none of.
pub(super) fn ignore_include(query: &mut Query) {
    query.ignore("include");
    query.ignore("include[]");
}
