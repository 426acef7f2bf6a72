//! `/v1/responses`: turns as OpenAI's Responses.
//! Shapes: <https://platform.openai.com/docs/api-reference/responses>.
//!
//! A response *is* a turn. Its ID is `resp_<turnId>`. The parameters of its request are stored with
//! the response; its output and final state are those of the stored reply message. With
//! `store: false` and without a conversation nothing is stored.

mod event_stream;
mod input;
mod known_items;
mod request;
mod request_echo;
mod response_object;

pub(in crate::http) mod create_response;

use super::conversation_items::{ItemList, ListItemsQuery};
use super::ids::{ResponseId, ResponsePath, format_response_id};
use super::item_mapping::{ConversationItem, to_items};
use crate::domain::principal::AccessLevel;
use crate::domain::{FieldError, Principal, SessionId};
use crate::error::{Error, Result};
use crate::http::ApiState;
use crate::http::auth_middleware::CurrentUser;
use crate::http::envelope::ApiResult;
use crate::http::param::{parse_number, parse_param};
use crate::http::path::PathParams;
use crate::http::query::{QueryParams, RouteQuery};
use crate::http::sse;
use crate::store::StoredResponse;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use event_stream::{ReplyLookup, ResponseEventStream};
use response_object::{ResponseHeader, StoredRequest, load_response_object};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

/// How to get a response.
#[derive(Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct GetResponseQuery {
    /// Stream the events instead of returning the response
    #[serde(deserialize_with = "parse_param")]
    #[param(value_type = Option<bool>)]
    stream: bool,
    /// Sequence number of the last event received; requires `stream=true`
    #[serde(deserialize_with = "parse_number::<_, 0, { u32::MAX }>")]
    starting_after: Option<u32>,
}

impl RouteQuery for GetResponseQuery {
    fn check(&self, errors: &mut Vec<FieldError>) {
        if self.starting_after.is_some() && !self.stream {
            errors.push(FieldError::new("starting_after", "requires stream=true"));
        }
    }
}

/// Get a response, or stream its events again.
///
/// `stream=true` is available for responses created with `background` and `stream`. The events are
/// the same that the first reader got, from the one after `starting_after`.
#[utoipa::path(
    get, path = "/v1/responses/{response}", tag = "openai",
    params(ResponsePath, GetResponseQuery),
    responses(
        (status = 200, description = "The response; with `stream`, its events as server-sent events", body = Object),
        (status = "default", description = "An error in OpenAI's format"),
    )
)]
pub(in crate::http) async fn get_response(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ResponsePath { response: ResponseId(id) }): PathParams<ResponsePath>,
    QueryParams(query): QueryParams<GetResponseQuery>,
) -> ApiResult<Response> {
    let (session, stored) = api.store.get_response(&principal, &id).await?;
    if !query.stream {
        return Ok(
            Json(load_response_object(&api, &principal, &session, &stored).await?).into_response()
        );
    }
    let request = StoredRequest::from_stored(&stored)?;
    if !(request.is_background && request.is_stream) {
        let expected = "requires a response that was created with background and stream";
        return Err(Error::invalid_field("stream", expected));
    }
    let reply_events = api.chat.replay_response(&principal, &session, &stored).await?;
    let header = ResponseHeader::from_stored(&stored)?;
    let lookup = Some(ReplyLookup { api: api.clone(), principal, session });
    let events = ResponseEventStream::new(header, stored.reply_id, lookup, reply_events)
        .into_background(query.starting_after);
    Ok(sse::stream_with_heartbeat(events, api.heartbeat))
}

