//! `POST /v1/chat/completions`.

use super::chat_completion_request::RawCompletionRequest;
use super::chat_completion_response::{CompletionChunkStream, collect_completion};
use super::{SESSION_HEADER, errors};
use crate::chat::{CallerStatus, Passthrough, Prompt, RawResponse, ReplyStream, TurnRequest};
use crate::domain::{Principal, SessionId};
use crate::error::{Error, Result};
use crate::http::ApiState;
use crate::http::auth_middleware::{CurrentUser, TurnAdmission, audit_session};
use crate::http::body::RawChatBody;
use crate::http::envelope::ApiResult;
use crate::http::extract::{NoQueryParams, derive_retry_key, read_idempotency_key};
use crate::http::sse;
use crate::store::{OnBusy, SessionTarget};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use tokio::task::spawn_blocking;

const ROUTE: &str = "POST /v1/chat/completions";
/// Longer bodies are read on a thread that may block.
const INLINE_PARSE_LIMIT: usize = 256 << 10;

/// What a request turned out to be.
enum CompletionTarget {
    /// For the provider; as a prompt for one that does not speak Chat Completions.
    Stateless { body: Bytes, prompt: Result<Box<Prompt>> },
    /// A turn of a session.
    Turn(Box<TurnRequest>),
}

/// How the answer is wanted.
struct CompletionOptions {
    model: String,
    is_stream: bool,
    includes_usage: bool,
}

/// Ask for a chat completion, in OpenAI's shape. Without a session the request goes to the provider
/// as it is. With `session_id` in the body, or the header `x-echoic-session`, its last message is a
/// turn of that session, which is created if there is none; the messages before it are what the
/// session says they are, but for instructions in front of everything.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "openai",
    request_body(content = Object, description = "OpenAI's, and `session_id`"),
    params(
        ("x-echoic-session" = Option<String>, Header, description = "The session, if the body names none"),
        ("Idempotency-Key" = Option<String>, Header, description = "With a session: a repetition joins the turn or gives its reply, for 24 hours"),
        ("x-stainless-retry-count" = Option<u32>, Header, description = "With a session: above 0, the same body within two minutes is the same turn"),
    ),
    responses(
        (status = 200, description = "A completion, or with `stream` its chunks", body = Object),
        (status = "default", description = "An error in OpenAI's shape"),
    )
)]
pub(in crate::http) async fn create_chat_completion(
    State(api): State<ApiState>,
    _query: NoQueryParams,
    CurrentUser(who): CurrentUser,
    TurnAdmission(standing): TurnAdmission,
    headers: HeaderMap,
    RawChatBody(bytes): RawChatBody,
) -> ApiResult<Response> {
    let (wanted, manner) = if bytes.len() <= INLINE_PARSE_LIMIT {
        parse_completion_request(&api, &who, &headers, &bytes)?
    } else {
        let (api, who) = (api.clone(), who.clone());
        let reading =
            spawn_blocking(move || parse_completion_request(&api, &who, &headers, &bytes));
        reading.await.map_err(Error::internal)??
    };
    match wanted {
        CompletionTarget::Turn(turn) => {
            audit_session(&who, "/v1/chat/completions", turn.session.id());
            let hearing =
                api.chat.stream_turn(TurnRequest { caller_status: standing, ..*turn }).await?;
            let session = hearing.session_id.as_ref().map(|id| HeaderValue::from_str(id.as_str()));
            let answered = respond_with_completion(&api, hearing, manner).await;
            let mut response = answered.unwrap_or_else(errors::non_retryable_response);
            if let Some(Ok(session)) = session {
                response.headers_mut().insert(SESSION_HEADER, session);
            }
            Ok(response)
        }
        CompletionTarget::Stateless { body, prompt } => {
            let direct = api.chat.begin_metered_call(&who, standing).await?;
            match api.chat.forward_request(body, &manner.model, manner.is_stream, direct).await? {
                Passthrough::Response(answer) => Ok(respond_with_raw(answer)),
                Passthrough::Unsupported(direct) => {
                    let prompt = prompt?;
                    respond_with_completion(
                        &api,
                        api.chat.stream_completion(&prompt, direct).await?,
                        manner,
                    )
                    .await
                }
            }
        }
    }
}

fn parse_completion_request(
    api: &ApiState,
    who: &Principal,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Result<(CompletionTarget, CompletionOptions)> {
    let request = RawCompletionRequest::parse(bytes)?;
    let default = api.memory.default_model();
    let manner = CompletionOptions {
        model: request.model()?.unwrap_or_else(|| default.to_owned()),
        is_stream: request.is_stream()?,
        includes_usage: request.includes_usage()?,
    };
    let Some(session) = requested_session(&request, headers)? else {
        let prompt =
            request.check_supported().and_then(|()| request.build_prompt(default)).map(Box::new);
        return Ok((
            CompletionTarget::Stateless { body: request.build_provider_body(default)?, prompt },
            manner,
        ));
    };
    request.check_supported()?;
    let idempotency = match read_idempotency_key(headers, ROUTE, bytes)? {
        Some(key) => key,
        None => {
            derive_retry_key(headers, ROUTE, &[session.as_str().as_bytes(), b"\n", bytes].concat())
        }
    };
    let turn = TurnRequest {
        principal: who.clone(),
        session: SessionTarget::Ensure(session),
        project_id: None,
        preceding: Vec::new(),
        intent: request.parse_intent(api)?,
        settings: request.parse_settings(api)?,
        on_busy: OnBusy::Reject,
        idempotency_key: Some(idempotency),
        caller_status: CallerStatus::default(),
    };
    Ok((CompletionTarget::Turn(Box::new(turn)), manner))
}

/// The session that the body names, else the header.
fn requested_session(
    request: &RawCompletionRequest<'_>,
    headers: &HeaderMap,
) -> Result<Option<SessionId>> {
    if let Some(id) = request.session_id()? {
        return Ok(Some(SessionId::parse("session_id", &id)?));
    }
    let Some(header) = headers.get(SESSION_HEADER) else { return Ok(None) };
    Ok(Some(SessionId::parse(SESSION_HEADER, header.to_str().unwrap_or_default())?))
}

async fn respond_with_completion(
    api: &ApiState,
    hearing: ReplyStream,
    manner: CompletionOptions,
) -> ApiResult<Response> {
    let CompletionOptions { model, is_stream, includes_usage } = manner;
    if !is_stream {
        return Ok(Json(collect_completion(hearing, model).await?).into_response());
    }
    let chunks = CompletionChunkStream::start(hearing, model, includes_usage).await?;
    Ok(sse::stream_with_heartbeat(chunks, api.heartbeat))
}

/// The provider's answer as it comes; should it break off, the end of a stream says so.
fn respond_with_raw(answer: RawResponse) -> Response {
    let RawResponse { status, content_type, retry_after, body } = answer;
    let is_stream = content_type.starts_with("text/event-stream");
    let body = body.scan(false, move |is_over, piece| {
        let piece = match piece {
            _ if *is_over => None,
            Ok(piece) => Some(Ok(piece)),
            Err(error) if is_stream => {
                *is_over = true;
                let told = errors::encode_error(&error.into());
                Some(Ok(Bytes::from(format!("\n\ndata: {told}\n\n"))))
            }
            Err(error) => Some(Err(error)),
        };
        std::future::ready(piece)
    });
    let mut response = Response::new(Body::from_stream(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(&content_type) {
        headers.insert(CONTENT_TYPE, content_type);
    }
    if let Some(pause) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs_f64().ceil() as u64));
    }
    if is_stream {
        sse::disable_buffering(headers);
    }
    response
}
