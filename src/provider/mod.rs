//! LLM endpoints: requests to models and the events of their replies.
//!
//! Implementations: [`openai`] for endpoints that speak Chat Completions, [`anthropic`] for the
//! Messages API, [`demo`] for a server without any. [`resilient`] adds timeouts and retries to each
//! of them. `tests/it/provider_contract.rs` checks the behavior that all implementations share.

pub mod anthropic;
pub mod demo;
pub mod embeddings;
mod http;
mod opaque_allowance;
pub mod openai;
pub mod resilient;

pub use openai::find_usage;

use crate::domain::extra_params::ExtraParams;
use crate::domain::image::MessageImage;
use crate::domain::message::{CallOrigin, FinishReason};
use crate::domain::tool::{ToolCall, ToolResult};
use crate::domain::{Role, Usage};
use crate::error::{Error, ErrorKind};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// A request to a model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prompt {
    /// Name of the model, as the endpoint knows it.
    pub model: String,
    pub messages: Vec<PromptMessage>,
    /// From 0 to 2.
    pub temperature: Option<f64>,
    /// From 0 to 1.
    pub top_p: Option<f64>,
    /// Upper bound of the reply, in the model's own tokens.
    pub max_output_tokens: Option<u32>,
    /// Further parameters of the request, named as in Chat Completions.
    pub extra_params: ExtraParams,
    /// Same for all prompts that begin the same way, at most 64 characters: a hint to prompt
    /// caches.
    pub cache_key: Option<String>,
}

/// One message of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptMessage {
    pub role: Role,
    /// The text, exactly as sent.
    pub content: Arc<str>,
    pub images: Vec<MessageImage>,
    /// Function calls of an assistant's message. The next message has a result for each.
    pub calls: Vec<ToolCall>,
    /// Results of the previous message's calls. A message of the role `tool` sends these instead of
    /// its content.
    pub results: Vec<ToolResult>,
}

impl PromptMessage {
    pub fn from_text(role: Role, content: impl Into<Arc<str>>) -> Self {
        Self {
            role,
            content: content.into(),
            images: Vec::new(),
            calls: Vec::new(),
            results: Vec::new(),
        }
    }
}

/// A part of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderEvent {
    /// Delta of the answer.
    Text(String),
    /// Delta of the reasoning that precedes the answer.
    Reasoning(String),
    /// The text so far turned out to be reasoning.
    ThoughtsEnd,
    /// Start of a function call. Its arguments follow as [`ProviderEvent::ToolInput`].
    ToolCall {
        /// Number of the call in this reply.
        index: u32,
        /// The provider's id of the call. It may be missing, or the same for several calls.
        provider_id: Option<String>,
        /// Data that the provider wants back with the call: [`CallOrigin::opaque_data`].
        opaque_data: Option<Value>,
        /// Name of the function.
        name: String,
    },
    /// Replaces the opaque data of a call, if more of it arrives after the start of the call.
    ToolCallData {
        /// Number of a call that was started before.
        index: u32,
        opaque_data: Value,
    },
    /// Delta of a call's arguments. All deltas of a call together are JSON.
    ToolInput {
        /// Number of a call that was started before.
        index: u32,
        delta: String,
    },
    /// A web page that the reply cites.
    Source { url: String, title: Option<String> },
    /// Content that cannot be read, by the vendor's name for it, such as `audio`.
    Unsupported(String),
    /// Tokens of the reply. If it occurs more than once, the last count that is not zero counts.
    Usage(Usage),
    /// The model stopped by itself. A stream that ends without it was cut off.
    Finish(FinishReason),
    /// Another model than the requested one answers.
    Model(String),
}

/// Upper bound of a reply, in bytes: texts, reasoning, calls and sources. Texts may be stored
/// twice, in the content and among the parts, and a MongoDB document holds 16 MiB.
pub const MAX_REPLY_BYTES: usize = 4 << 20;
/// Bytes that each part of a reply counts in addition to its texts: about its share of the stored
/// message.
pub const PART_OVERHEAD_BYTES: usize = 256;

impl ProviderEvent {
    /// Bytes of this event that count toward [`MAX_REPLY_BYTES`], without data that only its
    /// provider understands.
    pub fn reply_bytes(&self) -> usize {
        match self {
            Self::Text(delta) | Self::Reasoning(delta) | Self::ToolInput { delta, .. } => {
                delta.len()
            }
            Self::ToolCall { name, provider_id, .. } => {
                PART_OVERHEAD_BYTES + name.len() + provider_id.as_ref().map_or(0, String::len)
            }
            Self::Source { url, title } => {
                PART_OVERHEAD_BYTES + url.len() + title.as_ref().map_or(0, String::len)
            }
            Self::ToolCallData { .. } | Self::ThoughtsEnd | Self::Unsupported(_) => {
                PART_OVERHEAD_BYTES
            }
            Self::Usage(_) | Self::Model(_) | Self::Finish(_) => 0,
        }
    }

