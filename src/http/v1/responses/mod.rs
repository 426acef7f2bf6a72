//! `/v1/responses`: turns as OpenAI's Responses.
//!
//! A response is a turn: its id is `resp_` and the turn's. What its request said is kept beside the
//! messages, in the response's own words; what it says, and how it ended, is told by the reply
//! itself. Only with `store: false`, and without a conversation, nothing is stored.
//! Shapes: <https://platform.openai.com/docs/api-reference/responses>.

mod echo;
mod events;
mod input;
mod object;
mod request;

use super::SESSION;
use super::errors::finally;
use super::item::{Item, items_of};
use super::items::{self, ItemList};
use crate::chat::{CallerStatus, ReplyStream, TurnRequest};
use crate::domain::page::{MAX_PAGE_SIZE, MessageSlice, MessageView};
use crate::domain::principal::AccessLevel;
use crate::domain::{FieldError, MessageId, Principal, SessionId, TurnId, tool};
use crate::error::{Error, Kind, Result};
use crate::http::Api;
use crate::http::body::ChatBytes;
use crate::http::envelope::Answer;
use crate::http::extract::{Caller, NoQuery, idempotency, retry};
use crate::http::gate::{Asked, note_session};
use crate::http::query::Query;
use crate::http::sse;
use crate::store::{MessageQuery, OnBusy, RetryWindow, SessionTarget, StoredResponse};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use events::{Stored, Telling};
use input::{Input, ensure_all, message_of, resolve};
use object::{Head, Kept, Told};
use request::{Request, Where};
use serde::Serialize;
use serde_json::Value;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

/// What stands before a turn's id.
const PREFIX: &str = "resp_";
const ROUTE: &str = "POST /v1/responses";
/// Longer bodies are read on a thread that may block.
const SHORT_BODY: usize = 256 << 10;

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
pub(in crate::http) async fn create(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    Asked(standing): Asked,
    headers: HeaderMap,
    ChatBytes(bytes): ChatBytes,
) -> Answer<Response> {
    let key = match idempotency(&headers, ROUTE, &bytes)? {
        Some(key) => key,
        None => retry(&headers, ROUTE, &bytes),
    };
    let mut request = if bytes.len() <= SHORT_BODY {
        Request::read(&api, &bytes)?
    } else {
        let api = api.clone();
        spawn_blocking(move || Request::read(&api, &bytes)).await.map_err(Error::internal)??
    };
    let conversation = match &request.place {
        Where::Conversation(session) => Some(session),
        Where::Nowhere | Where::Behind(_) => None,
    };
    let items = std::mem::take(&mut request.items);
    let items = resolve(&api, &who, conversation, items).await?;
    let input = Input::of(items, api.limits.message)?;
    if matches!(request.place, Where::Nowhere) {
        // What is returned without a call before it goes on from something.
        ensure_all(&input.returned, &[])?;
    }
    if !request.is_stored && !matches!(request.place, Where::Conversation(_)) {
        return beside(&api, &who, standing, request.saying(input)).await;
    }
    let (session, reply) = target(&api, &who, &request.place).await?;
    note_session(&who, "/v1/responses", session.id());
    let may_be_known = key.retry_window != RetryWindow::Disabled;
    let input = answering(&api, &who, input, &session, reply.as_ref(), may_be_known).await?;
    let request = request.saying(input);
    let Kept { is_background, is_stream, .. } = request.kept;
    let (earlier, wish) = Request::wish(request.input, reply, api.limits.message);
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
        let kept = request.kept.to_json()?;
        let is_taped = is_background && is_stream;
        api.chat.start_response(turn, kept, is_taped).await.map_err(of_input)?
    } else {
        (api.chat.stream_turn(turn).await.map_err(of_input)?, None)
    };
    let head = match &stored {
        // Of a request that came before, as it was told then.
        Some((stored, _)) => Head::of(stored)?,
        None => Head::new(&hearing, &request.kept),
    };
    let ReplyStream { reply_id: reply, session_id: session, events, .. } = hearing;
    let name = session.as_ref().map(|id| HeaderValue::from_str(id.as_str()));
    let place = session.map(|session| Stored { api: api.clone(), who: who.clone(), session });
    let telling = Telling::new(head, reply, place, events);
    let answered = match stored {
        Some(_) if is_background && is_stream => {
            Ok(sse::warm(telling.in_background(None), api.heartbeat))
        }
        Some((_, true)) if is_background => Ok(Json(telling.queued()).into_response()),
        Some((stored, false)) if is_background => {
            let (session, _) = api.store.get_response(&who, &stored.turn_id).await?;
            Ok(Json(told(&api, &who, &session, &stored).await?).into_response())
        }
        _ => answer(&api, telling, is_stream).await,
    };
    let mut response = answered.unwrap_or_else(finally);
    if let Some(Ok(name)) = name {
        response.headers_mut().insert(SESSION, name);
    }
    Ok(response)
}

