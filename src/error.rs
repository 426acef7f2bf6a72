//! The one error type: a closed list of kinds, each with a stable code, and a sentence.
//!
//! What a user may read stands in the message and the details; what only the operator may read
//! travels as the source and is logged where the error is handled.

use crate::domain::FieldError;
use crate::domain::message::ContentError;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// What went wrong, as a closed list. `code` is what clients see.
macro_rules! define_error_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal),* $(,)?) => {
        /// What went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorKind { $($(#[$doc])* $name),* }

        impl ErrorKind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable code that clients rely on.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// The kind of a reply's failure, by the code that is stored; the provider's if it is
            /// none that we know.
            pub fn from_code(code: &str) -> Self {
                let is_it = |kind: &&Self| kind.code() == code;
                Self::ALL.iter().find(is_it).copied().unwrap_or(Self::ProviderError)
            }
        }
    };
}

define_error_kinds! {
    /// A request that does not hold what it must.
    InvalidRequest = "invalid_request",
    /// A parameter that OpenAI's routes do not know.
    UnknownParameter = "unknown_parameter",
    /// Two parameters of which there may be one.
    MutuallyExclusive = "mutually_exclusive_parameters",
    /// No such response to go on from, as far as this user can tell.
    PreviousResponseNotFound = "previous_response_not_found",
    /// No credentials, or bad ones.
    Unauthenticated = "unauthenticated",
    /// A known user who may not do this to a thing they may see; a foreign `Origin`.
    Forbidden = "forbidden",
    /// A `Host` that this server does not answer to.
    ForbiddenHost = "forbidden_host",
    /// No such route.
    RouteNotFound = "route_not_found",
    /// No such session, as far as this user can tell.
    SessionNotFound = "session_not_found",
    /// No such message in the session.
    MessageNotFound = "message_not_found",
    /// No such response, as far as this user can tell.
    ResponseNotFound = "response_not_found",
    /// No such node in the session.
    NodeNotFound = "node_not_found",
    /// No such project, as far as this user can tell.
    ProjectNotFound = "project_not_found",
    /// No such file in the project.
    FileNotFound = "file_not_found",
    /// The provider has no such model.
    ModelNotFound = "model_not_found",
    /// The route exists, with other methods.
    MethodNotAllowed = "method_not_allowed",
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout",
    /// The body is not `application/json`.
    UnsupportedMediaType = "unsupported_media_type",
    /// A reply is running.
    SessionBusy = "session_busy",
    /// Nothing can be added to a closed session.
    SessionClosed = "session_closed",
    /// The chosen id belongs to another user's session.
    IdConflict = "id_conflict",
    /// `If-Match` names another version.
    VersionConflict = "version_conflict",
    /// A body or a message over its limit.
    PayloadTooLarge = "payload_too_large",
    /// The new message alone does not fit the model.
    ContextTooLong = "context_too_long",
    /// The same idempotency key with other content.
    IdempotencyKeyReused = "idempotency_key_reused",
    /// As many messages wait for this session's reply as may.
    QueueFull = "queue_full",
    /// Too many requests in a short time, or too many replies at once.
    RateLimited = "rate_limited",
    /// The tokens or the money of a day or a month are spent.
    QuotaExceeded = "quota_exceeded",
    /// The provider refused, failed or broke off.
    ProviderError = "provider_error",
    /// The provider took longer than its deadline.
    ProviderTimeout = "provider_timeout",
    /// The store cannot be read or written; nothing was half-done.
    StoreUnavailable = "store_unavailable",
    /// Who is asking cannot be checked: the keys of the issuer of tokens cannot be fetched.
    AuthUnavailable = "auth_unavailable",
    /// The server is going down; nothing was half-done.
    ShuttingDown = "shutting_down",
    /// A mistake of ours.
    Internal = "internal_error",
}

/// What went wrong, told so that a person can act on it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Which kind.
    pub kind: ErrorKind,
    /// A sentence without capital and full stop.
    pub message: Cow<'static, str>,
    /// More for programs: each field and what it wants, the turn that is running.
    pub details: Option<Value>,
    /// For the operator only.
    #[source]
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// What most functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a sentence.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), details: None, source: None }
    }

    /// Adds what a program can read.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Adds what only the operator may read.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Somebody who may have no more for now: of so many, again in so many seconds.
    pub fn limit_exceeded(
        kind: ErrorKind,
        message: impl Into<Cow<'static, str>>,
        limit: impl Into<Value>,
        retry_after: u64,
    ) -> Self {
        let details = json!({ "limit": limit.into(), "retryAfter": retry_after });
        Self::new(kind, message).with_details(details)
    }

    /// A request whose `field` wants something else.
    pub fn invalid_field(
        field: impl Into<Cow<'static, str>>,
        wants: impl Into<Cow<'static, str>>,
    ) -> Self {
        FieldError::new(field, wants).into()
    }

    /// A request with several fields that want something else.
    pub fn invalid_fields(fields: Vec<FieldError>) -> Self {
        let sentence = fields.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; ");
        let details: Map<String, Value> = fields
            .into_iter()
            .map(|invalid| (invalid.field.into_owned(), Value::from(invalid.message.into_owned())))
            .collect();
        Self::new(ErrorKind::InvalidRequest, sentence).with_details(Value::Object(details))
    }

    /// The same error about something nested: the place stands before the sentence and each field.
    #[must_use]
    pub fn within(mut self, place: &str) -> Self {
        self.message = format!("{place}.{}", self.message).into();
        if let Some(Value::Object(fields)) = self.details.take() {
            let fields =
                fields.into_iter().map(|(field, wants)| (format!("{place}.{field}"), wants));
            self.details = Some(Value::Object(fields.collect()));
        }
        self
    }

    /// No such session.
    pub fn session_not_found() -> Self {
        Self::new(ErrorKind::SessionNotFound, "there is no such session")
    }

    /// No such message.
    pub fn message_not_found() -> Self {
        Self::new(ErrorKind::MessageNotFound, "there is no such message in the session")
    }

    /// No such response.
    pub fn response_not_found() -> Self {
        Self::new(ErrorKind::ResponseNotFound, "there is no such response")
    }

    /// No such project.
    pub fn project_not_found() -> Self {
        Self::new(ErrorKind::ProjectNotFound, "there is no such project")
    }

    /// No such file.
    pub fn file_not_found() -> Self {
        Self::new(ErrorKind::FileNotFound, "there is no such file in the project")
    }

    /// A body or text over its limit, in bytes.
    pub fn too_large(what: &'static str, limit: usize) -> Self {
        let message = format!("{what} must be at most {limit} bytes");
        Self::new(ErrorKind::PayloadTooLarge, message)
            .with_details(json!({ what: format!("must be at most {limit} bytes") }))
    }

    /// The store cannot be used; `source` is for the operator.
    pub fn store_unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(
            ErrorKind::StoreUnavailable,
            "the conversation store cannot be used at the moment; nothing was changed",
        )
        .with_source(source)
    }

    /// A mistake of ours; `source` is for the operator.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(ErrorKind::Internal, "something went wrong inside the server").with_source(source)
    }

    /// The message with the chain of its causes, for logs.
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
