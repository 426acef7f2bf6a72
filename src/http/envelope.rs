//! The shape of every answer, and the table from kinds of errors to statuses.

use crate::error::{Error, ErrorKind};
use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// What a handler gives back.
pub(super) type ApiResult<T> = Result<T, Error>;

/// A success: the sentence says what happened, the data is the thing itself.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Envelope<T> {
    success: bool,
    message: &'static str,
    data: T,
}

/// A success with status 200.
pub(super) fn ok_response<T: Serialize>(message: &'static str, data: T) -> Json<Envelope<T>> {
    Json(Envelope { success: true, message, data })
}

/// A failure: the sentence is for people, the code for programs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorResponse {
    success: bool,
    message: String,
    error: ErrorObject,
}

/// What a program can act on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorObject {
    /// A stable word.
    code: &'static str,
    /// Each field and what it wants, the running turn, and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
}

/// The error of a response, kept beside it for the request log.
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
            // Client libraries repeat a 409 by themselves unless they are told not to.
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
    /// Says in how many seconds the same request may have another answer, where that is known; and of
    /// what is spent, how much there is of it.
    fn add_retry_headers(&self, headers: &mut HeaderMap) {
        let Some(details) = &self.details else { return };
        let Some(wait) = details["retryAfter"].as_u64() else { return };
        headers.insert(RETRY_AFTER, HeaderValue::from(wait));
        if let Some(limit) = details["limit"].as_f64() {
            // Of money, whole units.
            headers.insert("ratelimit-limit", HeaderValue::from(limit.ceil() as u64));
            headers.insert("ratelimit-remaining", HeaderValue::from(0));
            headers.insert("ratelimit-reset", HeaderValue::from(wait));
        }
    }
}

/// Errors are written without capital and full stop, answers with them; a field's name at the
/// beginning stays as the client spells it.
pub(super) fn format_message(kind: ErrorKind, message: &str) -> String {
    let mut letters = message.chars();
    match letters.next() {
        Some(first) if kind != ErrorKind::InvalidRequest => {
            first.to_uppercase().chain(letters).chain(['.']).collect()
        }
        _ => format!("{message}."),
    }
}

/// The status of each kind of error.
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

/// Whether the same request would meet the same error a moment later.
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
