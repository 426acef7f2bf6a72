//! `/v1/responses`: turns as OpenAI's Responses.
//! Shapes: <https://platform.openai.com/docs/api-reference/responses>.
//!
//! A response *is* a turn. Its ID is `resp_<turnId>`. The parameters of its request are stored with
//! the response; its output and final state are those of the stored reply message. With
//! `store: false` and without a conversation nothing is stored.

mod event_stream;
mod input;
mod request;
mod request_echo;
mod response_object;

use super::SESSION_HEADER;
use super::conversation_items::{self, ItemList};
use super::errors::non_retryable_response;
use super::item_mapping::{ConversationItem, to_items};
use crate::chat::{CallerStatus, ReplyStream, TurnRequest};
use crate::domain::page::{MAX_PAGE_SIZE, MessageSlice, MessageView};
use crate::domain::principal::AccessLevel;
use crate::domain::{FieldError, MessageId, Principal, SessionId, TurnId, tool};
use crate::error::{Error, ErrorKind, Result};
use crate::http::ApiState;
use crate::http::auth_middleware::{SessionAudit, TurnAdmission};
use crate::http::body::RawChatBody;
use crate::http::envelope::ApiResult;
use crate::http::extract::{CurrentUser, NoQueryParams};
use crate::http::idempotency::{IdempotencyScope, derive_retry_key, read_idempotency_key};
use crate::http::query::QueryParams;
use crate::http::sse;
use crate::store::{MessageQuery, OnBusy, RetryWindow, SessionTarget, StoredResponse};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use event_stream::{ReplyLookup, ResponseEventStream};
use input::{ResponseInput, build_results_message, check_tool_results, resolve_references};
use request::{CreateResponseRequest, ResponseParent};
use response_object::{ResponseHeader, ResponseState, StoredRequest};
use serde::Serialize;
use serde_json::Value;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

const RESPONSE_PREFIX: &str = "resp_";
/// Longer bodies are parsed on a blocking thread.
const INLINE_PARSE_LIMIT: usize = 256 << 10;

