//! Content of messages: its validation, and the text of it that counts towards a prompt.
//!
//! Built on the data types of `message` and on their renderings in `attachment` and `tool`, none of
//! which may import this file.

use super::FieldError;
use super::attachment::render_text;
use super::message::{MAX_PARTS_BYTES, MessageParts, MessageType};
use super::text::reject_nul;
use super::tool;
use serde::Serialize;
use std::borrow::Cow;

/// The validated content of a message: not blank, without NUL, within its size limits.
#[derive(Debug, Clone, Serialize)]
pub struct MessageBody {
    /// May be empty if there are parts.
    pub content: String,
    pub parts: MessageParts,
    pub kind: MessageType,
}

impl MessageBody {
    /// Validates content sent by a client. `field` names the text in errors; `limit` is its maximum
    /// size in bytes.
    pub fn parse(
        field: &'static str,
        content: String,
        parts: MessageParts,
        kind: MessageType,
        limit: usize,
    ) -> Result<Self, ContentError> {
        reject_nul(field, &content)?;
        // A message may consist of parts alone, such as an image without a question.
        if content.trim().is_empty() && parts.is_empty() {
            return Err(FieldError::new(field, "must not be empty").into());
        }
        if content.len() > limit {
            return Err(ContentError::TooLarge { field, limit });
        }
        if parts.as_json().len() > MAX_PARTS_BYTES {
            return Err(ContentError::TooLarge { field: "parts", limit: MAX_PARTS_BYTES });
        }
        // The limit is meant for the prompt: text attachments count towards it, decoded, while the
        // size of images and other data is bounded by `MAX_PARTS_BYTES` alone.
        if render_text(&content, &parts).len() > limit {
            return Err(ContentError::TooLarge { field: "parts", limit });
        }
        Ok(Self { content, parts, kind })
    }

    /// The text that counts towards the prompt: content, rendered attachments and function calls.
    pub fn countable_text(&self) -> Cow<'_, str> {
        let text = render_text(&self.content, &self.parts);
        let calls = tool::format_calls(&tool::parse_calls(&self.parts));
        match calls.is_empty() {
            true => text,
            false => Cow::from(format!("{text}\n{calls}")),
        }
    }
}

/// Why content was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentError {
    InvalidField(FieldError),
    /// Content over its size limit.
    TooLarge {
        field: &'static str,
        /// In bytes.
        limit: usize,
    },
}

impl From<FieldError> for ContentError {
    fn from(invalid: FieldError) -> Self {
        Self::InvalidField(invalid)
    }
}
