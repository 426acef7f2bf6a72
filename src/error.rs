//! The crate's error type: a kind from a closed list, each with a stable code, and a sentence.
//!
//! Message and details are sent to clients. The source is for the operator only; it is logged where
//! the error is handled.

use crate::domain::FieldError;
use crate::domain::content::ContentError;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Defines the error kinds and their codes. Clients rely on the codes, so they never change.
macro_rules! define_error_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal),* $(,)?) => {
        /// The kind of an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorKind { $($(#[$doc])* $name),* }

        impl ErrorKind {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// The kind of a stored error code. Unknown codes are treated as provider errors: what
            /// is stored is why a reply failed.
            pub fn from_code(code: &str) -> Self {
                let is_it = |kind: &&Self| kind.code() == code;
                Self::ALL.iter().find(is_it).copied().unwrap_or(Self::ProviderError)
            }
        }
    };
}

define_error_kinds! {
    /// The request is malformed or has an invalid field.
    InvalidRequest = "invalid_request",
    /// The OpenAI-compatible routes do not support this parameter.
    UnknownParameter = "unknown_parameter",
    /// Two parameters that exclude each other.
    MutuallyExclusive = "mutually_exclusive_parameters",
    /// `previous_response_id` does not exist or is not visible to this user.
    PreviousResponseNotFound = "previous_response_not_found",
    /// Credentials are missing or invalid.
    Unauthenticated = "unauthenticated",
    /// The user may see the resource but not perform the operation, or the `Origin` is not allowed.
    Forbidden = "forbidden",
    /// The `Host` header is not one of the allowed hosts.
    ForbiddenHost = "forbidden_host",
    RouteNotFound = "route_not_found",
    /// The session does not exist or is not visible to this user.
    SessionNotFound = "session_not_found",
    MessageNotFound = "message_not_found",
    /// The response does not exist or is not visible to this user.
    ResponseNotFound = "response_not_found",
    NodeNotFound = "node_not_found",
    /// The project does not exist or is not visible to this user.
    ProjectNotFound = "project_not_found",
    FileNotFound = "file_not_found",
    /// The provider does not know the model.
    ModelNotFound = "model_not_found",
    MethodNotAllowed = "method_not_allowed",
    /// The request body did not arrive in time.
    RequestTimeout = "request_timeout",
    /// The body is not `application/json`.
    UnsupportedMediaType = "unsupported_media_type",
    /// A reply is in progress.
    SessionBusy = "session_busy",
    /// The session is closed; nothing can be added.
    SessionClosed = "session_closed",
    /// The chosen id belongs to another user's session.
    IdConflict = "id_conflict",
    /// The version in `If-Match` is not the current one.
    VersionConflict = "version_conflict",
    /// The body or a message exceeds its size limit.
    PayloadTooLarge = "payload_too_large",
    /// The new message alone exceeds the model's context window.
    ContextTooLong = "context_too_long",
    /// The idempotency key was used with different content.
    IdempotencyKeyReused = "idempotency_key_reused",
    /// The session has reached its limit of queued messages.
    QueueFull = "queue_full",
    /// Too many requests in a short time, or too many concurrent replies.
    RateLimited = "rate_limited",
    /// The daily or monthly quota of tokens or cost is used up.
    QuotaExceeded = "quota_exceeded",
    /// The provider rejected the request, failed, or broke off.
    ProviderError = "provider_error",
    /// The provider did not answer before the deadline.
    ProviderTimeout = "provider_timeout",
    /// The store cannot be read or written. Nothing was changed.
    StoreUnavailable = "store_unavailable",
    /// Credentials cannot be verified because the issuer's signing keys cannot be fetched.
    AuthUnavailable = "auth_unavailable",
    /// The server is shutting down. Nothing was changed.
    ShuttingDown = "shutting_down",
    /// A bug in the server.
    Internal = "internal_error",
}

