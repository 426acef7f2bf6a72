//! `/v1/conversations`: sessions as OpenAI's Conversations.
//! Shapes: <https://platform.openai.com/docs/api-reference/conversations>.
//!
//! A conversation *is* a session. Its ID is `conv_<sessionId>`, and its metadata are the string
//! values of the session's `meta`.

use super::ids::{ConversationId, ConversationPath, format_conversation_id};
use super::new_items::{parse_items, store_items};
use crate::clock;
use crate::domain::principal::AccessLevel;
use crate::domain::session::JsonObject;
use crate::domain::{Principal, Session, SessionId};
use crate::error::{Error, Result};
use crate::http::ApiState;
use crate::http::auth_middleware::CurrentUser;
use crate::http::body::{OptionalJsonBody, RawChatBody, parse_json};
use crate::http::envelope::ApiResult;
use crate::http::path::PathParams;
use crate::store::{NewSession, SessionUpdate};
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Number of pairs, characters of a name, and characters of a value.
const METADATA_LIMITS: (usize, usize, usize) = (16, 64, 512);

/// A conversation of the OpenAI API.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct ConversationResource {
    /// `conv_<sessionId>`.
    id: String,
    /// Always `conversation`.
    object: &'static str,
    /// Unix time in seconds.
    created_at: i64,
    /// The string values of the session's `meta`.
    metadata: BTreeMap<String, String>,
}

impl From<Session> for ConversationResource {
    fn from(session: Session) -> Self {
        Self {
            id: format_conversation_id(&session.id),
            object: "conversation",
            created_at: session.created_at.as_millis() / 1000,
            metadata: extract_metadata(&session.meta),
        }
    }
}

/// The string values of `meta`; OpenAI's metadata has no others.
fn extract_metadata(meta: &JsonObject) -> BTreeMap<String, String> {
    let meta: Map<String, Value> = serde_json::from_str(meta.as_json()).unwrap_or_default();
    let text = |(name, value): (String, Value)| Some((name, value.as_str()?.to_owned()));
    meta.into_iter().filter_map(text).collect()
}

pub(super) async fn load_conversation(
    api: &ApiState,
    principal: &Principal,
    id: &SessionId,
) -> Result<ConversationResource> {
    Ok(api.store.get_session(principal, id, AccessLevel::Participant).await?.into())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CreateConversationRequest<'a> {
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
    metadata: Option<BTreeMap<String, String>>,
}

