//! Store operations on messages.

use crate::domain::content::MessageBody;
use crate::domain::message::{FinishReason, MessageError, MessageParts};
use crate::domain::page::{MessageSlice, MessageView};
use crate::domain::{
    Message, MessageId, Principal, Role, Session, SessionId, Status, Timestamp, Usage, UserId,
};
use crate::error::Result;
use async_trait::async_trait;
use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct NewMessage {
    pub id: MessageId,
    /// Id that the sender's client gave the message.
    pub client_message_id: Option<MessageId>,
    pub role: Role,
    pub sender_id: UserId,
    pub body: MessageBody,
    /// Size of the text and its attachments in o200k_base tokens.
    pub tokens: u32,
    pub created_at: Timestamp,
    /// Fields that most messages other than replies do not have.
    pub reply: ReplyFields,
}

impl NewMessage {
    /// Restores the message that was inserted. `tokens` is the only field that [`Message`] lacks.
    pub(super) fn from_stored(message: Message, tokens: u32) -> Self {
        Self {
            id: message.id,
            client_message_id: message.client_message_id,
            role: message.role,
            sender_id: message.sender_id,
            body: MessageBody {
                content: message.content,
                parts: message.parts,
                kind: message.kind,
            },
            tokens,
            created_at: message.created_at,
            reply: ReplyFields {
                status: message.status,
                model: message.model,
                finish_reason: message.finish_reason,
                error: message.error,
                usage: message.usage,
                imported: message.imported,
            },
        }
    }
}

/// Fields of a reply besides its text, and the mark of imported messages.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReplyFields {
    /// How the reply ended.
    pub status: Status,
    pub model: Option<String>,
    pub finish_reason: Option<FinishReason>,
    /// Why the reply failed.
    pub error: Option<MessageError>,
    pub usage: Option<Usage>,
    /// Whether the message came with an import.
    pub imported: bool,
}

/// The position of a new message in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageParent {
    /// Below the session's head; a root if the session is empty.
    Head,
    /// A root, which starts a path of its own.
    Root,
    Message(MessageId),
}

/// Identifies retries of a request, for at most 24 hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Route of the request. Keys of different routes never match.
    pub route: &'static str,
    /// Key sent by the client, or derived from the request body.
    pub key: String,
    /// Hash of the request body. The same key with another body is rejected.
    pub fingerprint: String,
    /// How far back a request with this key counts as the same one.
    pub retry_window: RetryWindow,
}

/// How old an earlier request with the same key may be for this one to be its retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryWindow {
    /// 24 hours: the client generated the key for this one request.
    #[default]
    Full,
    /// No earlier request counts: the key is derived from the body, and the client says that this
    /// is its first attempt. Later requests may be retries of this one.
    Disabled,
    /// Two minutes: the client library says that it is retrying.
    Short,
}

/// A message to store without asking a model.
#[derive(Debug, Clone)]
pub struct PostMessage {
    pub session_id: SessionId,
    pub message: NewMessage,
    pub parent: MessageParent,
    /// Recognizes retries, in addition to the client message id.
    pub idempotency_key: Option<IdempotencyKey>,
    pub now: Timestamp,
}

#[derive(Debug, Clone)]
pub struct MessageQuery {
    /// The active path, or all branches.
    pub view: MessageView,
    pub slice: MessageSlice,
    pub limit: u32,
    /// Whether the messages name their siblings, which costs as much as there are siblings.
    pub with_siblings: bool,
}

/// A page of messages, oldest first.
#[derive(Debug)]
pub struct MessagePage {
    pub messages: Vec<Message>,
    /// Whether more messages follow in the direction of reading.
    pub has_more: bool,
}

/// Limits on the history that is read for a prompt.
#[derive(Debug, Clone, Copy)]
pub struct HistoryLimits {
    pub max_messages: u32,
    /// Reading stops at the message that would exceed this.
    pub max_tokens: u32,
    /// Tokens added for each message on top of its text.
    pub token_overhead: u32,
    /// Total bytes of parts to read: a message whose parts would exceed the rest comes without
    /// them. 0 for callers that ignore parts.
    pub max_part_bytes: usize,
}

/// A message with the fields that memory needs.
#[derive(Debug, Clone)]
pub struct HistoryMessage {
    pub id: MessageId,
    pub role: Role,
    pub sender_id: UserId,
    pub content: String,
    /// Size in o200k_base tokens.
    pub tokens: u32,
    /// Tokens of the path up to and including this message, each with its overhead
    /// ([`MESSAGE_TOKEN_OVERHEAD`](crate::domain::message::MESSAGE_TOKEN_OVERHEAD)). The same for
    /// every reader, so that all instances cut a path at the same places.
    pub path_tokens: u64,
    /// Parts that fit the limits. A reply has them only if it ended with function calls.
    pub parts: MessageParts,
    pub created_at: Timestamp,
    /// `None` for the root of the path.
    pub parent_id: Option<MessageId>,
}

/// Posting and reading messages.
#[async_trait]
pub trait MessageStore: Send + Sync {
    /// Stores one message, names the session after it if it has no title yet, and updates counters
    /// and head. A retry, recognized by the client message id or the idempotency key, returns the
    /// first result. Errors: `session_not_found`, `forbidden`, `session_busy`, `session_closed`,
    /// `message_not_found` (the parent), `idempotency_key_reused`.
    async fn post_message(
        &self,
        principal: &Principal,
        post: PostMessage,
    ) -> Result<(Message, Session)>;

    /// Returns one message. Errors: `session_not_found`, `message_not_found`.
    async fn get_message(
        &self,
        principal: &Principal,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Message>;

    /// Lists the ids of all messages with the same parent as this one, oldest first. Errors:
    /// `session_not_found`, `message_not_found`.
    async fn list_siblings(
        &self,
        principal: &Principal,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Vec<MessageId>>;

    /// Returns a page of messages. Errors: `session_not_found`, `message_not_found` (the message at
    /// which the page starts).
    async fn list_messages(
        &self,
        principal: &Principal,
        session: &SessionId,
        query: MessageQuery,
    ) -> Result<MessagePage>;

    /// Reads the path that ends with `last`, newest first, up to the limits, without messages that
    /// have neither text nor, for this caller, parts. The cost depends on the limits, not on the
    /// length of the session. Errors: `session_not_found`, `message_not_found`.
    async fn recent_history(
        &self,
        session: &SessionId,
        last: &MessageId,
        limits: HistoryLimits,
    ) -> Result<Vec<HistoryMessage>>;
}