/// Create a response, in OpenAI's format.
///
/// With `conversation` or `previous_response_id` it is a turn of that session, otherwise of a new
/// session. With `store: false` nothing is stored, unless the response belongs to a `conversation`.
#[utoipa::path(
    post, path = "/v1/responses", tag = "openai",
    request_body(content = Object, description = "OpenAI's fields"),
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "A repeated request returns the same response, for 24 hours"),
        ("x-stainless-retry-count" = Option<u32>, Header, description = "If above 0, the same body within two minutes is a retry and returns the same response"),
    ),
    responses(
        (status = 200, description = "A response; with `stream`, its events as server-sent events", body = Object),
        (status = "default", description = "An error in OpenAI's format"),
    )
)]
pub(in crate::http) async fn create_response(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(principal): CurrentUser,
    TurnAdmission(caller_status): TurnAdmission,
    audit: SessionAudit,
    headers: HeaderMap,
    RawChatBody(bytes): RawChatBody,
) -> ApiResult<Response> {
    let scope = IdempotencyScope::Response;
    let key = match read_idempotency_key(&headers, scope, &bytes)? {
        Some(key) => key,
        None => derive_retry_key(&headers, scope, &bytes),
    };
    let mut request = if bytes.len() <= INLINE_PARSE_LIMIT {
        CreateResponseRequest::parse(&api, &bytes)?
    } else {
        let api = api.clone();
        spawn_blocking(move || CreateResponseRequest::parse(&api, &bytes))
            .await
            .map_err(Error::internal)??
    };
    let conversation = match &request.parent {
        ResponseParent::Conversation(session) => Some(session),
        ResponseParent::None | ResponseParent::PreviousResponse(_) => None,
    };
    let items = std::mem::take(&mut request.items);
    let items = resolve_references(&api, &principal, conversation, items).await?;
    let input = ResponseInput::from_items(items, api.size_limits.message)?;
    // Calls in the list itself were matched above; the remaining `tool_results` refer to history.
    if matches!(request.parent, ResponseParent::None) {
        check_tool_results(&input.tool_results, &[])?;
    }
    // A turn of a conversation is always stored; there `store` concerns the response object only.
    if !request.is_stored && !matches!(request.parent, ResponseParent::Conversation(_)) {
        let request = request.with_input(input);
        return create_unstored(&api, &principal, caller_status, &audit, request).await;
    }
    let (session, reply) = resolve_target(&api, &principal, &request.parent).await?;
    audit.record(session.id());
    let may_be_retry = key.retry_window != RetryWindow::Disabled;
    let input =
        resolve_outputs(&api, &principal, input, &session, reply.as_ref(), may_be_retry).await?;
    let request = request.with_input(input);
    let StoredRequest { is_background, is_stream, .. } = request.stored_request;
    let (preceding, intent) =
        CreateResponseRequest::build_intent(request.input, reply, api.size_limits.message);
    let turn = TurnRequest {
        principal: principal.clone(),
        session,
        project_id: None,
        preceding,
        intent,
        settings: request.settings,
        on_busy: OnBusy::Reject,
        idempotency_key: Some(key),
        caller_status,
    };
    let (reply_stream, stored) = if request.is_stored {
        let stored_request = request.stored_request.to_json()?;
        // Only these can be streamed again later, so only their events are recorded for good.
        let is_recorded = is_background && is_stream;
        api.chat
            .start_response(turn, stored_request, is_recorded)
            .await
            .map_err(rename_results_error)?
    } else {
        (api.chat.stream_turn(turn).await.map_err(rename_results_error)?, None)
    };
    let header = match &stored {
        // For a retry this is the header of the first request.
        Some((stored, _)) => ResponseHeader::from_stored(stored)?,
        None => ResponseHeader::new(&reply_stream, &request.stored_request),
    };
    let ReplyStream { reply_id, session_id, events, .. } = reply_stream;
    let session_header = session_id.as_ref().map(|id| HeaderValue::from_str(id.as_str()));
    let lookup = session_id.map(|session| ReplyLookup {
        api: api.clone(),
        principal: principal.clone(),
        session,
    });
    let events = ResponseEventStream::new(header, reply_id, lookup, events);
    let result = match stored {
        Some(_) if is_background && is_stream => {
            Ok(sse::stream_with_heartbeat(events.into_background(None), api.heartbeat))
        }
        // Dropping the stream does not stop the turn: the hub runs it independently of its readers.
        Some((_, true)) if is_background => Ok(Json(events.queued_response()).into_response()),
        // A retry: the response may have made progress or ended in the meantime.
        Some((stored, false)) if is_background => {
            let (session, _) = api.store.get_response(&principal, &stored.turn_id).await?;
            Ok(Json(load_response_object(&api, &principal, &session, &stored).await?)
                .into_response())
        }
        _ => respond_with_response(&api, events, is_stream).await,
    };
    let mut response = result.unwrap_or_else(non_retryable_response);
    if let Some(Ok(session)) = session_header {
        response.headers_mut().insert(SESSION_HEADER, session);
    }
    Ok(response)
}

/// The session of a turn, and the reply that the turn follows. `None` for the session's head.
async fn resolve_target(
    api: &ApiState,
    principal: &Principal,
    parent: &ResponseParent,
) -> Result<(SessionTarget, Option<MessageId>)> {
    Ok(match parent {
        ResponseParent::None => (SessionTarget::New(SessionId::generate()), None),
        ResponseParent::Conversation(session) => (SessionTarget::Existing(session.clone()), None),
        ResponseParent::PreviousResponse(turn) => {
            let (session, response) = find_previous_response(api, principal, turn).await?;
            (SessionTarget::Existing(session), Some(response.reply_id))
        }
    })
}

/// Turns tool outputs that are followed by further messages into a tool message of their own, after
/// the reply whose calls they answer.
///
/// Outputs without further messages are left in `tool_results`: they are the intent of the turn.
async fn resolve_outputs(
    api: &ApiState,
    principal: &Principal,
    mut input: ResponseInput,
    session: &SessionTarget,
    reply: Option<&MessageId>,
    may_be_retry: bool,
) -> Result<ResponseInput> {
    if input.tool_results.is_empty() || input.last.is_none() {
        return Ok(input);
    }
    let calls = match reply {
        Some(reply) => {
            tool::parse_calls(&api.store.get_message(principal, session.id(), reply).await?.parts)
        }
        None => {
            let query = MessageQuery {
                view: MessageView::Path,
                slice: MessageSlice::Newest,
                limit: MAX_PAGE_SIZE,
            };
            let mut path = api.store.list_messages(principal, session.id(), query).await?.messages;
            if may_be_retry {
                // The first attempt may have been stored, and even answered. Then the calls are no
                // longer at the end of the path, and the outputs would be refused before the retry
                // is recognized. So the path is cut back to the reply that made the calls.
                path.truncate(input.find_calling_reply(&path).map_or(0, |at| at + 1));
            }
            input = input.remove_known(&path);
            path.last().map(|header| tool::parse_calls(&header.parts)).unwrap_or_default()
        }
    };
    check_tool_results(&input.tool_results, &calls)?;
    if input.last.is_none() {
        return Ok(input);
    }
    let results = std::mem::take(&mut input.tool_results);
    input.preceding.insert(0, build_results_message(&results, &calls, api.size_limits.message)?);
    Ok(input)
}

