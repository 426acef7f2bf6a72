//! What is asked of a store about messages.

use crate::domain::message::{FinishReason, MessageBody, MessageError, MessageParts};
use crate::domain::page::{MessageSlice, MessageView};
use crate::domain::{
    Message, MessageId, Principal, Role, Session, SessionId, Status, Timestamp, Usage, UserId,
};
use crate::error::Result;
use async_trait::async_trait;
use serde::Serialize;

/// A message to store.
#[derive(Debug, Clone, Serialize)]
pub struct NewMessage {
    /// Its id.
    pub id: MessageId,
    /// The name its sender's client gave it.
    pub client_message_id: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// Who sent it.
    pub sender_id: UserId,
    /// What it says.
    pub body: MessageBody,
    /// Its size in tokens of o200k_base.
    pub tokens: u32,
    /// When it was written.
    pub created_at: Timestamp,
    /// What only replies have.
    pub reply: ReplyFields,
}

/// What a reply has beside its text.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReplyFields {
    /// How it ended.
    pub status: Status,
    /// The model that wrote it.
    pub model: Option<String>,
    /// Why the model stopped.
    pub finish_reason: Option<FinishReason>,
    /// Why it failed.
    pub error: Option<MessageError>,
    /// What it cost.
    pub usage: Option<Usage>,
}

/// Under which message a new one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageParent {
    /// The session's head; a root if the session is empty.
    Head,
    /// None: it begins a path of its own.
    Root,
    /// This one.
    Message(MessageId),
}

/// A repeated request is known by this, for 24 hours at the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The route it was sent to.
    pub route: &'static str,
    /// The client's key.
    pub key: String,
    /// What the body said; the same key with another is refused.
    pub fingerprint: String,
    /// When a request with this key is one that came before.
    pub retry_window: RetryWindow,
}

/// When a request with a known key is a repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryWindow {
    /// Always: the client made the key for one request.
    #[default]
    Full,
    /// Not this time: the key says no more than what the request says, and it is sent for the first
    /// time. Those that follow may repeat it.
    Disabled,
    /// If it came within two minutes: its client's library says that it sends it again.
    Short,
}

/// A message to store without a model.
#[derive(Debug, Clone)]
pub struct PostMessage {
    /// The session.
    pub session_id: SessionId,
    /// The message.
    pub message: NewMessage,
    /// Where it stands.
    pub parent: MessageParent,
    /// How a repetition is known, beside the client's message id.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The time.
    pub now: Timestamp,
}

/// Which messages to read.
#[derive(Debug, Clone)]
pub struct MessageQuery {
    /// Of the active path, or all.
    pub view: MessageView,
    /// Which page.
    pub slice: MessageSlice,
    /// Most messages.
    pub limit: u32,
}

/// A page of messages, oldest first.
#[derive(Debug)]
pub struct MessagePage {
    /// The messages.
    pub messages: Vec<Message>,
    /// Whether there are more in the direction of reading.
    pub has_more: bool,
}

/// Where the reading of a path's tail ends.
#[derive(Debug, Clone, Copy)]
pub struct HistoryLimits {
    /// Most messages.
    pub max_messages: u32,
    /// Most tokens; the message that would exceed them ends the reading.
    pub max_tokens: u32,
    /// Tokens that each message takes beside its text.
    pub token_overhead: u32,
    /// Most bytes of parts in all: those of a message that would exceed them are left out. 0 where
    /// nobody looks at parts.
    pub max_part_bytes: usize,
}

/// A message as memory needs it.
#[derive(Debug, Clone)]
pub struct HistoryMessage {
    /// Its id.
    pub id: MessageId,
    /// Who speaks.
    pub role: Role,
    /// Who sent it.
    pub sender_id: UserId,
    /// Its text.
    pub content: String,
    /// Its size in tokens of o200k_base.
    pub tokens: u32,
    /// Tokens of the path up to it, itself and what each message takes beside its text
    /// ([`MESSAGE_TOKEN_OVERHEAD`](crate::domain::message::MESSAGE_TOKEN_OVERHEAD)) included. The same for every reader,
    /// so that all of them can cut a path at the same places.
    pub path_tokens: u64,
    /// Its parts, if there was room for them; those of a reply only if it ended with function calls.
    pub parts: MessageParts,
    /// When it was written.
    pub created_at: Timestamp,
    /// The message before it; the path begins with one that has none.
    pub parent_id: Option<MessageId>,
}

/// Messages: posted and read.
#[async_trait]
pub trait MessageStore: Send + Sync {
    /// Stores one message, names the session, moves its counters and head. A repetition, known by
    /// the client's message id or the idempotency key, gives the first result. Errors:
    /// `session_not_found`, `forbidden`, `session_busy`, `session_closed`, `message_not_found` (the
    /// parent), `idempotency_key_reused`.
    async fn post_message(
        &self,
        principal: &Principal,
        post: PostMessage,
    ) -> Result<(Message, Session)>;

    /// One message. Errors: `session_not_found`, `message_not_found`.
    async fn get_message(
        &self,
        principal: &Principal,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Message>;

    /// A page of messages. Errors: `session_not_found`, `message_not_found` (the one it starts at).
    async fn list_messages(
        &self,
        principal: &Principal,
        session: &SessionId,
        query: MessageQuery,
    ) -> Result<MessagePage>;

    /// The path that ends with the message `last`, newest first, as far as the bounds allow,
    /// without messages that have neither text nor, for this reader, parts. Its cost depends on the
    /// bounds, not on the session.
    async fn recent_history(
        &self,
        session: &SessionId,
        last: &MessageId,
        limits: HistoryLimits,
    ) -> Result<Vec<HistoryMessage>>;
}
