//! Idempotency keys: from the header `Idempotency-Key`, or derived from the content of a request.

use crate::error::{Error, Result};
use crate::store::{IdempotencyKey, RetryWindow};
use axum::http::HeaderMap;
use sha2::{Digest, Sha256};

const MAX_IDEMPOTENCY_KEY_LEN: usize = 256;

/// The namespace of a key: the same key in two scopes means two requests.
#[derive(Debug, Clone, Copy)]
pub(super) enum IdempotencyScope {
    Chat,
    Regenerate,
    ChatMessage,
    ChatCompletion,
    Response,
    ConversationItem,
}

impl IdempotencyScope {
    /// The name that is stored with the key. It looks like a route but does not follow it: a retry
    /// must find the key of its first attempt, even after an update that renamed the path.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "POST /api/chat",
            Self::Regenerate => "POST /api/chat/:id/regenerate",
            Self::ChatMessage => "POST /api/chat-messages",
            Self::ChatCompletion => "POST /v1/chat/completions",
            Self::Response => "POST /v1/responses",
            Self::ConversationItem => "POST /v1/conversations/:id/items",
        }
    }
}

/// Reads `Idempotency-Key`. A digest of `body` is its fingerprint, so that the key cannot be reused
/// for another request.
pub(super) fn read_idempotency_key(
    headers: &HeaderMap,
    scope: IdempotencyScope,
    body: &[u8],
) -> Result<Option<IdempotencyKey>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=MAX_IDEMPOTENCY_KEY_LEN).contains(&key.len()) => Ok(Some(IdempotencyKey {
            route: scope.as_str(),
            key: key.to_owned(),
            fingerprint: hex_digest(body),
            retry_window: RetryWindow::Full,
        })),
        _ => Err(Error::invalid_field(
            "Idempotency-Key",
            "must be 1 to 256 visible ASCII characters",
        )),
    }
}

/// Derives an idempotency key from the content of a request. OpenAI's libraries send no key of
/// their own when they retry, but the same body and a retry count.
pub(super) fn derive_retry_key(
    headers: &HeaderMap,
    scope: IdempotencyScope,
    content: &[u8],
) -> IdempotencyKey {
    let count = headers.get("x-stainless-retry-count").and_then(|count| count.to_str().ok());
    let is_retry = count.and_then(|count| count.parse().ok()).is_some_and(|count: u32| count > 0);
    // The key of a first attempt is recorded but not looked up: users may deliberately send the
    // same text twice.
    let retry_window = if is_retry { RetryWindow::Short } else { RetryWindow::Disabled };
    IdempotencyKey {
        route: scope.as_str(),
        key: hex_digest(content),
        // The key itself is the digest of the content.
        fingerprint: String::new(),
        retry_window,
    }
}

fn hex_digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
