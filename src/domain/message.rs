//! Messages: the immutable entries of a session.

use super::string_enum;
use super::text::{has_nul, truncate_chars};
use super::{FieldError, MessageId, SessionId, Timestamp, Usage, UserId};
use crate::json::limits::check_value;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt::{self, Formatter};
use utoipa::ToSchema;

/// Length of the message preview that a session shows as `lastMessage`, in characters.
pub const MAX_PREVIEW_CHARS: usize = 200;

/// Maximum size of a message's parts, in bytes of JSON: enough for a few inline images.
pub const MAX_PARTS_BYTES: usize = 8 << 20;

/// Maximum number of siblings that a message names. A page of messages with very many siblings
/// stays in proportion to its own size.
pub const MAX_SIBLING_IDS: usize = 11;

/// Maximum number of parts of a message that a client sends.
pub const MAX_PARTS: usize = 1_000;

/// Tokens that a message adds to a prompt in addition to its text: OpenAI counts 3 for the role and
/// the delimiters; 1 more is a safety margin.
///
/// See <https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken>.
pub const MESSAGE_TOKEN_OVERHEAD: u32 = 4;

/// Author role of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A human user.
    User,
    /// The model, or a person replying in its place.
    Assistant,
    /// An instruction to the model.
    System,
    /// The output of a tool.
    Tool,
}

/// Primary content type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageType {
    /// Text, in `content`.
    #[default]
    Text,
    /// An image, in `parts`.
    Image,
    /// A video, in `parts`.
    Video,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The message is complete.
    #[default]
    Complete,
    /// Stopped or cut off; the text up to that point is kept. `error` is set if the provider ended
    /// the stream early.
    Interrupted,
    /// The reply failed; the text so far is kept, and `error` has the cause.
    Failed,
}

string_enum!(Role { User = "user", Assistant = "assistant", System = "system", Tool = "tool" });
string_enum!(MessageType { Text = "text", Image = "image", Video = "video" });
string_enum!(Status { Complete = "complete", Interrupted = "interrupted", Failed = "failed" });

/// Why the model stopped, with the AI SDK's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// The reply was finished.
    Stop,
    /// The output token limit was reached.
    Length,
    /// The provider withheld the rest.
    ContentFilter,
    /// The model is waiting for tool results.
    ToolCalls,
    /// The provider failed.
    Error,
    /// Any other reason.
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
    /// Stable error code, from the same list as the API's error codes.
    pub code: String,
    /// Human-readable description.
    pub message: String,
}

/// A stored message.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Message id, unique within the session.
    #[schema(value_type = String)]
    pub id: MessageId,
    /// Session the message belongs to.
    #[schema(value_type = String)]
    pub session_id: SessionId,
    /// Position in the order in which the session stored its messages, across all branches,
    /// starting at 1.
    pub seq: u32,
    /// Message that this one follows; `null` for a root.
    #[schema(value_type = Option<String>)]
    pub parent_id: Option<MessageId>,
    /// Messages with the same parent, including this one, oldest first. If there are more than 11,
    /// the nearest ones; the route `siblings` lists all.
    #[schema(value_type = Vec<String>)]
    pub sibling_ids: Vec<MessageId>,
    /// Number of messages with the same parent, including this one.
    pub sibling_count: u32,
    /// Position of this message among all its siblings, starting at 0.
    pub sibling_index: u32,
    /// Author role.
    pub role: Role,
    /// User who sent the message, or `assistant`.
    #[schema(value_type = String)]
    pub sender_id: UserId,
    /// Primary content type.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// Message text.
    pub content: String,
    /// Content other than plain text: attachments, reasoning, tool calls and results. Images are
    /// sent to the model as images, text attachments as text; other attachments are mentioned by
    /// name.
    #[schema(value_type = Vec<Object>)]
    #[serde(serialize_with = "serialize_shown_parts")]
    pub parts: MessageParts,
    /// How the message ended.
    pub status: Status,
    /// Whether a participant other than the sender has read it.
    pub seen: bool,
    /// Model that wrote the reply.
    pub model: Option<String>,
    /// Why the model stopped.
    pub finish_reason: Option<FinishReason>,
    /// Id that the sender's client assigned; accepted wherever the message id is.
    #[schema(value_type = Option<String>)]
    pub client_message_id: Option<MessageId>,
    /// Why the reply failed.
    pub error: Option<MessageError>,
    /// Tokens and cost of the reply.
    pub usage: Option<Usage>,
    /// Time the message was stored, or the time given by an import.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Present if the message came with an import: its text, sender and time are what the file
    /// says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub imported: bool,
}

