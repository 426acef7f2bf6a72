//! `/v1/responses`: turns as OpenAI's Responses.
//!
//! A response is a turn: its id is `resp_` and the turn's. What its request said is kept beside the
//! messages, in the response's own words; what it says, and how it ended, is told by the reply
//! itself. Only with `store: false`, and without a conversation, nothing is stored.
//! Shapes: <https://platform.openai.com/docs/api-reference/responses>.

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
use crate::http::auth_middleware::{TurnAdmission, audit_session};
use crate::http::body::RawChatBody;
use crate::http::envelope::ApiResult;
use crate::http::extract::{CurrentUser, NoQueryParams, derive_retry_key, read_idempotency_key};
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

/// What stands before a turn's id.
const RESPONSE_PREFIX: &str = "resp_";
const ROUTE: &str = "POST /v1/responses";
/// Longer bodies are read on a thread that may block.
const INLINE_PARSE_LIMIT: usize = 256 << 10;

/// Ask for a response. In a `conversation`, or behind a `previous_response_id`, it is a turn of that
/// session; else of a new session of its own. With `store: false`, and without either, nothing is
/// stored.
#[utoipa::path(
    post, path = "/v1/responses", tag = "openai",
    request_body(content = Object, description = "OpenAI's"),
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "A repetition is the same response, for 24 hours"),
        ("x-stainless-retry-count" = Option<u32>, Header, description = "Above 0, the same body within two minutes is the same response"),
    ),
    responses(
        (status = 200, description = "A response, or with `stream` its events", body = Object),
        (status = "default", description = "An error in OpenAI's shape"),
    )
)]
pub(in crate::http) async fn create_response(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    TurnAdmission(standing): TurnAdmission,
    headers: HeaderMap,
    RawChatBody(bytes): RawChatBody,
) -> ApiResult<Response> {
    let key = match read_idempotency_key(&headers, ROUTE, &bytes)? {
        Some(key) => key,
        None => derive_retry_key(&headers, ROUTE, &bytes),
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
    let items = resolve_references(&api, &who, conversation, items).await?;
    let input = ResponseInput::from_items(items, api.size_limits.message)?;
    if matches!(request.parent, ResponseParent::None) {
        // What is returned without a call before it goes on from something.
        check_tool_results(&input.tool_results, &[])?;
    }
    if !request.is_stored && !matches!(request.parent, ResponseParent::Conversation(_)) {
        return create_unstored(&api, &who, standing, request.with_input(input)).await;
    }
    let (session, reply) = resolve_target(&api, &who, &request.parent).await?;
    audit_session(&who, "/v1/responses", session.id());
    let may_be_known = key.retry_window != RetryWindow::Disabled;
    let input = resolve_outputs(&api, &who, input, &session, reply.as_ref(), may_be_known).await?;
    let request = request.with_input(input);
    let StoredRequest { is_background, is_stream, .. } = request.stored_request;
    let (earlier, wish) =
        CreateResponseRequest::build_intent(request.input, reply, api.size_limits.message);
    let turn = TurnRequest {
        principal: who.clone(),
        session,
        project_id: None,
        preceding: earlier,
        intent: wish,
        settings: request.settings,
        on_busy: OnBusy::Reject,
        idempotency_key: Some(key),
        caller_status: standing,
    };
    let (hearing, stored) = if request.is_stored {
        let kept = request.stored_request.to_json()?;
        let is_taped = is_background && is_stream;
        api.chat.start_response(turn, kept, is_taped).await.map_err(rename_results_error)?
    } else {
        (api.chat.stream_turn(turn).await.map_err(rename_results_error)?, None)
    };
    let head = match &stored {
        // Of a request that came before, as it was told then.
        Some((stored, _)) => ResponseHeader::from_stored(stored)?,
        None => ResponseHeader::new(&hearing, &request.stored_request),
    };
    let ReplyStream { reply_id: reply, session_id: session, events, .. } = hearing;
    let name = session.as_ref().map(|id| HeaderValue::from_str(id.as_str()));
    let place =
        session.map(|session| ReplyLookup { api: api.clone(), principal: who.clone(), session });
    let telling = ResponseEventStream::new(head, reply, place, events);
    let answered = match stored {
        Some(_) if is_background && is_stream => {
            Ok(sse::stream_with_heartbeat(telling.into_background(None), api.heartbeat))
        }
        Some((_, true)) if is_background => Ok(Json(telling.queued_response()).into_response()),
        Some((stored, false)) if is_background => {
            let (session, _) = api.store.get_response(&who, &stored.turn_id).await?;
            Ok(Json(load_response_object(&api, &who, &session, &stored).await?).into_response())
        }
        _ => respond_with_response(&api, telling, is_stream).await,
    };
    let mut response = answered.unwrap_or_else(non_retryable_response);
    if let Some(Ok(name)) = name {
        response.headers_mut().insert(SESSION_HEADER, name);
    }
    Ok(response)
}

/// The session of a turn, and the reply that it stands under if it does not stand at the end.
async fn resolve_target(
    api: &ApiState,
    who: &Principal,
    place: &ResponseParent,
) -> Result<(SessionTarget, Option<MessageId>)> {
    Ok(match place {
        ResponseParent::None => (SessionTarget::New(SessionId::generate()), None),
        ResponseParent::Conversation(session) => (SessionTarget::Existing(session.clone()), None),
        ResponseParent::PreviousResponse(turn) => {
            let (session, response) = find_previous_response(api, who, turn).await?;
            (SessionTarget::Existing(session), Some(response.reply_id))
        }
    })
}

/// Makes a message of what was returned, where more is said behind it: what answers the calls of the
/// reply that it goes on from.
async fn resolve_outputs(
    api: &ApiState,
    who: &Principal,
    mut input: ResponseInput,
    session: &SessionTarget,
    reply: Option<&MessageId>,
    may_be_known: bool,
) -> Result<ResponseInput> {
    if input.tool_results.is_empty() || input.last.is_none() {
        return Ok(input);
    }
    let calls = match reply {
        Some(reply) => {
            tool::parse_calls(&api.store.get_message(who, session.id(), reply).await?.parts)
        }
        None => {
            let (view, slice, limit) = (MessageView::Path, MessageSlice::Newest, MAX_PAGE_SIZE);
            let query = MessageQuery { view, slice, limit };
            let mut path = api.store.list_messages(who, session.id(), query).await?.messages;
            if may_be_known {
                // The first such request may have been answered.
                path.truncate(input.find_calling_reply(&path).map_or(0, |at| at + 1));
            }
            input = input.remove_known(&path);
            path.last().map(|head| tool::parse_calls(&head.parts)).unwrap_or_default()
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

/// The complaint about results, by the name that they have in this body.
fn rename_results_error(error: Error) -> Error {
    let complaint = error.details.as_ref().and_then(|details| details.get("messages"));
    match complaint.and_then(Value::as_str) {
        Some(wants) if error.kind == ErrorKind::InvalidRequest => {
            Error::invalid_field("input", wants.to_owned())
        }
        _ => error,
    }
}

/// The response that another one goes on from. Errors: `previous_response_not_found`.
async fn find_previous_response(
    api: &ApiState,
    who: &Principal,
    turn: &TurnId,
) -> Result<(SessionId, StoredResponse)> {
    api.store.get_response(who, turn).await.map_err(|error| match error.kind {
        ErrorKind::ResponseNotFound => Error::new(
            ErrorKind::PreviousResponseNotFound,
            format!("previous response with id '{RESPONSE_PREFIX}{turn}' not found"),
        ),
        _ => error,
    })
}

/// A response that is stored nowhere, though it may go on from one that is.
async fn create_unstored(
    api: &ApiState,
    who: &Principal,
    standing: CallerStatus,
    request: CreateResponseRequest,
) -> ApiResult<Response> {
    let place = api.chat.begin_metered_call(who, standing).await?;
    let prompt = match &request.parent {
        ResponseParent::PreviousResponse(turn) => {
            let (session, response) = find_previous_response(api, who, turn).await?;
            audit_session(who, "/v1/responses", &session);
            let session = api.store.get_session(who, &session, AccessLevel::Participant).await?;
            request.build_prompt_after(api, &session, &response.reply_id).await?
        }
        _ => request.build_prompt(api.memory.default_model()),
    };
    let hearing = api.chat.stream_completion(&prompt, place).await?;
    let head = ResponseHeader::new(&hearing, &request.stored_request);
    let telling = ResponseEventStream::new(head, hearing.reply_id, None, hearing.events);
    respond_with_response(api, telling, request.stored_request.is_stream).await
}

/// The whole response, or its events once its first word has come: until then a failure is an answer
/// of its own.
async fn respond_with_response(
    api: &ApiState,
    mut telling: ResponseEventStream,
    is_stream: bool,
) -> ApiResult<Response> {
    if !is_stream {
        return Ok(Json(telling.collect().await?).into_response());
    }
    telling.start().await?;
    Ok(sse::stream_with_heartbeat(telling, api.heartbeat))
}

/// Get a response; with `stream=true`, which is for those made with `background` and `stream`, its
/// events, the same as the first reader got, behind the sequence number `starting_after`.
#[utoipa::path(
    get, path = "/v1/responses/{response}", tag = "openai",
    params(
        ("response" = String, Path, description = "`resp_<turnId>`"),
        ("stream" = Option<bool>, Query),
        ("starting_after" = Option<u32>, Query, description = "With `stream`: the last event that was read"),
    ),
    responses(
        (status = 200, description = "The response, or its events", body = Object),
        (status = "default", description = "An error in OpenAI's shape"),
    )
)]
pub(in crate::http) async fn get_response(
    State(api): State<ApiState>,
    mut query: QueryParams,
    CurrentUser(who): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let is_stream =
        query.take_choice("stream", &[("true", true), ("false", false)]).unwrap_or(false);
    let starting_after = query.take_number("starting_after", 0..=u32::MAX);
    for unknown_here in ["include", "include[]", "include_obfuscation"] {
        query.ignore(unknown_here);
    }
    if starting_after.is_some() && !is_stream {
        query.add_error("starting_after", "must come with stream=true");
    }
    query.finish()?;
    let (session, stored) = api.store.get_response(&who, &parse_response_id(&id)?).await?;
    if !is_stream {
        return Ok(Json(load_response_object(&api, &who, &session, &stored).await?).into_response());
    }
    let kept = StoredRequest::from_stored(&stored)?;
    if !(kept.is_background && kept.is_stream) {
        let wants = "must be left out: the response was not created with background and stream";
        return Err(Error::invalid_field("stream", wants));
    }
    let heard = api.chat.replay_response(&who, &session, &stored).await?;
    let (head, reply) = (ResponseHeader::from_stored(&stored)?, stored.reply_id);
    let place = Some(ReplyLookup { api: api.clone(), principal: who, session });
    let telling =
        ResponseEventStream::new(head, reply, place, heard).into_background(starting_after);
    Ok(sse::stream_with_heartbeat(telling, api.heartbeat))
}

/// The response as it stands now.
async fn load_response_object(
    api: &ApiState,
    who: &Principal,
    session: &SessionId,
    stored: &StoredResponse,
) -> Result<Value> {
    let head = ResponseHeader::from_stored(stored)?;
    // In this order: what is not running any more is stored.
    let active = api.store.get_session(who, session, AccessLevel::Participant).await?.active_turn;
    if active.is_some_and(|active| active.turn_id == stored.turn_id) {
        return Ok(head.to_response_json(ResponseState::started("in_progress")));
    }
    Ok(match api.store.get_message(who, session, &stored.reply_id).await {
        Ok(reply) => head.to_response_json(ResponseState::from_reply(&reply)),
        // Its reply could not be stored.
        Err(error) if error.kind == ErrorKind::MessageNotFound => {
            head.to_response_json(ResponseState::missing_reply())
        }
        Err(error) => return Err(error),
    })
}

/// Stop a response that was made with `background`; what it said so far is kept. One that is over
/// stays as it is.
#[utoipa::path(
    post, path = "/v1/responses/{response}/cancel", tag = "openai",
    params(("response" = String, Path)),
    responses(
        (status = 200, description = "The response", body = Object),
        (status = "default", description = "An error in OpenAI's shape"),
    )
)]
pub(in crate::http) async fn cancel_response(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let (session, stored) = api.store.get_response(&who, &parse_response_id(&id)?).await?;
    if !StoredRequest::from_stored(&stored)?.is_background {
        let wants =
            "must name a response that was created with background: close the connection of others";
        return Err(Error::invalid_field("response_id", wants));
    }
    api.chat.cancel_turns(&who, &session, Some(&stored.turn_id)).await?;
    Ok(Json(load_response_object(&api, &who, &session, &stored).await?))
}

