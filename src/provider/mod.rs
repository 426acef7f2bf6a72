//! LLM endpoints: what a turn asks of one, and what comes back.
//!
//! Implementations: [`openai`] for everything that speaks Chat Completions, [`anthropic`] for the
//! Messages API, [`demo`] for when there is nothing else. [`resilient`] puts patience around any of
//! them. What every implementation must do is written down in `tests/it/provider_contract.rs`.

pub mod anthropic;
pub mod demo;
pub mod embeddings;
mod http;
pub mod openai;
pub mod resilient;

pub use openai::find_usage;

use crate::domain::extra_params::ExtraParams;
use crate::domain::image::MessageImage;
use crate::domain::message::FinishReason;
use crate::domain::tool::{ToolCall, ToolResult};
use crate::domain::{Role, Usage};
use crate::error::{Error, ErrorKind};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// What a model is asked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prompt {
    /// The model's name, as the endpoint knows it.
    pub model: String,
    /// What it is told, in order.
    pub messages: Vec<PromptMessage>,
    /// From 0 to 2.
    pub temperature: Option<f64>,
    /// From 0 to 1.
    pub top_p: Option<f64>,
    /// Most tokens of the reply.
    pub max_output_tokens: Option<u32>,
    /// What a request says beside that.
    pub extra_params: ExtraParams,
    /// What prompts have in common that begin the same way, at most 64 characters: a hint to caches.
    pub cache_key: Option<String>,
}

/// One message of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptMessage {
    /// Who speaks.
    pub role: Role,
    /// The text, exactly as sent.
    pub content: Arc<str>,
    /// The pictures that go with it.
    pub images: Vec<MessageImage>,
    /// The functions that a reply called. The message behind it holds a result for each.
    pub calls: Vec<ToolCall>,
    /// What came of the calls before it; of the role `tool` these are all that is told.
    pub results: Vec<ToolResult>,
}

impl PromptMessage {
    /// A message of nothing but text.
    pub fn from_text(role: Role, content: impl Into<Arc<str>>) -> Self {
        let (images, calls, results) = Default::default();
        Self { role, content: content.into(), images, calls, results }
    }
}

/// What comes back, piece by piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderEvent {
    /// More of the answer.
    Text(String),
    /// More of what the model thinks before it answers.
    Reasoning(String),
    /// A function is to be called; its arguments follow.
    ToolCall {
        /// Tells the calls of one reply apart.
        index: u32,
        /// The call's name.
        id: String,
        /// The function.
        name: String,
    },
    /// More of a call's arguments, which are JSON once all of them are here.
    ToolInput {
        /// The call, which was told of before.
        index: u32,
        /// The piece.
        delta: String,
    },
    /// What the reply cost. May come more than once; the last counts.
    Usage(Usage),
    /// The model stopped by itself. A stream that ends without this was cut off.
    Finish(FinishReason),
    /// Another model than the one that was asked answers.
    Model(String),
}

/// Batches of events: each holds what had arrived when it was asked for. After an error, and after
/// the end, nothing more comes. Dropping it ends the call.
pub type ProviderEvents = BoxStream<'static, Result<Vec<ProviderEvent>, ProviderError>>;

/// What an endpoint answered in its own words.
pub struct RawResponse {
    /// The HTTP status.
    pub status: u16,
    /// The type of its body.
    pub content_type: String,
    /// How long the endpoint wants to be left alone.
    pub retry_after: Option<Duration>,
    /// Its body, as it comes.
    pub body: BoxStream<'static, Result<Bytes, ProviderError>>,
}

/// A model that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelInfo {
    /// Its name.
    pub id: String,
    /// The provider that has it.
    pub provider: String,
    /// How many tokens prompt and reply may have together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u32>,
}

/// Why a provider gave no reply, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProviderError {
    /// What happened.
    pub kind: ProviderErrorKind,
    /// A sentence that is safe to show to users.
    pub message: String,
    /// Whether the same call may succeed a moment later.
    pub is_retryable: bool,
    /// How long the endpoint wants to be left alone.
    pub retry_after: Option<Duration>,
    /// Whether nothing of the prompt was sent: such a call has cost nothing.
    pub is_unsent: bool,
}

/// What can happen to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderErrorKind {
    /// It answered with an error, or with something unreadable.
    BadResponse,
    /// The prompt is too long for the model.
    ContextTooLong,
    /// It could not be reached, or the connection broke.
    ConnectionFailed,
    /// It took longer than a deadline.
    Timeout,
}

impl ProviderError {
    /// An error with a sentence that is safe to show.
    pub fn new(fault: ProviderErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind: fault, message, is_retryable: false, retry_after: None, is_unsent: false }
    }

    /// The same, of something that may have passed a moment later.
    pub fn retryable(fault: ProviderErrorKind, message: impl Into<String>) -> Self {
        Self { is_retryable: true, ..Self::new(fault, message) }
    }

    /// The kind of error this is to a client.
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
    /// Its name, for logs and lists: `openai`, `demo`.
    fn name(&self) -> &'static str;

    /// The models it has.
    async fn list_models(&self) -> Result<Vec<ModelInfo>, ProviderError>;

    /// Hands on a request in the words of Chat Completions as it is, and gives the endpoint's own
    /// answer. `None` from one that speaks otherwise. An answer that is the operator's matter (its
    /// credentials, its being down) is an error; what the caller got wrong is an answer.
    async fn forward_request(
        &self,
        _: Bytes,
        _is_stream: bool,
    ) -> Result<Option<RawResponse>, ProviderError> {
        Ok(None)
    }

    /// Asks for a reply. Gives the stream as soon as the endpoint has accepted the prompt; dropping
    /// the future or the stream ends the call.
    async fn open_stream(&self, prompt: &Prompt) -> Result<ProviderEvents, ProviderError>;
}

/// Whoever has a model write a whole text, beside the turns.
#[async_trait]
pub trait TextGenerator: Send + Sync {
    /// All that the model writes to this prompt.
    async fn generate_text(&self, prompt: &Prompt) -> crate::error::Result<String>;
}

/// What a model wrote to a prompt, as far as it came, and what is known of its cost.
#[derive(Debug)]
pub struct TextCompletion {
    /// The text.
    pub text: String,
    /// Its tokens, if the endpoint told them.
    pub usage: Option<Usage>,
    /// The model that answered, if it is another than the one that was asked.
    pub model: Option<String>,
    /// Why there is no more of it, if it broke off.
    pub error: Option<ProviderError>,
}

/// Asks a model for a whole text, for who has no use for the pieces.
pub async fn complete_text(provider: &dyn Provider, prompt: &Prompt) -> TextCompletion {
    let mut written = TextCompletion { text: String::new(), usage: None, model: None, error: None };
    written.error = collect_completion(provider, prompt, &mut written).await.err();
    written
}

async fn collect_completion(
    provider: &dyn Provider,
    prompt: &Prompt,
    written: &mut TextCompletion,
) -> Result<(), ProviderError> {
    let mut events = provider.open_stream(prompt).await?;
    while let Some(batch) = events.next().await {
        for event in batch? {
            match event {
                ProviderEvent::Text(text) => written.text.push_str(&text),
                ProviderEvent::Usage(usage) => written.usage = Some(usage),
                ProviderEvent::Model(model) => written.model = Some(model),
                ProviderEvent::Reasoning(_)
                | ProviderEvent::ToolCall { .. }
                | ProviderEvent::ToolInput { .. }
                | ProviderEvent::Finish(_) => {}
            }
        }
    }
    Ok(())
}
