//! `POST /v1/responses`: begins a turn, or calls the model without storing anything.

use super::event_stream::{ReplyLookup, ResponseEventStream};
use super::input::{ResponseInput, build_results_message, check_tool_results, resolve_references};
use super::known_items::{KnownHistory, may_repeat_history};
use super::request::{CreateResponseRequest, ResponseParent};
use super::response_object::{ResponseHeader, StoredRequest, load_response_object};
use crate::chat::{CallerStatus, ReplyStream, TurnRequest};
use crate::domain::page::{MAX_PAGE_SIZE, MessageSlice, MessageView};
use crate::domain::principal::AccessLevel;
use crate::domain::{MessageId, Principal, SessionId, TurnId, tool};
use crate::error::{Error, ErrorKind, Result};
use crate::http::ApiState;
use crate::http::auth_middleware::{CurrentUser, SessionAudit, TurnAdmission};
use crate::http::body::{RawChatBody, parse_large_body};
use crate::http::envelope::ApiResult;
use crate::http::idempotency::{IdempotencyScope, derive_retry_key, read_idempotency_key};
use crate::http::sse;
use crate::http::v1::errors::non_retryable_response;
use crate::http::v1::ids::format_response_id;
use crate::http::v1::insert_session_header;
use crate::store::{MessageQuery, OnBusy, RetryWindow, SessionTarget, StoredResponse};
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

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
    let parser = api.clone();
    let mut request =
        parse_large_body(bytes, move |bytes| CreateResponseRequest::parse(&parser, bytes)).await?;
    let input = resolve_input(&api, &principal, &mut request).await?;
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
    let CreateResponseRequest { is_stored, input, settings, stored_request: request, .. } =
        request.with_input(input);
    let (preceding, intent) =
        CreateResponseRequest::build_intent(input, reply, api.size_limits.message);
    let turn = TurnRequest {
        principal: principal.clone(),
        session,
        project_id: None,
        preceding,
        intent,
        settings,
        on_busy: OnBusy::Reject,
        idempotency_key: Some(key),
        caller_status,
    };
    let (reply, stored) = start_turn(&api, turn, is_stored, &request).await?;
    respond_with_turn(&api, principal, reply, stored, &request).await
}

/// Resolves the references of the input, and groups its items into messages.
async fn resolve_input(
    api: &ApiState,
    principal: &Principal,
    request: &mut CreateResponseRequest,
) -> Result<ResponseInput> {
    let mut items = std::mem::take(&mut request.items);
    let conversation = match &request.parent {
        ResponseParent::Conversation(session) => Some(session),
        ResponseParent::PreviousResponse(turn) if may_repeat_history(&items) => {
            let (session, response) = find_previous_response(api, principal, turn).await?;
            let reply = &response.reply_id;
            let history = KnownHistory::load(api, &session, reply, items.len()).await?;
            items = history.remove_known(items)?;
            None
        }
        ResponseParent::None | ResponseParent::PreviousResponse(_) => None,
    };
    let items = resolve_references(api, principal, conversation, items).await?;
    let input = ResponseInput::from_items(items, api.size_limits.message)?;
    // Calls in the list itself were matched above; the remaining `tool_results` refer to history.
    if matches!(request.parent, ResponseParent::None) {
        check_tool_results(&input.tool_results, &[])?;
    }
    Ok(input)
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
                with_siblings: false,
            };
            let mut path = api.store.list_messages(principal, session.id(), query).await?.messages;
            if may_be_retry {
                // The first attempt may have been stored, and even answered. Then the calls are no
                // longer at the end of the path, and the outputs would be refused before the retry
                // is recognized. So the path is cut back to the reply that made the calls.
                path.truncate(input.find_calling_reply(&path).map_or(0, |at| at + 1));
            }
            input = input.remove_known(&path);
            path.last().map(|last| tool::parse_calls(&last.parts)).unwrap_or_default()
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
            format!("previous response with id '{}' not found", format_response_id(turn.as_str())),
        ),
        _ => error,
    })
}

/// Begins a turn, and stores its response if `is_stored`. Returns the reply with the response, and
/// whether this request created the response; a retry gets that of the first request.
async fn start_turn(
    api: &ApiState,
    turn: TurnRequest,
    is_stored: bool,
    request: &StoredRequest,
) -> Result<(ReplyStream, Option<(StoredResponse, bool)>)> {
    if !is_stored {
        let reply = api.chat.stream_turn(turn).await.map_err(rename_results_error)?;
        return Ok((reply, None));
    }
    // Only these can be streamed again later, so only their events are recorded permanently.
    let is_recorded = request.is_background && request.is_stream;
    let started = api.chat.start_response(turn, request.to_json()?, is_recorded).await;
    started.map_err(rename_results_error)
}

async fn respond_with_turn(
    api: &ApiState,
    principal: Principal,
    reply: ReplyStream,
    stored: Option<(StoredResponse, bool)>,
    request: &StoredRequest,
) -> ApiResult<Response> {
    let header = match &stored {
        // For a retry this is the header of the first request.
        Some((stored, _)) => ResponseHeader::from_stored(stored)?,
        None => ResponseHeader::new(&reply, request),
    };
    let ReplyStream { reply_id, session_id, events, .. } = reply;
    let lookup = session_id.clone().map(|session| ReplyLookup {
        api: api.clone(),
        principal: principal.clone(),
        session,
    });
    let events = ResponseEventStream::new(header, reply_id, lookup, events);
    let is_background = request.is_background;
    let result = match stored {
        Some(_) if is_background && request.is_stream => {
            Ok(sse::stream_with_heartbeat(events.into_background(None), api.heartbeat))
        }
        // Dropping the stream does not stop the turn: the hub runs it independently of its readers.
        Some((_, true)) if is_background => Ok(Json(events.queued_response()).into_response()),
        // A retry: the response may have made progress or ended in the meantime.
        Some((stored, false)) if is_background => {
            let (session, _) = api.store.get_response(&principal, &stored.turn_id).await?;
            Ok(Json(load_response_object(api, &principal, &session, &stored).await?)
                .into_response())
        }
        _ => respond_with_response(api, events, request.is_stream).await,
    };
    let mut response = result.unwrap_or_else(non_retryable_response);
    insert_session_header(&mut response, session_id.as_ref());
    Ok(response)
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