/// The session of a turn, and the reply that it stands under if it does not stand at the end.
async fn target(
    api: &Api,
    who: &Principal,
    place: &Where,
) -> Result<(SessionTarget, Option<MessageId>)> {
    Ok(match place {
        Where::Nowhere => (SessionTarget::New(SessionId::generate()), None),
        Where::Conversation(session) => (SessionTarget::Existing(session.clone()), None),
        Where::Behind(turn) => {
            let (session, response) = previous(api, who, turn).await?;
            (SessionTarget::Existing(session), Some(response.reply_id))
        }
    })
}

/// Makes a message of what was returned, where more is said behind it: what answers the calls of the
/// reply that it goes on from.
async fn answering(
    api: &Api,
    who: &Principal,
    mut input: Input,
    session: &SessionTarget,
    reply: Option<&MessageId>,
    may_be_known: bool,
) -> Result<Input> {
    if input.returned.is_empty() || input.last.is_none() {
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
                path.truncate(input.calling(&path).map_or(0, |at| at + 1));
            }
            input = input.without_known(&path);
            path.last().map(|head| tool::parse_calls(&head.parts)).unwrap_or_default()
        }
    };
    ensure_all(&input.returned, &calls)?;
    if input.last.is_none() {
        return Ok(input);
    }
    let results = std::mem::take(&mut input.returned);
    input.earlier.insert(0, message_of(&results, &calls, api.limits.message)?);
    Ok(input)
}

/// The complaint about results, by the name that they have in this body.
fn of_input(error: Error) -> Error {
    let complaint = error.details.as_ref().and_then(|details| details.get("messages"));
    match complaint.and_then(Value::as_str) {
        Some(wants) if error.kind == Kind::InvalidRequest => {
            Error::invalid_field("input", wants.to_owned())
        }
        _ => error,
    }
}

/// The response that another one goes on from. Errors: `previous_response_not_found`.
async fn previous(
    api: &Api,
    who: &Principal,
    turn: &TurnId,
) -> Result<(SessionId, StoredResponse)> {
    api.store.get_response(who, turn).await.map_err(|error| match error.kind {
        Kind::ResponseNotFound => Error::new(
            Kind::PreviousResponseNotFound,
            format!("previous response with id '{PREFIX}{turn}' not found"),
        ),
        _ => error,
    })
}

/// A response that is stored nowhere, though it may go on from one that is.
async fn beside(
    api: &Api,
    who: &Principal,
    standing: CallerStatus,
    request: Request,
) -> Answer<Response> {
    let place = api.chat.begin_metered_call(who, standing).await?;
    let prompt = match &request.place {
        Where::Behind(turn) => {
            let (session, response) = previous(api, who, turn).await?;
            note_session(who, "/v1/responses", &session);
            let session = api.store.get_session(who, &session, AccessLevel::Participant).await?;
            request.prompt_behind(api, &session, &response.reply_id).await?
        }
        _ => request.prompt(api.memory.default_model()),
    };
    let hearing = api.chat.stream_completion(&prompt, place).await?;
    let head = Head::new(&hearing, &request.kept);
    let telling = Telling::new(head, hearing.reply_id, None, hearing.events);
    answer(api, telling, request.kept.is_stream).await
}