    /// Bytes that this event holds before the reply begins. Opaque data is bounded by its parser.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Unsupported(name) | Self::Model(name) => PART_OVERHEAD_BYTES + name.len(),
            event => event.reply_bytes(),
        }
    }

    /// Whether this is a part of the reply itself.
    pub fn is_content(&self) -> bool {
        matches!(
            self,
            Self::Text(_) | Self::Reasoning(_) | Self::ToolCall { .. } | Self::ToolInput { .. }
        )
    }
}

/// Appends to the last event if it is text, too, so that deltas that arrive together become one
/// event.
fn push_text(events: &mut Vec<ProviderEvent>, text: Option<String>) {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return };
    match events.last_mut() {
        Some(ProviderEvent::Text(so_far)) => so_far.push_str(&text),
        _ => events.push(ProviderEvent::Text(text)),
    }
}

/// [`push_text`] for reasoning.
fn push_reasoning(events: &mut Vec<ProviderEvent>, text: Option<String>) {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return };
    match events.last_mut() {
        Some(ProviderEvent::Reasoning(so_far)) => so_far.push_str(&text),
        _ => events.push(ProviderEvent::Reasoning(text)),
    }
}

/// A place in a list as the number of an event.
fn to_event_index(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// The providers' own ids of the calls in a prompt, by our ids. Only the model that wrote a call
/// gets its own id back, and only if no other call of the prompt has the same.
fn original_call_ids<'a>(prompt: &'a Prompt, endpoint: &str) -> HashMap<&'a str, &'a str> {
    let calls = || prompt.messages.iter().flat_map(|message| &message.calls);
    let original = |call: &'a ToolCall| call_origin(call, prompt, endpoint)?.call_id.as_deref();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for call in calls() {
        *uses.entry(original(call).unwrap_or(&call.id)).or_default() += 1;
    }
    let ids = calls().filter_map(|call| Some((call.id.as_str(), original(call)?)));
    ids.filter(|(_, original)| uses[original] == 1).collect()
}

/// The origin of a call, if the model of this prompt wrote it at this endpoint.
fn call_origin<'a>(call: &'a ToolCall, prompt: &Prompt, endpoint: &str) -> Option<&'a CallOrigin> {
    let is_same =
        |origin: &&CallOrigin| origin.provider == endpoint && origin.model == prompt.model;
    call.origin.as_ref().filter(is_same)
}

/// Batches of events: each holds what had arrived when it was polled. The stream ends after the
/// first error. Dropping it cancels the call.
pub type ProviderEvents = BoxStream<'static, Result<Vec<ProviderEvent>, ProviderError>>;

/// An endpoint's response, passed on without interpreting it.
pub struct RawResponse {
    pub status: u16,
    /// Media type of the body.
    pub content_type: String,
    /// Delay that the endpoint asks for before a retry.
    pub retry_after: Option<Duration>,
    /// The body as it arrives.
    pub body: BoxStream<'static, Result<Bytes, ProviderError>>,
}

/// A model that requests can name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelInfo {
    /// Name of the model, as used in requests.
    pub id: String,
    /// Provider that serves the model.
    pub provider: String,
    /// Tokens that prompt and reply may have together; left out if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u32>,
}

/// Failure of a call, before or during the reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProviderError {
    pub kind: ProviderErrorKind,
    /// Safe to show to users: contains no secrets and nothing about the operator's account.
    pub message: String,
    /// Whether the same call may succeed shortly after.
    pub is_retryable: bool,
    /// Delay that the endpoint asks for before a retry.
    pub retry_after: Option<Duration>,
    /// Whether no part of the prompt was sent, so that the call cost nothing.
    pub is_unsent: bool,
    /// Whether the endpoint refused the request itself. The reason may be the length of the prompt,
    /// regardless of the message.
    pub may_be_too_long: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderErrorKind {
    /// The endpoint answered with an error or with an unreadable response.
    BadResponse,
    ContextTooLong,
    /// The endpoint could not be reached, or the connection was lost.
    ConnectionFailed,
    Timeout,
}