/// An error with a stable kind and a message that a user can act on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    /// A sentence without a capital and without a full stop.
    pub message: Cow<'static, str>,
    /// Machine-readable details: each invalid field and its message, or the turn in progress.
    pub details: Option<Value>,
    /// The limit that was hit, for the metrics. `None`: a limit is named after the code.
    pub limit: Option<&'static str>,
    /// The cause. Logged, never sent to clients.
    #[source]
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), details: None, limit: None, source: None }
    }

    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Names the limit that was hit: the label of its metric and the word in the log.
    #[must_use]
    pub fn with_limit(mut self, limit: &'static str) -> Self {
        self.limit = Some(limit);
        self
    }

    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// A rate limit or quota was reached. The details hold `limit` and `retryAfter` in seconds.
    pub fn limit_exceeded(
        kind: ErrorKind,
        message: impl Into<Cow<'static, str>>,
        limit: impl Into<Value>,
        retry_after: u64,
    ) -> Self {
        let details = json!({ "limit": limit.into(), "retryAfter": retry_after });
        Self::new(kind, message).with_details(details)
    }

    pub fn invalid_field(
        field: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        FieldError::new(field, message).into()
    }

    pub fn invalid_fields(fields: Vec<FieldError>) -> Self {
        // All invalid fields at once, as a sentence for people and as an object for programs.
        let sentence = fields.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; ");
        let details: Map<String, Value> = fields
            .into_iter()
            .map(|invalid| (invalid.field.into_owned(), Value::from(invalid.message.into_owned())))
            .collect();
        Self::new(ErrorKind::InvalidRequest, sentence).with_details(Value::Object(details))
    }

    /// Moves the error below `place`: the message and every field are prefixed with it.
    #[must_use]
    pub fn within(mut self, place: &str) -> Self {
        self.message = format!("{place}.{}", self.message).into();
        // Clients match details by field name, so these have to be prefixed like the sentence.
        if let Some(Value::Object(fields)) = self.details.take() {
            let fields =
                fields.into_iter().map(|(field, message)| (format!("{place}.{field}"), message));
            self.details = Some(Value::Object(fields.collect()));
        }
        self
    }

    pub fn session_not_found() -> Self {
        Self::new(ErrorKind::SessionNotFound, "there is no such session")
    }

    pub fn message_not_found() -> Self {
        Self::new(ErrorKind::MessageNotFound, "there is no such message in the session")
    }

    pub fn response_not_found() -> Self {
        Self::new(ErrorKind::ResponseNotFound, "there is no such response")
    }

    pub fn project_not_found() -> Self {
        Self::new(ErrorKind::ProjectNotFound, "there is no such project")
    }

    pub fn file_not_found() -> Self {
        Self::new(ErrorKind::FileNotFound, "there is no such file in the project")
    }

    /// A body or text over its limit, in bytes.
    pub fn too_large(what: &'static str, limit: usize) -> Self {
        let message = format!("{what} must be at most {limit} bytes");
        Self::new(ErrorKind::PayloadTooLarge, message)
            // `what` is a field name, so the details have the same shape as those of an invalid
            // field.
            .with_details(json!({ what: format!("must be at most {limit} bytes") }))
    }

    pub fn store_unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ErrorKind::StoreUnavailable, "the store is unavailable; nothing was changed")
            .with_source(source)
    }

    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ErrorKind::Internal, "internal server error").with_source(source)
    }

    /// The name of the limit that was hit, if this error reports one.
    pub fn limit_name(&self) -> Option<&'static str> {
        let is_limit = matches!(
            self.kind,
            ErrorKind::PayloadTooLarge
                | ErrorKind::ContextTooLong
                | ErrorKind::QueueFull
                | ErrorKind::RateLimited
                | ErrorKind::QuotaExceeded
                | ErrorKind::RequestTimeout
        );
        self.limit.or_else(|| is_limit.then(|| self.kind.code()))
    }

    /// The message followed by the chain of its causes, for logs.
    pub fn chain(&self) -> impl fmt::Display + '_ {
        struct ErrorChain<'a>(&'a Error);
        impl fmt::Display for ErrorChain<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)?;
                let mut cause = std::error::Error::source(self.0);
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
        }
        ErrorChain(self)
    }
}

impl From<FieldError> for Error {
    fn from(invalid: FieldError) -> Self {
        Self::invalid_fields(vec![invalid])
    }
}

impl From<ContentError> for Error {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::InvalidField(invalid) => invalid.into(),
            ContentError::TooLarge { field, limit } => Self::too_large(field, limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_kinds_have_distinct_codes() {
        let mut codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
    }
}