/// Renames the field of an error about tool results to its name in this body.
fn rename_results_error(error: Error) -> Error {
    let message = error.details.as_ref().and_then(|details| details.get("messages"));
    match message.and_then(Value::as_str) {
        Some(message) if error.kind == ErrorKind::InvalidRequest => {
            Error::invalid_field("input", message.to_owned())
        }
        _ => error,
    }
}

/// Loads the response of `previous_response_id`. Errors: `previous_response_not_found`.
async fn find_previous_response(
    api: &ApiState,
    principal: &Principal,
    turn: &TurnId,
) -> Result<(SessionId, StoredResponse)> {
    api.store.get_response(principal, turn).await.map_err(|error| match error.kind {
        ErrorKind::ResponseNotFound => Error::new(
            ErrorKind::PreviousResponseNotFound,
            format!("previous response with id '{RESPONSE_PREFIX}{turn}' not found"),
        ),
        _ => error,
    })
}

/// Creates a response that is not stored, though it may continue one that is.
async fn create_unstored(
    api: &ApiState,
    principal: &Principal,
    caller_status: CallerStatus,
    audit: &SessionAudit,
    request: CreateResponseRequest,
) -> ApiResult<Response> {
    let call = api.chat.begin_metered_call(principal, caller_status).await?;
    let prompt = match &request.parent {
        ResponseParent::PreviousResponse(turn) => {
            let (session, response) = find_previous_response(api, principal, turn).await?;
            audit.record(&session);
            let session =
                api.store.get_session(principal, &session, AccessLevel::Participant).await?;
            request.build_prompt_after(api, &session, &response.reply_id).await?
        }
        _ => request.build_prompt(api.memory.default_model()),
    };
    let reply = api.chat.stream_completion(&prompt, call).await?;
    let header = ResponseHeader::new(&reply, &request.stored_request);
    let events = ResponseEventStream::new(header, reply.reply_id, None, reply.events);
    respond_with_response(api, events, request.stored_request.is_stream).await
}

/// Responds with the complete response, or with its events once the reply has begun.
async fn respond_with_response(
    api: &ApiState,
    mut events: ResponseEventStream,
    is_stream: bool,
) -> ApiResult<Response> {
    if !is_stream {
        return Ok(Json(events.collect().await?).into_response());
    }
    events.start().await?;
    Ok(sse::stream_with_heartbeat(events, api.heartbeat))
}

