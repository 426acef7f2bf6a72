//! The response envelope, and the mapping from error kinds to HTTP statuses.

use super::ApiState;
use crate::cpu_pool::run_cpu;
use crate::domain::UserId;
use crate::error::{Error, ErrorKind};
use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The return type of handlers.
pub(super) type ApiResult<T> = Result<T, Error>;

/// Longer responses are encoded on a thread for computing, and count against the user's budget of
/// bodies until they have been sent.
pub(super) const INLINE_ENCODE_LIMIT: usize = 256 << 10;

/// A successful response.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Envelope<T> {
    /// Always `true`.
    success: bool,
    /// The result as a sentence for people.
    message: &'static str,
    /// The requested object or list.
    data: T,
}

/// A successful response with status 200.
pub(super) fn ok_response<T: Serialize>(message: &'static str, data: T) -> Json<Envelope<T>> {
    Json(Envelope { success: true, message, data })
}

/// Builds and encodes a response of about `size` bytes, on a thread for computing if it is long, so
/// that the requests of others go on meanwhile.
pub(super) async fn encode_response<T, F>(
    api: &ApiState,
    user: &UserId,
    size: usize,
    build: F,
) -> ApiResult<Response>
where
    T: Serialize,
    F: FnOnce() -> Json<T> + Send + 'static,
{
    if size <= INLINE_ENCODE_LIMIT {
        return Ok(build().into_response());
    }
    let lease = api.body_budget.lease(user.clone());
    lease.take(size)?;
    let mut response = run_cpu(|| build().into_response()).await?;
    response.extensions_mut().insert(lease.clone());
    Ok(response.map(|body| lease.attach(body)))
}

/// A failed request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorResponse {
    /// Always `false`.
    success: bool,
    /// The cause as a sentence for people; its wording may change.
    message: String,
    error: ErrorObject,
}

/// The machine-readable cause of a failure.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorObject {
    /// A stable error code.
    code: &'static str,
    /// Details that depend on the code: the invalid fields with the reason for each, the running
    /// turn, or the limit and when to retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
}

/// The error of a response, as an extension for the request log and the OpenAI error encoding.
#[derive(Debug, Clone)]
pub(super) struct LoggedError(pub(super) Error);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let failure = ErrorResponse {
            success: false,
            message: format_message(self.kind, &self.message),
            error: ErrorObject { code: self.kind.code(), details: self.details.clone() },
        };
        let mut response = (status_code(self.kind), Json(failure)).into_response();
        if is_non_retryable(self.kind) {
            // OpenAI's client libraries retry a 409 and a 429 unless this header forbids it.
            response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.kind == ErrorKind::Unauthenticated {
            let scheme = HeaderValue::from_static("Bearer realm=\"echoic\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        self.add_retry_headers(response.headers_mut());
        response.extensions_mut().insert(LoggedError(self));
        response
    }
}

impl Error {
    /// Sets `Retry-After` if the time is known, and `RateLimit-*` if a limit was exceeded.
    fn add_retry_headers(&self, headers: &mut HeaderMap) {
        let Some(details) = &self.details else { return };
        let Some(wait) = details["retryAfter"].as_u64() else { return };
        headers.insert(RETRY_AFTER, HeaderValue::from(wait));
        if let Some(limit) = details["limit"].as_f64() {
            // A quota in money may be fractional; the header takes whole units.
            headers.insert("ratelimit-limit", HeaderValue::from(limit.ceil() as u64));
            headers.insert("ratelimit-remaining", HeaderValue::from(0));
            headers.insert("ratelimit-reset", HeaderValue::from(wait));
        }
    }
}

/// Turns an error message into a sentence: capital first letter, full stop at the end.
pub(super) fn format_message(kind: ErrorKind, message: &str) -> String {
    let mut chars = message.chars();
    match chars.next() {
        // An invalid request's message begins with a field name, whose case is significant.
        Some(first) if kind != ErrorKind::InvalidRequest => {
            first.to_uppercase().chain(chars).chain(['.']).collect()
        }
        _ => format!("{message}."),
    }
}

pub(super) const fn status_code(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidRequest
        | ErrorKind::UnknownParameter
        | ErrorKind::MutuallyExclusive
        | ErrorKind::PreviousResponseNotFound => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden | ErrorKind::ForbiddenHost => StatusCode::FORBIDDEN,
        ErrorKind::RouteNotFound
        | ErrorKind::SessionNotFound
        | ErrorKind::MessageNotFound
        | ErrorKind::ResponseNotFound
        | ErrorKind::NodeNotFound
        | ErrorKind::ProjectNotFound
        | ErrorKind::FileNotFound
        | ErrorKind::ModelNotFound => StatusCode::NOT_FOUND,
        ErrorKind::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::SessionBusy | ErrorKind::SessionClosed | ErrorKind::IdConflict => {
            StatusCode::CONFLICT
        }
        ErrorKind::VersionConflict => StatusCode::PRECONDITION_FAILED,
        ErrorKind::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorKind::ContextTooLong | ErrorKind::IdempotencyKeyReused => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ErrorKind::QueueFull | ErrorKind::RateLimited | ErrorKind::QuotaExceeded => {
            StatusCode::TOO_MANY_REQUESTS
        }
        ErrorKind::ProviderError => StatusCode::BAD_GATEWAY,
        ErrorKind::ProviderTimeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::StoreUnavailable | ErrorKind::AuthUnavailable | ErrorKind::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whether an immediate retry of the same request would fail in the same way.
const fn is_non_retryable(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::SessionBusy
            | ErrorKind::SessionClosed
            | ErrorKind::IdConflict
            | ErrorKind::QueueFull
            | ErrorKind::QuotaExceeded
    )
}