/// Cancel a response that was created with `background`.
///
/// The output so far is kept. A response that has already ended is unchanged.
#[utoipa::path(
    post, path = "/v1/responses/{response}/cancel", tag = "openai",
    params(ResponsePath),
    responses(
        (status = 200, description = "The response", body = Object),
        (status = "default", description = "An error in OpenAI's format"),
    )
)]
pub(in crate::http) async fn cancel_response(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ResponsePath { response: ResponseId(id) }): PathParams<ResponsePath>,
) -> ApiResult<Json<Value>> {
    let (session, stored) = api.store.get_response(&principal, &id).await?;
    if !StoredRequest::from_stored(&stored)?.is_background {
        let expected = "must be a response that was created with background; to cancel any other, close its connection";
        return Err(Error::invalid_field("response_id", expected));
    }
    api.chat.cancel_turns(&principal, &session, Some(&stored.turn_id)).await?;
    Ok(Json(load_response_object(&api, &principal, &session, &stored).await?))
}

/// A deleted response of the OpenAI API.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct DeletedResponse {
    /// `resp_<turnId>`.
    id: String,
    /// Always `response`.
    object: &'static str,
    /// Always `true`.
    deleted: bool,
}

/// Delete a response.
///
/// Its messages stay in the conversation. A session that was created for this response, and
/// contains nothing else, is deleted with it.
#[utoipa::path(
    delete, path = "/v1/responses/{response}", tag = "openai",
    params(ResponsePath),
    responses((status = 200, body = DeletedResponse), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn delete_response(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ResponsePath { response: ResponseId(id) }): PathParams<ResponsePath>,
) -> ApiResult<Json<DeletedResponse>> {
    let (session, stored) = api.store.get_response(&principal, &id).await?;
    // Every participant may read a response, but only its requester or the owner may delete it.
    if stored.user != principal.user {
        api.store.get_session(&principal, &session, AccessLevel::Owner).await?;
    }
    let request = StoredRequest::from_stored(&stored)?;
    // A running reply is stopped first, so that the message count below is final.
    api.chat.cancel_turns(&principal, &session, Some(&stored.turn_id)).await?;
    let messages =
        api.store.get_session(&principal, &session, AccessLevel::Participant).await?.messages_count;
    // The session may have been continued by another response, or by a chat.
    let is_only_content = request.is_own_session && messages as usize == request.inputs + 1;
    if is_only_content {
        api.chat.delete_session(&principal, &session).await?;
    } else {
        api.store.delete_response(&stored.turn_id).await?;
    }
    let id = format_response_id(id.as_str());
    Ok(Json(DeletedResponse { id, object: "response", deleted: true }))
}

/// List the input items of a response, newest first by default.
#[utoipa::path(
    get, path = "/v1/responses/{response}/input_items", tag = "openai",
    params(ResponsePath, ListItemsQuery),
    responses((status = 200, body = ItemList), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn list_response_input_items(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    PathParams(ResponsePath { response: ResponseId(id) }): PathParams<ResponsePath>,
    QueryParams(query): QueryParams<ListItemsQuery>,
) -> ApiResult<Json<ItemList>> {
    let (session, stored) = api.store.get_response(&principal, &id).await?;
    let mut inputs = load_input_items(&api, &principal, &session, &stored).await?;
    if query.is_newest_first() {
        inputs.reverse();
    }
    if let Some(after) = &query.after {
        let at = inputs.iter().position(|item| item.id == after.text);
        let at = at.ok_or_else(|| {
            Error::invalid_field("after", "must be the ID of an item in this list")
        })?;
        inputs.drain(..=at);
    }
    let limit = query.limit() as usize;
    let has_more = inputs.len() > limit;
    inputs.truncate(limit);
    Ok(Json(ItemList::new(inputs, has_more)))
}

/// Loads the input items of a response, oldest first: those of the message it answers, and of the
/// preceding messages that were stored with it.
async fn load_input_items(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    stored: &StoredResponse,
) -> Result<Vec<ConversationItem>> {
    let mut messages = Vec::new();
    let mut next = Some(stored.user_message_id.clone());
    for _ in 0..StoredRequest::from_stored(stored)?.inputs {
        let Some(id) = next else { break };
        let message = api.store.get_message(principal, session, &id).await?;
        next = message.parent_id.clone();
        messages.push(message);
    }
    Ok(messages.iter().rev().flat_map(to_items).collect())
}