/// What was deleted.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct DeletedResponse {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// Delete a response. Its messages stay in its conversation; a session that holds nothing but them,
/// because the response was made without a conversation, goes with it.
#[utoipa::path(
    delete, path = "/v1/responses/{response}", tag = "openai",
    params(("response" = String, Path)),
    responses((status = 200, body = DeletedResponse), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn delete_response(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Json<DeletedResponse>> {
    let (session, stored) = api.store.get_response(&who, &parse_response_id(&id)?).await?;
    if stored.user != who.user {
        api.store.get_session(&who, &session, AccessLevel::Owner).await?;
    }
    let kept = StoredRequest::from_stored(&stored)?;
    api.chat.cancel_turns(&who, &session, Some(&stored.turn_id)).await?;
    let messages =
        api.store.get_session(&who, &session, AccessLevel::Participant).await?.messages_count;
    let is_all_there_is = kept.is_own_session && messages as usize == kept.inputs + 1;
    if is_all_there_is {
        api.chat.delete_session(&who, &session).await?;
    } else {
        api.store.delete_response(&stored.turn_id).await?;
    }
    Ok(Json(DeletedResponse { id, object: "response", deleted: true }))
}

/// List the items that a response was asked with, the newest first.
#[utoipa::path(
    get, path = "/v1/responses/{response}/input_items", tag = "openai",
    params(
        ("response" = String, Path),
        ("after" = Option<String>, Query, description = "The item that the page follows"),
        ("limit" = Option<u32>, Query, description = "From 1 to 100, 20 by default"),
        ("order" = Option<String>, Query, description = "desc (default) or asc"),
    ),
    responses((status = 200, body = ItemList), (status = "default", description = "An error in OpenAI's shape"))
)]
pub(in crate::http) async fn list_response_input_items(
    State(api): State<ApiState>,
    mut query: QueryParams,
    CurrentUser(who): CurrentUser,
    Path(id): Path<String>,
) -> ApiResult<Json<ItemList>> {
    let limit = query.take_number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(20);
    let is_newest_first =
        query.take_choice("order", &[("desc", true), ("asc", false)]).unwrap_or(true);
    let after = query.take_text("after");
    conversation_items::ignore_include(&mut query);
    query.finish()?;
    let (session, stored) = api.store.get_response(&who, &parse_response_id(&id)?).await?;
    let mut inputs = load_input_items(&api, &who, &session, &stored).await?;
    if is_newest_first {
        inputs.reverse();
    }
    if let Some(after) = after {
        let at = inputs.iter().position(|item| item.id == after);
        let at =
            at.ok_or_else(|| Error::invalid_field("after", "must name an item of this list"))?;
        inputs.drain(..=at);
    }
    let has_more = inputs.len() > limit as usize;
    inputs.truncate(limit as usize);
    Ok(Json(ItemList::new(inputs, has_more)))
}

/// The items that a response was asked with, the oldest first: those of the message that it answers,
/// and of the messages that were stored before it.
async fn load_input_items(
    api: &ApiState,
    who: &Principal,
    session: &SessionId,
    stored: &StoredResponse,
) -> Result<Vec<ConversationItem>> {
    let mut messages = Vec::new();
    let mut next = Some(stored.user_message_id.clone());
    for _ in 0..StoredRequest::from_stored(stored)?.inputs {
        let Some(id) = next else { break };
        let message = api.store.get_message(who, session, &id).await?;
        next = message.parent_id.clone();
        messages.push(message);
    }
    Ok(messages.iter().rev().flat_map(to_items).collect())
}

fn parse_response_id(response: &str) -> Result<TurnId> {
    Ok(parse_response_field("response_id", response)?)
}

fn parse_response_field(field: &'static str, response: &str) -> Result<TurnId, FieldError> {
    let wants = "must be an ID that begins with resp_";
    TurnId::parse(
        field,
        response.strip_prefix(RESPONSE_PREFIX).ok_or(FieldError::new(field, wants))?,
    )
}