/// The whole response, or its events once its first word has come: until then a failure is an answer
/// of its own.
async fn answer(api: &Api, mut telling: Telling, is_stream: bool) -> Answer<Response> {
    if !is_stream {
        return Ok(Json(telling.whole().await?).into_response());
    }
    telling.begin().await?;
    Ok(sse::warm(telling, api.heartbeat))
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
pub(in crate::http) async fn get(
    State(api): State<Api>,
    mut query: Query,
    Caller(who): Caller,
    Path(id): Path<String>,
) -> Answer<Response> {
    let is_stream = query.word("stream", &[("true", true), ("false", false)]).unwrap_or(false);
    let starting_after = query.number("starting_after", 0..=u32::MAX);
    for unknown_here in ["include", "include[]", "include_obfuscation"] {
        query.ignore(unknown_here);
    }
    if starting_after.is_some() && !is_stream {
        query.complain("starting_after", "must come with stream=true");
    }
    query.finish()?;
    let (session, stored) = api.store.get_response(&who, &turn_of(&id)?).await?;
    if !is_stream {
        return Ok(Json(told(&api, &who, &session, &stored).await?).into_response());
    }
    let kept = Kept::read(&stored)?;
    if !(kept.is_background && kept.is_stream) {
        let wants = "must be left out: the response was not created with background and stream";
        return Err(Error::invalid_field("stream", wants));
    }
    let heard = api.chat.replay_response(&who, &session, &stored).await?;
    let (head, reply) = (Head::of(&stored)?, stored.reply_id);
    let place = Some(Stored { api: api.clone(), who, session });
    let telling = Telling::new(head, reply, place, heard).in_background(starting_after);
    Ok(sse::warm(telling, api.heartbeat))
}

/// The response as it stands now.
async fn told(
    api: &Api,
    who: &Principal,
    session: &SessionId,
    stored: &StoredResponse,
) -> Result<Value> {
    let head = Head::of(stored)?;
    // In this order: what is not running any more is stored.
    let active = api.store.get_session(who, session, AccessLevel::Participant).await?.active_turn;
    if active.is_some_and(|active| active.turn_id == stored.turn_id) {
        return Ok(head.told(Told::begun("in_progress")));
    }
    Ok(match api.store.get_message(who, session, &stored.reply_id).await {
        Ok(reply) => head.told(Told::of(&reply)),
        // Its reply could not be stored.
        Err(error) if error.kind == Kind::MessageNotFound => head.told(Told::lost()),
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
pub(in crate::http) async fn cancel(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    let (session, stored) = api.store.get_response(&who, &turn_of(&id)?).await?;
    if !Kept::read(&stored)?.is_background {
        let wants =
            "must name a response that was created with background: close the connection of others";
        return Err(Error::invalid_field("response_id", wants));
    }
    api.chat.cancel_turns(&who, &session, Some(&stored.turn_id)).await?;
    Ok(Json(told(&api, &who, &session, &stored).await?))
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
pub(in crate::http) async fn delete(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    Path(id): Path<String>,
) -> Answer<Json<DeletedResponse>> {
    let (session, stored) = api.store.get_response(&who, &turn_of(&id)?).await?;
    if stored.user != who.user {
        api.store.get_session(&who, &session, AccessLevel::Owner).await?;
    }
    let kept = Kept::read(&stored)?;
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
pub(in crate::http) async fn input_items(
    State(api): State<Api>,
    mut query: Query,
    Caller(who): Caller,
    Path(id): Path<String>,
) -> Answer<Json<ItemList>> {
    let limit = query.number("limit", 1..=MAX_PAGE_SIZE).unwrap_or(20);
    let is_newest_first = query.word("order", &[("desc", true), ("asc", false)]).unwrap_or(true);
    let after = query.text("after");
    items::ignore_include(&mut query);
    query.finish()?;
    let (session, stored) = api.store.get_response(&who, &turn_of(&id)?).await?;
    let mut inputs = inputs(&api, &who, &session, &stored).await?;
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
async fn inputs(
    api: &Api,
    who: &Principal,
    session: &SessionId,
    stored: &StoredResponse,
) -> Result<Vec<Item>> {
    let mut messages = Vec::new();
    let mut next = Some(stored.user_message_id.clone());
    for _ in 0..Kept::read(stored)?.inputs {
        let Some(id) = next else { break };
        let message = api.store.get_message(who, session, &id).await?;
        next = message.parent_id.clone();
        messages.push(message);
    }
    Ok(messages.iter().rev().flat_map(items_of).collect())
}

fn turn_of(response: &str) -> Result<TurnId> {
    Ok(parsed_turn("response_id", response)?)
}

fn parsed_turn(field: &'static str, response: &str) -> Result<TurnId, FieldError> {
    let wants = "must be an ID that begins with resp_";
    TurnId::parse(field, response.strip_prefix(PREFIX).ok_or(FieldError::new(field, wants))?)
}
