//! Messages: the immutable entries of a session.

use super::attachment::render_text;
use super::string_enum;
use super::text::{has_nul, reject_nul, truncate_chars};
use super::tool;
use super::{FieldError, MessageId, SessionId, Timestamp, Usage, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use utoipa::ToSchema;

/// How much of a message a session shows as its `lastMessage`, in characters.
pub const MAX_PREVIEW_CHARS: usize = 200;

/// The most bytes of JSON in a message's parts: a few pictures.
pub const MAX_PARTS_BYTES: usize = 8 << 20;

/// What each message takes of a prompt beside its text, in tokens: its role and the marks around it,
/// as OpenAI counts them (3, and 1 for good measure).
/// Source: <https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken>.
pub const MESSAGE_TOKEN_OVERHEAD: u32 = 4;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A person.
    User,
    /// The model, or a person answering in its place.
    Assistant,
    /// An instruction that goes to the model in its place.
    System,
    /// What a tool returned.
    Tool,
}

/// What a message mainly is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageType {
    /// Text.
    #[default]
    Text,
    /// A picture, in `parts`.
    Image,
    /// A film, in `parts`.
    Video,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All of it is here.
    #[default]
    Complete,
    /// Stopped or cut off: what was produced is kept.
    Interrupted,
    /// The provider failed; what it produced before is kept, the cause stands in `error`.
    Failed,
}

string_enum!(Role { User = "user", Assistant = "assistant", System = "system", Tool = "tool" });
string_enum!(MessageType { Text = "text", Image = "image", Video = "video" });
string_enum!(Status { Complete = "complete", Interrupted = "interrupted", Failed = "failed" });

/// Why a model stopped, in the AI SDK's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// It was done.
    Stop,
    /// It reached the limit of output tokens.
    Length,
    /// The provider withheld the rest.
    ContentFilter,
    /// It wants tools to be called.
    ToolCalls,
    /// It failed.
    Error,
    /// Something else.
    Other,
}

string_enum!(FinishReason {
    Stop = "stop",
    Length = "length",
    ContentFilter = "content-filter",
    ToolCalls = "tool-calls",
    Error = "error",
    Other = "other",
});

/// Why a reply failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageError {
    /// A stable code, from the same list as the API's errors.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// One stored message.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Unique within the session.
    #[schema(value_type = String)]
    pub id: MessageId,
    /// The session it is in.
    #[schema(value_type = String)]
    pub session_id: SessionId,
    /// Its place in the order in which the session's messages were stored, all branches together,
    /// counted from 1.
    pub seq: u32,
    /// The message it answers or follows; `null` for a root.
    #[schema(value_type = Option<String>)]
    pub parent_id: Option<MessageId>,
    /// The messages with the same parent, this one included, oldest first.
    #[schema(value_type = Vec<String>)]
    pub sibling_ids: Vec<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// The user who sent it, or `assistant`.
    #[schema(value_type = String)]
    pub sender_id: UserId,
    /// What it mainly is.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// Its text.
    pub content: String,
    /// What is not plain text: attachments, reasoning. Models are shown pictures, are told texts as
    /// they are, and of other attachments that they were there.
    #[schema(value_type = Vec<Object>)]
    pub parts: MessageParts,
    /// How it ended.
    pub status: Status,
    /// Whether someone other than its sender has read up to it.
    pub seen: bool,
    /// The model that wrote it.
    pub model: Option<String>,
    /// Why the model stopped.
    pub finish_reason: Option<FinishReason>,
    /// The name its sender's client gave it; accepted wherever its id is.
    #[schema(value_type = Option<String>)]
    pub client_message_id: Option<MessageId>,
    /// Why it failed.
    pub error: Option<MessageError>,
    /// What it cost.
    pub usage: Option<Usage>,
    /// When it was stored, or when its importer says it was written.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl Message {
    /// Whether it is a reply that waits for the outputs of the functions that it calls.
    pub fn is_awaiting_tool_results(&self) -> bool {
        self.status == Status::Complete && self.finish_reason == Some(FinishReason::ToolCalls)
    }
}

/// A message's parts: a JSON array of objects that each have a `type`, kept as they came.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct MessageParts(Box<RawValue>);

