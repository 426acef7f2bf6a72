//! The messages of a path that stand in a prompt verbatim, with the pictures that go along.

use super::budget::MESSAGE_TOKEN_OVERHEAD;
use super::image_tokens::ImageTokenCounter;
use crate::domain::attachment::render_text_and_images;
use crate::domain::image::MessageImage;
use crate::domain::tool::{self, ToolCall, ToolResult};
use crate::domain::{MessageId, Role};
use crate::store::HistoryMessage;

/// The most bytes of pictures that go into a prompt from memory; OpenAI takes 50 MB in all.
pub(super) const MAX_IMAGE_BYTES: usize = 16 << 20;

/// A message of the path, with the pictures that go along.
#[derive(Debug)]
pub(super) struct WindowMessage {
    pub(super) id: MessageId,
    pub(super) role: Role,
    /// Its text, and what is attached to it.
    pub(super) content: String,
    /// Of text and pictures.
    pub(super) tokens: u32,
    /// The message before it.
    pub(super) parent_id: Option<MessageId>,
    /// Tokens of the path before it …
    pub(super) tokens_before: u64,
    /// … and up to it.
    pub(super) path_tokens: u64,
    pub(super) images: Vec<MessageImage>,
    /// The functions that it called.
    pub(super) calls: Vec<ToolCall>,
    /// What came of the calls before it.
    pub(super) results: Vec<ToolResult>,
}

/// Takes messages, newest first, while they fit `room`. The pictures of a message come along if they
/// fit, too; else its text goes alone, so that a large picture does not end what is remembered. Each
/// message comes with the tokens of its text.
/// Also whether all of it was taken.
pub(super) fn fit_messages(
    messages: Vec<(HistoryMessage, u32)>,
    mut room: u32,
    sight: Option<ImageTokenCounter>,
) -> (Vec<WindowMessage>, bool) {
    let (mut taken, mut is_all) = (Vec::with_capacity(messages.len()), true);
    for (message, text_tokens) in messages {
        let Some(left) = room.checked_sub(text_tokens.saturating_add(MESSAGE_TOKEN_OVERHEAD))
        else {
            return (taken, false);
        };
        let (told, images) = render_text_and_images(&message.content, &message.parts);
        let content = told.into_owned();
        let mut images = if sight.is_some() { images } else { Vec::new() };
        let mut image_tokens = sight.map_or(0, |sight| sight.count_images(&images).max);
        if image_tokens > left {
            (images, image_tokens, is_all) = (Vec::new(), 0, false);
        }
        // Anybody may send such parts; only these roles mean them.
        let (calls, results) = match message.role {
            Role::Assistant => (tool::parse_calls(&message.parts), Vec::new()),
            Role::Tool => (Vec::new(), tool::parse_results(&message.parts)),
            Role::User | Role::System => (Vec::new(), Vec::new()),
        };
        if content.is_empty() && images.is_empty() && calls.is_empty() && results.is_empty() {
            continue;
        }
        room = left - image_tokens;
        let own = u64::from(message.tokens) + u64::from(MESSAGE_TOKEN_OVERHEAD);
        let tokens_before = message.path_tokens.saturating_sub(own);
        let HistoryMessage { id, role, path_tokens, parent_id, .. } = message;
        let tokens = text_tokens + image_tokens;
        taken.push(WindowMessage {
            id,
            parent_id,
            role,
            content,
            tokens,
            tokens_before,
            path_tokens,
            images,
            calls,
            results,
        });
    }
    (taken, is_all)
}
