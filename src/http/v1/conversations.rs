//! `/v1/conversations`: sessions as OpenAI's Conversations. A conversation *is* a session: its id is
//! `conv_` and the session's, its metadata the texts in the session's `meta`.
//! Shapes: <https://platform.openai.com/docs/api-reference/conversations>.

use super::conversation_items::{MAX_NEW_ITEMS, parse_items, store_items};
use crate::clock;
use crate::domain::principal::AccessLevel;
use crate::domain::session::JsonObject;
use crate::domain::{FieldError, Principal, Session, SessionId};
use crate::error::{Error, Result};
use crate::http::ApiState;
use crate::http::body::{OptionalJsonBody, RawChatBody, parse_json};
use crate::http::envelope::ApiResult;
use crate::http::extract::{CurrentUser, NoQueryParams};
use crate::store::{NewSession, SessionUpdate};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What stands before a session's id.
const CONVERSATION_PREFIX: &str = "conv_";
/// The most pairs of metadata, and the most characters of a name and of a value.
const METADATA_LIMITS: (usize, usize, usize) = (16, 64, 512);

/// A session, as OpenAI calls it.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct ConversationResource {
    id: String,
    object: &'static str,
    /// Unix seconds.
    created_at: i64,
    metadata: BTreeMap<String, String>,
}

impl From<Session> for ConversationResource {
    fn from(session: Session) -> Self {
        Self {
            id: format!("{CONVERSATION_PREFIX}{}", session.id),
            object: "conversation",
            created_at: session.created_at.as_millis() / 1000,
            metadata: extract_metadata(&session.meta),
        }
    }
}

/// What of the application's data is OpenAI's metadata: texts.
fn extract_metadata(meta: &JsonObject) -> BTreeMap<String, String> {
    let meta: Map<String, Value> = serde_json::from_str(meta.as_json()).unwrap_or_default();
    let text = |(name, value): (String, Value)| Some((name, value.as_str()?.to_owned()));
    meta.into_iter().filter_map(text).collect()
}

/// The session that a conversation's id names.
pub(super) fn parse_conversation_id(conversation: &str) -> Result<SessionId> {
    parse_conversation_field("conversation_id", conversation)
}

/// The same, of a conversation that stands in this field.
pub(super) fn parse_conversation_field(
    field: &'static str,
    conversation: &str,
) -> Result<SessionId> {
    let wants = "must be an ID that begins with conv_";
    let id = conversation.strip_prefix(CONVERSATION_PREFIX).ok_or(FieldError::new(field, wants))?;
    Ok(SessionId::parse(field, id)?)
}

/// The conversation that is there.
pub(super) async fn load_conversation(
    api: &ApiState,
    who: &Principal,
    id: &SessionId,
) -> Result<ConversationResource> {
    Ok(api.store.get_session(who, id, AccessLevel::Participant).await?.into())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CreateConversationRequest<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
    metadata: Option<BTreeMap<String, String>>,
}