impl MessageParts {
    /// Takes parts as a client sent them.
    pub fn parse(field: &'static str, raw: &RawValue) -> Result<Self, FieldError> {
        let wants = || FieldError::new(field, "must be a list of objects, each with a \"type\"");
        // Reading values, not only scanning, bounds the depth and finds half surrogate pairs.
        let parts: Vec<Value> = serde_json::from_str(raw.get()).map_err(|_| wants())?;
        if !parts.iter().all(|part| part.get("type").is_some_and(Value::is_string)) {
            return Err(wants());
        }
        if parts.iter().any(has_nul) {
            return Err(FieldError::new(field, "must not contain the character NUL (U+0000)"));
        }
        Ok(Self(raw.to_owned()))
    }

    /// Parts read back from a store, as their JSON text.
    pub fn from_stored(text: String) -> Option<Self> {
        RawValue::from_string(text).ok().map(Self)
    }

    /// Parts made by the server itself.
    pub fn from_parts(parts: &[MessagePart]) -> Self {
        // A list of structs of strings always has a JSON form.
        Self(serde_json::value::to_raw_value(parts).unwrap_or_default())
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// What the model thought before it answered, if it is among the parts.
    pub fn reasoning(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let parts: Vec<Value> = serde_json::from_str(self.as_json()).ok()?;
        let thoughts = parts.iter().find(|part| part["type"] == "reasoning")?;
        thoughts["text"].as_str().map(str::to_owned)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.as_json() == "[]"
    }
}

impl Default for MessageParts {
    fn default() -> Self {
        Self::from_parts(&[])
    }
}

/// The parts that the server itself writes.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum MessagePart {
    /// What the model thought before it answered.
    Reasoning {
        /// The thoughts.
        text: String,
    },
    /// A function that the model wants called.
    ToolCall {
        /// The call's name.
        tool_call_id: String,
        /// The function.
        tool_name: String,
        /// Its arguments.
        input: Box<RawValue>,
    },
    /// What came of a call.
    ToolResult {
        /// The call.
        tool_call_id: String,
        /// The function.
        tool_name: String,
        /// What it returned.
        output: Box<RawValue>,
        /// Whether it failed.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
        /// The reply that is continued.
        #[serde(skip_serializing_if = "Option::is_none")]
        message_id: Option<MessageId>,
    },
}

/// What a message says, checked: not empty, no NUL, not over the limit.
#[derive(Debug, Clone, Serialize)]
pub struct MessageBody {
    /// The text; may be empty where there are parts.
    pub content: String,
    /// What is not plain text.
    pub parts: MessageParts,
    /// What it mainly is.
    pub kind: MessageType,
}

impl MessageBody {
    /// Takes what a client sent; `field` is the name of the text in the complaint, `limit` the
    /// most bytes of text.
    pub fn parse(
        field: &'static str,
        content: String,
        parts: MessageParts,
        kind: MessageType,
        limit: usize,
    ) -> Result<Self, ContentError> {
        reject_nul(field, &content)?;
        if content.trim().is_empty() && parts.is_empty() {
            return Err(FieldError::new(field, "must not be empty").into());
        }
        if content.len() > limit {
            return Err(ContentError::TooLarge { field, limit });
        }
        if parts.as_json().len() > MAX_PARTS_BYTES {
            return Err(ContentError::TooLarge { field: "parts", limit: MAX_PARTS_BYTES });
        }
        if render_text(&content, &parts).len() > limit {
            return Err(ContentError::TooLarge { field: "parts", limit });
        }
        Ok(Self { content, parts, kind })
    }
}

impl MessageBody {
    /// All that is counted of it: its text, what is attached, and the functions that it calls.
    pub fn countable_text(&self) -> Cow<'_, str> {
        let told = render_text(&self.content, &self.parts);
        let calls = tool::format_calls(&tool::parse_calls(&self.parts));
        match calls.is_empty() {
            true => told,
            false => Cow::from(format!("{told}\n{calls}")),
        }
    }
}

/// Why a message's text was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentError {
    /// A field does not hold what it must.
    InvalidField(FieldError),
    /// The text is over its limit, in bytes.
    TooLarge {
        /// The field.
        field: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl From<FieldError> for ContentError {
    fn from(invalid: FieldError) -> Self {
        Self::InvalidField(invalid)
    }
}

/// What a session shows of its last message.
pub fn truncate_preview(content: &str) -> &str {
    truncate_chars(content, MAX_PREVIEW_CHARS)
}