impl ProviderError {
    /// An error that retrying does not help. `message` must be safe to show to users.
    pub fn new(kind: ProviderErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            kind,
            message,
            is_retryable: false,
            retry_after: None,
            is_unsent: false,
            may_be_too_long: false,
        }
    }

    /// An error that may be gone at the next attempt.
    pub fn retryable(kind: ProviderErrorKind, message: impl Into<String>) -> Self {
        Self { is_retryable: true, ..Self::new(kind, message) }
    }

    /// The error kind that API clients get.
    pub const fn error_kind(&self) -> ErrorKind {
        match self.kind {
            ProviderErrorKind::BadResponse | ProviderErrorKind::ConnectionFailed => {
                ErrorKind::ProviderError
            }
            ProviderErrorKind::ContextTooLong => ErrorKind::ContextTooLong,
            ProviderErrorKind::Timeout => ErrorKind::ProviderTimeout,
        }
    }
}

impl From<ProviderError> for Error {
    fn from(error: ProviderError) -> Self {
        Self::new(error.error_kind(), error.message)
    }
}

/// An LLM endpoint.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Name of the provider in logs and lists: `openai`, `demo`.
    fn name(&self) -> &'static str;

    /// Identifies the endpoint in [`CallOrigin::provider`]. Vendors that speak the same protocol do
    /// not understand each other's data.
    fn endpoint(&self) -> &str {
        self.name()
    }

    /// Models that requests can name.
    async fn list_models(&self) -> Result<Vec<ModelInfo>, ProviderError>;

    /// Forwards a Chat Completions request unchanged and returns the endpoint's own response.
    /// `None` from providers with another protocol. Failures that concern the operator
    /// (credentials, an endpoint that is down) are errors; mistakes of the caller are responses.
    async fn forward_request(
        &self,
        _: Bytes,
        _is_stream: bool,
    ) -> Result<Option<RawResponse>, ProviderError> {
        Ok(None)
    }

    /// Requests a reply. Returns the stream as soon as the endpoint has accepted the prompt.
    /// Dropping the future or the stream cancels the call.
    async fn open_stream(&self, prompt: &Prompt) -> Result<ProviderEvents, ProviderError>;
}

/// Generates complete texts in the background of turns, such as titles and summaries.
#[async_trait]
pub trait TextGenerator: Send + Sync {
    /// Returns the full reply to this prompt.
    async fn generate_text(&self, prompt: &Prompt) -> crate::error::Result<String>;
}

/// A reply as far as it was received, and its cost as far as known.
#[derive(Debug)]
pub struct TextCompletion {
    pub text: String,
    /// `None` if the endpoint reported none.
    pub usage: Option<Usage>,
    /// The model that answered, if it is not the requested one.
    pub model: Option<String>,
    /// `None` if the reply was cut off.
    pub finish_reason: Option<FinishReason>,
    /// Set if the call failed.
    pub error: Option<ProviderError>,
}

/// Returns the full reply instead of a stream. If `stopped` ends first, the call is cut off.
pub async fn complete_text(
    provider: &dyn Provider,
    prompt: &Prompt,
    stopped: impl Future<Output = ()>,
) -> TextCompletion {
    let mut completion = TextCompletion {
        text: String::new(),
        usage: None,
        model: None,
        finish_reason: None,
        error: None,
    };
    // A failed reply still has its text and usage so far: tokens were spent on it.
    completion.error = tokio::select! {
        collected = collect_completion(provider, prompt, &mut completion) => collected.err(),
        () = stopped => {
            Some(ProviderError::new(ProviderErrorKind::ConnectionFailed, "the call was cut off"))
        }
    };
    // Templates of some models open the thoughts themselves, so only their end is in the text.
    if let Some((_, answer)) = completion.text.rsplit_once("</think>") {
        completion.text = answer.trim_start().to_owned();
    }
    completion
}

async fn collect_completion(
    provider: &dyn Provider,
    prompt: &Prompt,
    completion: &mut TextCompletion,
) -> Result<(), ProviderError> {
    let mut events = provider.open_stream(prompt).await?;
    while let Some(batch) = events.next().await {
        for event in batch? {
            match event {
                ProviderEvent::Text(text) => completion.text.push_str(&text),
                ProviderEvent::ThoughtsEnd => completion.text.clear(),
                ProviderEvent::Usage(usage) => {
                    completion.usage = Some(usage.or_earlier(completion.usage))
                }
                ProviderEvent::Model(model) => completion.model = Some(model),
                ProviderEvent::Reasoning(_)
                | ProviderEvent::ToolCall { .. }
                | ProviderEvent::ToolCallData { .. }
                | ProviderEvent::ToolInput { .. }
                | ProviderEvent::Source { .. }
                | ProviderEvent::Unsupported(_) => {}
                ProviderEvent::Finish(reason) => completion.finish_reason = Some(reason),
            }
        }
    }
    Ok(())
}
