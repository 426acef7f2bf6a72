//! `POST /v1/chat/completions`.

use super::completion::{Chunks, whole};
use super::request::Request;
use super::{SESSION, errors};
use crate::chat::{CallerStatus, Passthrough, Prompt, RawResponse, ReplyStream, TurnRequest};
use crate::domain::{Principal, SessionId};
use crate::error::{Error, Result};
use crate::http::Api;
use crate::http::body::ChatBytes;
use crate::http::envelope::Answer;
use crate::http::extract::{NoQuery, idempotency, retry};
use crate::http::gate::{Asked, Caller, note_session};
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
const SHORT_BODY: usize = 256 << 10;

/// What a request turned out to be.
enum Wanted {
    /// For the provider; as a prompt for one that does not speak Chat Completions.
    Alone { body: Bytes, prompt: Result<Box<Prompt>> },
    /// A turn of a session.
    Turn(Box<TurnRequest>),
}

/// How the answer is wanted.
struct Manner {
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
pub(in crate::http) async fn create(
    State(api): State<Api>,
    _query: NoQuery,
    Caller(who): Caller,
    Asked(standing): Asked,
    headers: HeaderMap,
    ChatBytes(bytes): ChatBytes,
) -> Answer<Response> {
    let (wanted, manner) = if bytes.len() <= SHORT_BODY {
        read(&api, &who, &headers, &bytes)?
    } else {
        let (api, who) = (api.clone(), who.clone());
        let reading = spawn_blocking(move || read(&api, &who, &headers, &bytes));
        reading.await.map_err(Error::internal)??
    };
    match wanted {
        Wanted::Turn(turn) => {
            note_session(&who, "/v1/chat/completions", turn.session.id());
            let hearing =
                api.chat.stream_turn(TurnRequest { caller_status: standing, ..*turn }).await?;
            let session = hearing.session_id.as_ref().map(|id| HeaderValue::from_str(id.as_str()));
            let answered = answer(&api, hearing, manner).await;
            let mut response = answered.unwrap_or_else(errors::finally);
            if let Some(Ok(session)) = session {
                response.headers_mut().insert(SESSION, session);
            }
            Ok(response)
        }
        Wanted::Alone { body, prompt } => {
            let direct = api.chat.begin_metered_call(&who, standing).await?;
            match api.chat.forward_request(body, &manner.model, manner.is_stream, direct).await? {
                Passthrough::Response(answer) => Ok(passed(answer)),
                Passthrough::Unsupported(direct) => {
                    let prompt = prompt?;
                    answer(&api, api.chat.stream_completion(&prompt, direct).await?, manner).await
                }
            }
        }
    }
}

fn read(
    api: &Api,
    who: &Principal,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Result<(Wanted, Manner)> {
    let request = Request::read(bytes)?;
    let default = api.memory.default_model();
    let manner = Manner {
        model: request.model()?.unwrap_or_else(|| default.to_owned()),
        is_stream: request.is_stream()?,
        includes_usage: request.includes_usage()?,
    };
    let Some(session) = session(&request, headers)? else {
        let prompt = request.ensure_plain().and_then(|()| request.prompt(default)).map(Box::new);
        return Ok((Wanted::Alone { body: request.body(default)?, prompt }, manner));
    };
    request.ensure_plain()?;
    let idempotency = match idempotency(headers, ROUTE, bytes)? {
        Some(key) => key,
        None => retry(headers, ROUTE, &[session.as_str().as_bytes(), b"\n", bytes].concat()),
    };
    let turn = TurnRequest {
        principal: who.clone(),
        session: SessionTarget::Ensure(session),
        project_id: None,
        preceding: Vec::new(),
        intent: request.wish(api)?,
        settings: request.settings(api)?,
        on_busy: OnBusy::Reject,
        idempotency_key: Some(idempotency),
        caller_status: CallerStatus::default(),
    };
    Ok((Wanted::Turn(Box::new(turn)), manner))
}

/// The session that the body names, else the header.
fn session(request: &Request<'_>, headers: &HeaderMap) -> Result<Option<SessionId>> {
    if let Some(id) = request.session_id()? {
        return Ok(Some(SessionId::parse("session_id", &id)?));
    }
    let Some(header) = headers.get(SESSION) else { return Ok(None) };
    Ok(Some(SessionId::parse(SESSION, header.to_str().unwrap_or_default())?))
}

async fn answer(api: &Api, hearing: ReplyStream, manner: Manner) -> Answer<Response> {
    let Manner { model, is_stream, includes_usage } = manner;
    if !is_stream {
        return Ok(Json(whole(hearing, model).await?).into_response());
    }
    let chunks = Chunks::begin(hearing, model, includes_usage).await?;
    Ok(sse::warm(chunks, api.heartbeat))
}

/// The provider's answer as it comes; should it break off, the end of a stream says so.
fn passed(answer: RawResponse) -> Response {
    let RawResponse { status, content_type, retry_after, body } = answer;
    let is_stream = content_type.starts_with("text/event-stream");
    let body = body.scan(false, move |is_over, piece| {
        let piece = match piece {
            _ if *is_over => None,
            Ok(piece) => Some(Ok(piece)),
            Err(error) if is_stream => {
                *is_over = true;
                let told = errors::body(&error.into());
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
        sse::never_kept(headers);
    }
    response
}
