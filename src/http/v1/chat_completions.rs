//! `POST /v1/chat/completions`: a turn of a session, or a request forwarded to the provider.

use super::chat_completion_request::RawCompletionRequest;
use super::chat_completion_response::{CompletionChunkStream, collect_completion};
use super::{SESSION_HEADER, errors, insert_session_header};
use crate::chat::{CallerStatus, Passthrough, Prompt, RawResponse, ReplyStream, TurnRequest};
use crate::domain::{Principal, SessionId};
use crate::error::Result;
use crate::http::ApiState;
use crate::http::auth_middleware::{CurrentUser, SessionAudit, TurnAdmission};
use crate::http::body::{RawChatBody, parse_large_body};
use crate::http::envelope::ApiResult;
use crate::http::idempotency::{IdempotencyScope, derive_retry_key, read_idempotency_key};
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

/// The destination of a request.
enum CompletionTarget {
    /// The provider, without a session. `prompt` is used if the provider does not support Chat
    /// Completions; its error matters only then.
    Stateless {
        body: Bytes,
        prompt: Result<Box<Prompt>>,
    },
    Turn(Box<TurnRequest>),
}

/// Options that concern the format of the response.
struct CompletionOptions {
    model: String,
    is_stream: bool,
    includes_usage: bool,
}

/// Create a chat completion, in OpenAI's format.
///
/// Without a session the request is forwarded to the provider. With `session_id` in the body, or
/// the header `x-echoic-session`, its last message becomes a turn of that session, which is created
/// if it does not exist. Then the session's own history replaces the earlier messages, except for
/// leading system messages.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "openai",
    request_body(content = Object, description = "OpenAI's fields, and `session_id`"),
    params(
        ("x-echoic-session" = Option<String>, Header, description = "The session, if the body has no `session_id`"),
        ("Idempotency-Key" = Option<String>, Header, description = "With a session: a repeated request joins the running turn or replays its reply, for 24 hours"),
        ("x-stainless-retry-count" = Option<u32>, Header, description = "With a session: if above 0, the same body within two minutes is a retry of the same turn"),
    ),
    responses(
        (status = 200, description = "A completion; with `stream`, its chunks as server-sent events", body = Object),
        (status = "default", description = "An error in OpenAI's format"),
    )
)]
pub(in crate::http) async fn create_chat_completion(
    State(api): State<ApiState>,
    CurrentUser(principal): CurrentUser,
    TurnAdmission(caller_status): TurnAdmission,
    audit: SessionAudit,
    headers: HeaderMap,
    RawChatBody(bytes): RawChatBody,
) -> ApiResult<Response> {
    let parser = (api.clone(), principal.clone());
    let parse = move |bytes: &Bytes| {
        let (api, principal) = parser;
        parse_completion_request(&api, &principal, &headers, bytes)
    };
    let (target, options) = parse_large_body(bytes, parse).await?;
    match target {
        CompletionTarget::Turn(turn) => {
            audit.record(turn.session.id());
            let reply = api.chat.stream_turn(TurnRequest { caller_status, ..*turn }).await?;
            let session = reply.session_id.clone();
            let result = respond_with_completion(&api, reply, options).await;
            let mut response = result.unwrap_or_else(errors::non_retryable_response);
            insert_session_header(&mut response, session.as_ref());
            Ok(response)
        }
        CompletionTarget::Stateless { body, prompt } => {
            // Quotas are checked before the provider is asked, and the call is metered to its end.
            let call = api.chat.begin_metered_call(&principal, caller_status).await?;
            match api.chat.forward_request(body, &options.model, options.is_stream, call).await? {
                Passthrough::Response(raw) => Ok(respond_with_raw(raw)),
                Passthrough::Unsupported(call) => {
                    let prompt = prompt?;
                    respond_with_completion(
                        &api,
                        api.chat.stream_completion(&prompt, call).await?,
                        options,
                    )
                    .await
                }
            }
        }
    }
}

fn parse_completion_request(
    api: &ApiState,
    principal: &Principal,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Result<(CompletionTarget, CompletionOptions)> {
    let request = RawCompletionRequest::parse(bytes)?;
    let default = api.memory.default_model();
    let options = CompletionOptions {
        model: request.model()?.unwrap_or_else(|| default.to_owned()),
        is_stream: request.is_stream()?,
        includes_usage: request.includes_usage()?,
    };
    let Some(session) = requested_session(&request, headers)? else {
        // Unsupported parameters are an error only if the provider turns out to need the prompt.
        let prompt =
            request.check_supported().and_then(|()| request.build_prompt(default)).map(Box::new);
        return Ok((
            CompletionTarget::Stateless { body: request.build_provider_body(default)?, prompt },
            options,
        ));
    };
    request.check_supported()?;
    let scope = IdempotencyScope::ChatCompletion;
    let idempotency = match read_idempotency_key(headers, scope, bytes)? {
        Some(key) => key,
        None => {
            derive_retry_key(headers, scope, &[session.as_str().as_bytes(), b"\n", bytes].concat())
        }
    };
    let turn = TurnRequest {
        principal: principal.clone(),
        session: SessionTarget::Ensure(session),
        project_id: None,
        preceding: Vec::new(),
        intent: request.parse_intent(api)?,
        settings: request.parse_settings(api)?,
        on_busy: OnBusy::Reject,
        idempotency_key: Some(idempotency),
        caller_status: CallerStatus::default(),
    };
    Ok((CompletionTarget::Turn(Box::new(turn)), options))
}

/// The session named in the body, or else in the header.
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
    reply: ReplyStream,
    options: CompletionOptions,
) -> ApiResult<Response> {
    let CompletionOptions { model, is_stream, includes_usage } = options;
    if !is_stream {
        return Ok(Json(collect_completion(reply, model).await?).into_response());
    }
    let chunks = CompletionChunkStream::start(reply, model, includes_usage).await?;
    Ok(sse::stream_with_heartbeat(chunks, api.heartbeat))
}

/// Forwards the provider's response, its status and errors included.
fn respond_with_raw(raw: RawResponse) -> Response {
    let RawResponse { status, content_type, retry_after, body } = raw;
    let is_stream = content_type.starts_with("text/event-stream");
    let body = body.scan(false, move |is_over, chunk| {
        let chunk = match chunk {
            _ if *is_over => None,
            Ok(chunk) => Some(Ok(chunk)),
            // A client would take a stream that is cut off for a complete one, so an error event is
            // appended. The line breaks before it end an event that was cut in the middle.
            Err(error) if is_stream => {
                *is_over = true;
                let openai_error = errors::encode_error(&error.into());
                Some(Ok(Bytes::from(format!("\n\ndata: {openai_error}\n\n"))))
            }
            Err(error) => Some(Err(error)),
        };
        std::future::ready(chunk)
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