impl Message {
    /// Names the siblings nearest to this message. `id_at` returns the id of one of all `count`
    /// siblings, of which this message is the one at `index`.
    pub fn set_siblings(&mut self, count: usize, index: usize, id_at: impl Fn(usize) -> MessageId) {
        let first = index.saturating_sub(MAX_SIBLING_IDS / 2);
        let first = first.min(count.saturating_sub(MAX_SIBLING_IDS));
        self.sibling_ids = (first..count).take(MAX_SIBLING_IDS).map(id_at).collect();
        self.sibling_count = u32::try_from(count).unwrap_or(u32::MAX);
        self.sibling_index = u32::try_from(index).unwrap_or(u32::MAX);
    }

    /// The parts of a reply that was stored with an order of its own: its texts are among them.
    pub fn ordered_parts(&self) -> Option<Vec<Value>> {
        if self.role != Role::Assistant || !self.parts.as_json().contains("\"text\"") {
            return None;
        }
        let parts: Vec<Value> = serde_json::from_str(self.parts.as_json()).ok()?;
        let texts = parts.iter().filter(|part| part["type"] == "text");
        let letters = |text: &str| text.split_whitespace().collect::<String>();
        let text: String = texts.filter_map(|part| part["text"].as_str()).map(letters).collect();
        // Clients may add text parts that the content does not have.
        (!text.is_empty() && text == letters(&self.content)).then_some(parts)
    }

    /// Whether this is a reply whose tool calls have no results yet.
    pub fn is_awaiting_tool_results(&self) -> bool {
        // The calls of an interrupted reply may be cut off, so they do not wait for results.
        self.status == Status::Complete && self.finish_reason == Some(FinishReason::ToolCalls)
    }
}

/// The parts of a message: a JSON array of objects, each with a `type`, kept byte for byte.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct MessageParts(Box<RawValue>);

impl MessageParts {
    /// Validates parts sent by a client. Origins of calls are removed: data that is sent to a
    /// provider as it is comes from that provider only.
    pub fn parse(field: &'static str, raw: &RawValue) -> Result<Self, FieldError> {
        check_value(raw.get()).map_err(|message| FieldError::new(field, message))?;
        // Borrowed from the text, so that very many parts cost little until they are refused.
        let parts = serde_json::from_str::<Vec<&RawValue>>(raw.get());
        if parts.is_ok_and(|parts| parts.len() > MAX_PARTS) {
            let message = format!("must not have more than {MAX_PARTS} parts");
            return Err(FieldError::new(field, message));
        }
        Self::parse_with_origins(field, raw, |_| false)
    }

    /// Validates parts of an export file, which has the origins of calls so that they work after an
    /// import. Origins of another shape are removed.
    pub fn parse_exported(field: &'static str, raw: &RawValue) -> Result<Self, FieldError> {
        // A part that is nested deeper could not be read where it is part of a page of messages.
        check_value(raw.get()).map_err(|message| FieldError::new(field, message))?;
        let is_origin =
            |origin: &RawValue| serde_json::from_str::<CallOrigin>(origin.get()).is_ok();
        Self::parse_with_origins(field, raw, is_origin)
    }

    fn parse_with_origins(
        field: &'static str,
        raw: &RawValue,
        keeps_origin: impl Fn(&RawValue) -> bool,
    ) -> Result<Self, FieldError> {
        let invalid = || FieldError::new(field, "must be a list of objects, each with a \"type\"");
        // Parsing into values, unlike scanning for syntax, limits the nesting depth and rejects
        // unpaired surrogates.
        let parts: Vec<Value> = serde_json::from_str(raw.get()).map_err(|_| invalid())?;
        if !parts.iter().all(|part| part.get("type").is_some_and(Value::is_string)) {
            return Err(invalid());
        }
        if parts.iter().any(has_nul) {
            return Err(FieldError::new(field, "must not contain the character NUL (U+0000)"));
        }
        let has_origin = |part: &Value| part["type"] == TOOL_CALL && part.get(ORIGIN).is_some();
        if !parts.iter().any(has_origin) {
            return Ok(Self(raw.to_owned()));
        }
        filter_origins(raw, keeps_origin).map(Self).ok_or_else(invalid)
    }

