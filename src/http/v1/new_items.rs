//! Items that a request adds to a conversation, as messages at the session's head.

use super::item_mapping::{ConversationItem, PositionedItem, build_messages, to_items};
use crate::chat::PrecedingMessage;
use crate::clock;
use crate::domain::{MessageId, Principal, SessionId};
use crate::error::{Error, Result};
use crate::http::ApiState;
use crate::http::idempotency::{IdempotencyScope, derive_retry_key};
use crate::memory::tokens;
use crate::store::{MessageParent, NewMessage, PostMessage};
use axum::http::HeaderMap;
use serde_json::value::RawValue;

/// Limit of one request, as in OpenAI's API.
const MAX_NEW_ITEMS: usize = 20;

/// Parses all items before any is stored.
pub(super) fn parse_items(items: Vec<&RawValue>, limit: usize) -> Result<Vec<PrecedingMessage>> {
    if items.len() > MAX_NEW_ITEMS {
        return Err(Error::invalid_field("items", "must be at most 20"));
    }
    let read = |(index, item)| PositionedItem::parse(format!("items[{index}]"), item);
    let items: Result<Vec<PositionedItem>> = items.into_iter().enumerate().map(read).collect();
    build_messages(items?, limit)
}

/// Appends items at the session's head, one message after the other.
pub(super) async fn store_items(
    api: &ApiState,
    principal: &Principal,
    session: &SessionId,
    items: Vec<PrecedingMessage>,
    headers: &HeaderMap,
) -> Result<Vec<ConversationItem>> {
    let mut stored = Vec::with_capacity(items.len());
    for (index, PrecedingMessage { role, body, reply }) in items.into_iter().enumerate() {
        // The items of one request may be equal, so the index is part of the retry key.
        let content = format!(
            "{session}\n{index}\n{}\n{}\n{}",
            role.as_str(),
            body.content,
            body.parts.as_json()
        );
        let now = clock::now();
        let post = PostMessage {
            session_id: session.clone(),
            now,
            parent: MessageParent::Head,
            idempotency_key: Some(derive_retry_key(
                headers,
                IdempotencyScope::ConversationItem,
                content.as_bytes(),
            )),
            message: NewMessage {
                id: MessageId::generate(),
                client_message_id: None,
                role,
                sender_id: principal.user.clone(),
                tokens: tokens::count_tokens_async(&body.countable_text()).await,
                body,
                created_at: now,
                reply,
            },
        };
        let (message, _) = api.chat.post_message(principal, post).await?;
        stored.extend(to_items(&message));
    }
    Ok(stored)
}