/// Create a conversation, which is a session, with up to 20 messages.
#[utoipa::path(
    post, path = "/v1/conversations", tag = "openai",
    request_body(content = Option<Object>, description = "`items`, `metadata`"),
    responses((status = 200, body = ConversationResource), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn create_conversation(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    headers: HeaderMap,
    OptionalJsonBody(bytes): OptionalJsonBody,
) -> ApiResult<Json<ConversationResource>> {
    let bytes = bytes.unwrap_or_default();
    let body: CreateConversationRequest<'_> =
        if bytes.is_empty() { CreateConversationRequest::default() } else { parse_json(&bytes)? };
    let items = parse_items(body.items.unwrap_or_default(), api.size_limits.message)?;
    let meta = match body.metadata {
        Some(metadata) => merge_metadata(Map::new(), metadata)?,
        None => JsonObject::default(),
    };
    let new = NewSession { meta, ..NewSession::default() };
    let (session, _) = api.chat.create_session(&who, new, clock::now()).await?;
    store_items(&api, &who, &session.id, items, &headers).await?;
    Ok(Json(session.into()))
}

/// Get a conversation.
#[utoipa::path(
    get, path = "/v1/conversations/{conversation}", tag = "openai",
    params(("conversation" = String, Path, description = "`conv_<sessionId>`")),
    responses((status = 200, body = ConversationResource), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn get_conversation(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Json<ConversationResource>> {
    Ok(Json(load_conversation(&api, &who, &parse_conversation_id(&id)?).await?))
}

#[derive(Deserialize)]
struct UpdateConversationRequest {
    metadata: Option<BTreeMap<String, String>>,
}

/// Replace a conversation's metadata. What else the application keeps in the session's `meta` stays.
#[utoipa::path(
    post, path = "/v1/conversations/{conversation}", tag = "openai",
    params(("conversation" = String, Path)),
    request_body(content = Object, description = "`metadata`"),
    responses((status = 200, body = ConversationResource), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn update_conversation(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    Path(id): Path<String>,
    RawChatBody(bytes): RawChatBody,
) -> ApiResult<Json<ConversationResource>> {
    let id = parse_conversation_id(&id)?;
    // Null empties it; it must be said.
    let fields: BTreeMap<String, &RawValue> = parse_json(&bytes)?;
    if !fields.contains_key("metadata") {
        return Err(Error::invalid_field("metadata", "is missing"));
    }
    let UpdateConversationRequest { metadata } = parse_json(&bytes)?;
    let session = api.store.get_session(&who, &id, AccessLevel::Owner).await?;
    let old: Map<String, Value> = serde_json::from_str(session.meta.as_json()).unwrap_or_default();
    let kept = old.into_iter().filter(|(_, value)| !value.is_string()).collect();
    let meta = merge_metadata(kept, metadata.unwrap_or_default())?;
    let change = SessionUpdate { meta: Some(meta), ..SessionUpdate::default() };
    // Should the session have changed meanwhile, what was read of it is no longer so.
    let versions = vec![session.version];
    Ok(Json(api.chat.change_session(&who, &id, change, versions, clock::now()).await?.into()))
}

/// Refuses metadata that is too much.
pub(super) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<()> {
    let (pairs, name_length, value_length) = METADATA_LIMITS;
    if metadata.len() > pairs {
        return Err(Error::invalid_field("metadata", "must have at most 16 pairs"));
    }
    let is_long = |(name, value): (&String, &String)| {
        name.chars().count() > name_length || value.chars().count() > value_length
    };
    if metadata.iter().any(is_long) {
        let wants = "must have names of at most 64 and values of at most 512 characters";
        return Err(Error::invalid_field("metadata", wants));
    }
    Ok(())
}

fn merge_metadata(
    mut kept: Map<String, Value>,
    metadata: BTreeMap<String, String>,
) -> Result<JsonObject> {
    check_metadata(&metadata)?;
    kept.extend(metadata.into_iter().map(|(name, value)| (name, value.into())));
    let raw = to_raw_value(&kept).map_err(Error::internal)?;
    Ok(JsonObject::parse("metadata", &raw)?)
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct DeletedConversationResource {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// Delete a conversation: the session with all its messages.
#[utoipa::path(
    delete, path = "/v1/conversations/{conversation}", tag = "openai",
    params(("conversation" = String, Path)),
    responses((status = 200, body = DeletedConversationResource), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn delete_conversation(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Json<DeletedConversationResource>> {
    api.chat.delete_session(&who, &parse_conversation_id(&id)?).await?;
    Ok(Json(DeletedConversationResource { id, object: "conversation.deleted", deleted: true }))
}

/// How many items one request may add.
pub(super) fn check_item_count(count: usize) -> Result<()> {
    if count > MAX_NEW_ITEMS {
        return Err(Error::invalid_field("items", "must be at most 20"));
    }
    Ok(())
}