/// Get a response, or stream its events again.
///
/// `stream=true` is available for responses created with `background` and `stream`. The events are
/// the same that the first reader got, from the one after `starting_after`.
#[utoipa::path(
    get, path = "/v1/responses/{response}", tag = "openai",
    params(
        ("response" = String, Path, description = "`resp_<turnId>`"),
        ("stream" = Option<bool>, Query, description = "Stream the events instead of returning the response"),
        ("starting_after" = Option<u32>, Query, description = "Sequence number of the last event received; requires `stream=true`"),
    ),
    responses(
        (status = 200, description = "The response; with `stream`, its events as server-sent events", body = Object),
        (status = "default", description = "An error in OpenAI's format"),
    )
)]
pub(in crate::http) async fn get_response(
    State(api): State<ApiState>,
    mut query: QueryParams,
    CurrentUser(principal): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let is_stream =
        query.take_choice("stream", &[("true", true), ("false", false)]).unwrap_or(false);
    let starting_after = query.take_number("starting_after", 0..=u32::MAX);
    // OpenAI's libraries may send these; they concern content that responses here do not have.
    for unused in ["include", "include[]", "include_obfuscation"] {
        query.ignore(unused);
    }
    if starting_after.is_some() && !is_stream {
        query.add_error("starting_after", "requires stream=true");
    }
    query.finish()?;
    let (session, stored) = api.store.get_response(&principal, &parse_response_id(&id)?).await?;
    if !is_stream {
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
        .into_background(starting_after);
    Ok(sse::stream_with_heartbeat(events, api.heartbeat))
}

/// Loads the response object in its current state.
async fn load_response_object(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    stored: &StoredResponse,
) -> Result<Value> {
    let header = ResponseHeader::from_stored(stored)?;
    // The running turn is checked before the reply is read: a turn ends in the same transaction
    // that stores its reply, so the reply of an inactive turn has been stored.
    let active =
        api.store.get_session(principal, session, AccessLevel::Participant).await?.active_turn;
    if active.is_some_and(|active| active.turn_id == stored.turn_id) {
        return Ok(header.to_response_json(ResponseState::started("in_progress")));
    }
    Ok(match api.store.get_message(principal, session, &stored.reply_id).await {
        Ok(reply) => header.to_response_json(ResponseState::from_reply(&reply)),
        // The reply could not be stored when the turn ended.
        Err(error) if error.kind == ErrorKind::MessageNotFound => {
            header.to_response_json(ResponseState::missing_reply())
        }
        Err(error) => return Err(error),
    })
}

/// Cancel a response that was created with `background`.
///
/// The output so far is kept. A response that has already ended is unchanged.
#[utoipa::path(
    post, path = "/v1/responses/{response}/cancel", tag = "openai",
    params(("response" = String, Path)),
    responses(
        (status = 200, description = "The response", body = Object),
        (status = "default", description = "An error in OpenAI's format"),
    )
)]
pub(in crate::http) async fn cancel_response(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(principal): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let (session, stored) = api.store.get_response(&principal, &parse_response_id(&id)?).await?;
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
    params(("response" = String, Path)),
    responses((status = 200, body = DeletedResponse), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn delete_response(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(principal): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Json<DeletedResponse>> {
    let (session, stored) = api.store.get_response(&principal, &parse_response_id(&id)?).await?;
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
    Ok(Json(DeletedResponse { id, object: "response", deleted: true }))
}

/// List the input items of a response, newest first by default.
#[utoipa::path(
    get, path = "/v1/responses/{response}/input_items", tag = "openai",
    params(
        ("response" = String, Path),
        ("after" = Option<String>, Query, description = "ID of the item that precedes the page"),
        ("limit" = Option<u32>, Query, description = "Page size, 1 to 100 (default 20)"),
        ("order" = Option<String>, Query, description = "desc (default) or asc"),
    ),
    responses((status = 200, body = ItemList), (status = "default", description = "An error in OpenAI's format"))
)]
pub(in crate::http) async fn list_response_input_items(
    State(api): State<ApiState>,
    mut query: QueryParams,
    CurrentUser(principal): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Json<ItemList>> {
    let limit = query.take_number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(20);
    let is_newest_first =
        query.take_choice("order", &[("desc", true), ("asc", false)]).unwrap_or(true);
    let after = query.take_text("after");
    conversation_items::ignore_include(&mut query);
    query.finish()?;
    let (session, stored) = api.store.get_response(&principal, &parse_response_id(&id)?).await?;
    let mut inputs = load_input_items(&api, &principal, &session, &stored).await?;
    if is_newest_first {
        inputs.reverse();
    }
    if let Some(after) = after {
        let at = inputs.iter().position(|item| item.id == after);
        let at = at.ok_or_else(|| {
            Error::invalid_field("after", "must be the ID of an item in this list")
        })?;
        inputs.drain(..=at);
    }
    let has_more = inputs.len() > limit as usize;
    inputs.truncate(limit as usize);
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

fn parse_response_id(response: &str) -> Result<TurnId> {
    Ok(parse_response_field("response_id", response)?)
}

fn parse_response_field(field: &'static str, response: &str) -> Result<TurnId, FieldError> {
    let expected = "must be an ID that begins with resp_";
    TurnId::parse(
        field,
        response.strip_prefix(RESPONSE_PREFIX).ok_or(FieldError::new(field, expected))?,
    )
}