/// Create a conversation with up to 20 items.
///
/// A conversation is a session; it also appears in `GET /api/chat-sessions`.
#[utoipa::path(
    post, path = "/v1/conversations", tag = "openai",
    request_body(content = Option<Object>, description = "OpenAI's fields `items` and `metadata`"),
    responses((status = 200, body = ConversationResource), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn create_conversation(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    headers: HeaderMap,
    OptionalJsonBody(bytes): OptionalJsonBody,
) -> ApiResult<Json<ConversationResource>> {
    let bytes = bytes.unwrap_or_default();
    let body: CreateConversationRequest<'_> =
        if bytes.is_empty() { CreateConversationRequest::default() } else { parse_json(&bytes)? };
    // All items are parsed first: an invalid one must not leave an empty session.
    let items = parse_items(body.items.unwrap_or_default(), api.size_limits.message)?;
    let meta = match body.metadata {
        Some(metadata) => merge_metadata(Map::new(), metadata)?,
        None => JsonObject::default(),
    };
    let new = NewSession { meta, ..NewSession::default() };
    let (session, _) = api.chat.create_session(&principal, new, clock::now()).await?;
    store_items(&api, &principal, &session.id, items, &headers).await?;
    Ok(Json(session.into()))
}

/// Get a conversation.
#[utoipa::path(
    get, path = "/v1/conversations/{conversation}", tag = "openai",
    params(ConversationPath),
    responses((status = 200, body = ConversationResource), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn get_conversation(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(path): PathParams<ConversationPath>,
) -> ApiResult<Json<ConversationResource>> {
    let ConversationId(session) = path.conversation;
    Ok(Json(load_conversation(&api, &principal, &session).await?))
}

#[derive(Deserialize)]
struct UpdateConversationRequest {
    metadata: Option<BTreeMap<String, String>>,
}

/// Replace the metadata of a conversation.
///
/// Values of the session's `meta` that are not strings are kept.
#[utoipa::path(
    post, path = "/v1/conversations/{conversation}", tag = "openai",
    params(ConversationPath),
    request_body(content = Object, description = "OpenAI's field `metadata`, which is required"),
    responses((status = 200, body = ConversationResource), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn update_conversation(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(path): PathParams<ConversationPath>,
    RawChatBody(bytes): RawChatBody,
) -> ApiResult<Json<ConversationResource>> {
    let ConversationId(id) = path.conversation;
    // `null` clears the metadata, but a missing field is an error, as in OpenAI's API.
    let fields: BTreeMap<String, &RawValue> = parse_json(&bytes)?;
    if !fields.contains_key("metadata") {
        return Err(Error::invalid_field("metadata", "is missing"));
    }
    let UpdateConversationRequest { metadata } = parse_json(&bytes)?;
    let session = api.store.get_session(&principal, &id, AccessLevel::Owner).await?;
    let old: Map<String, Value> = serde_json::from_str(session.meta.as_json()).unwrap_or_default();
    // String values are the old metadata, which the request replaces as a whole.
    let stored = old.into_iter().filter(|(_, value)| !value.is_string()).collect();
    let meta = merge_metadata(stored, metadata.unwrap_or_default())?;
    let change = SessionUpdate { meta: Some(meta), ..SessionUpdate::default() };
    // The new `meta` is derived from this version; the update fails if another one came in between.
    let versions = vec![session.version];
    Ok(Json(api.chat.change_session(&principal, &id, change, versions, clock::now()).await?.into()))
}

/// Checks metadata against OpenAI's limits.
pub(super) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<()> {
    let (pairs, name_length, value_length) = METADATA_LIMITS;
    if metadata.len() > pairs {
        return Err(Error::invalid_field("metadata", "must have at most 16 pairs"));
    }
    let is_long = |(name, value): (&String, &String)| {
        name.chars().count() > name_length || value.chars().count() > value_length
    };
    if metadata.iter().any(is_long) {
        let expected = "must have keys of at most 64 and values of at most 512 characters";
        return Err(Error::invalid_field("metadata", expected));
    }
    Ok(())
}

fn merge_metadata(
    mut stored: Map<String, Value>,
    metadata: BTreeMap<String, String>,
) -> Result<JsonObject> {
    check_metadata(&metadata)?;
    stored.extend(metadata.into_iter().map(|(name, value)| (name, value.into())));
    let raw = to_raw_value(&stored).map_err(Error::internal)?;
    Ok(JsonObject::parse("metadata", &raw)?)
}

/// A deleted conversation of the OpenAI API.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct DeletedConversationResource {
    /// `conv_<sessionId>`.
    id: String,
    /// Always `conversation.deleted`.
    object: &'static str,
    /// Always `true`.
    deleted: bool,
}

/// Delete a conversation with all its items.
///
/// Unlike at OpenAI, this deletes the session with all its messages.
#[utoipa::path(
    delete, path = "/v1/conversations/{conversation}", tag = "openai",
    params(ConversationPath),
    responses((status = 200, body = DeletedConversationResource), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn delete_conversation(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(path): PathParams<ConversationPath>,
) -> ApiResult<Json<DeletedConversationResource>> {
    let ConversationId(session) = path.conversation;
    api.chat.delete_session(&principal, &session).await?;
    let id = format_conversation_id(&session);
    Ok(Json(DeletedConversationResource { id, object: "conversation.deleted", deleted: true }))
}