    /// Wraps parts read from a store, as JSON text.
    pub fn from_stored(text: String) -> Option<Self> {
        RawValue::from_string(text).ok().map(Self)
    }

    /// Encodes parts written by the server itself.
    pub fn from_parts(parts: &[MessagePart]) -> Self {
        // Serializing structs of strings and valid raw JSON cannot fail.
        Self(serde_json::value::to_raw_value(parts).unwrap_or_default())
    }

    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// The model's reasoning, if it is among the parts.
    pub fn reasoning(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let parts: Vec<Value> = serde_json::from_str(self.as_json()).ok()?;
        let thoughts = parts.iter().filter(|part| part["type"] == "reasoning");
        let texts: Vec<&str> = thoughts.filter_map(|part| part["text"].as_str()).collect();
        (!texts.is_empty()).then(|| texts.join("\n\n"))
    }

    pub fn is_empty(&self) -> bool {
        self.as_json() == "[]"
    }
}

const TOOL_CALL: &str = "tool-call";
/// The field of a `tool-call` part with its [`CallOrigin`].
const ORIGIN: &str = "origin";

/// The fields of a part, byte for byte and in their order.
struct PartFields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for PartFields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = PartFields<'de>;

            fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    fields.push((name, value));
                }
                Ok(PartFields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

impl Serialize for PartFields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Removes the origins of calls that `keeps_origin` rejects; everything else stays as it is. `None`
/// if `parts` is not a list of objects.
fn filter_origins(
    parts: &RawValue,
    keeps_origin: impl Fn(&RawValue) -> bool,
) -> Option<Box<RawValue>> {
    let mut parts: Vec<PartFields<'_>> = serde_json::from_str(parts.get()).ok()?;
    for PartFields(fields) in &mut parts {
        let is_type = |name: &str, value: &RawValue| {
            name == "type"
                && serde_json::from_str::<String>(value.get()).is_ok_and(|it| it == TOOL_CALL)
        };
        if fields.iter().any(|(name, value)| is_type(name, value)) {
            fields.retain(|(name, value)| name != ORIGIN || keeps_origin(value));
        }
    }
    serde_json::value::to_raw_value(&parts).ok()
}

/// Serializes parts as clients see them: the origins of calls are of no use to anyone but their
/// provider. Most messages have no calls, and a scan of the text saves parsing them.
fn serialize_shown_parts<S: Serializer>(
    parts: &MessageParts,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match parts.as_json().contains("\"origin\"") {
        true => filter_origins(&parts.0, |_| false).serialize(serializer),
        false => parts.serialize(serializer),
    }
}

impl Default for MessageParts {
    fn default() -> Self {
        Self::from_parts(&[])
    }
}

/// The data of a call that only its own model understands. It is sent back to that model unchanged,
/// and to no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallOrigin {
    /// Name of the endpoint: the protocol, and the address unless it is the vendor's own.
    pub provider: String,
    /// Name of the model.
    pub model: String,
    /// The model's own id of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// Data that the model wants back with the result of the call, such as signed reasoning. Only
    /// the module of the provider knows its fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opaque_data: Option<Value>,
}

/// The parts that the server writes.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum MessagePart {
    /// The model's reasoning before its answer, or between the texts of its answer.
    Reasoning { text: String },
    /// A text of the answer. Written only if something else is between two texts; `content` has all
    /// texts in any case.
    Text { text: String },
    /// A web page that the answer cites.
    SourceUrl {
        source_id: String,
        url: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
    },
    /// A function call requested by the model.
    ToolCall {
        tool_call_id: String,
        tool_name: String,
        /// JSON arguments.
        input: Box<RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<CallOrigin>,
    },
    /// The result of a function call.
    ToolResult {
        tool_call_id: String,
        tool_name: String,
        output: Box<RawValue>,
        /// Whether the call failed.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
        /// First reply of the same question that requested tools; AI SDK clients know the whole
        /// exchange by its id.
        #[serde(skip_serializing_if = "Option::is_none")]
        message_id: Option<MessageId>,
    },
}

/// Cuts a message down to the preview that its session shows.
pub fn truncate_preview(content: &str) -> &str {
    truncate_chars(content, MAX_PREVIEW_CHARS)
}
