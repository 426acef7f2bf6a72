//! The window: messages at the end of the path that the prompt contains verbatim, with their
//! images.

use super::image_tokens::ImageTokenCounter;
use crate::domain::attachment::render_text_and_images;
use crate::domain::image::MessageImage;
use crate::domain::message::MESSAGE_TOKEN_OVERHEAD;
use crate::domain::tool::{self, ToolCall, ToolResult};
use crate::domain::{MessageId, Role};
use crate::store::HistoryMessage;

/// Upper bound of image bytes taken from history. OpenAI accepts 50 MB per request, new message
/// included.
pub(super) const MAX_IMAGE_BYTES: usize = 16 << 20;

/// A message of the window, as it is sent.
#[derive(Debug)]
pub(super) struct WindowMessage {
    pub(super) id: MessageId,
    pub(super) role: Role,
    /// Text, including the text of attachments.
    pub(super) content: String,
    /// Tokens of text and images, without framing.
    pub(super) tokens: u32,
    pub(super) parent_id: Option<MessageId>,
    /// Tokens of the path before this message.
    pub(super) tokens_before: u64,
    /// Tokens of the path up to and including this message.
    pub(super) path_tokens: u64,
    pub(super) images: Vec<MessageImage>,
    pub(super) calls: Vec<ToolCall>,
    pub(super) results: Vec<ToolResult>,
}

/// Takes messages, newest first, as long as they fit `available` tokens. Includes a message's
/// images if they fit, otherwise only its text, so one large image does not end the window. Each
/// message comes with the tokens of its text. Returns the messages and whether all messages and
/// images fit.
pub(super) fn fit_messages(
    messages: Vec<(HistoryMessage, u32)>,
    mut available: u32,
    image_counter: Option<ImageTokenCounter>,
) -> (Vec<WindowMessage>, bool) {
    let mut window = Vec::with_capacity(messages.len());
    let mut fits_all = true;
    for (message, text_tokens) in messages {
        let Some(left) = available.checked_sub(text_tokens.saturating_add(MESSAGE_TOKEN_OVERHEAD))
        else {
            // The window has no gaps: it ends at the first message that does not fit.
            return (window, false);
        };
        let (text, images) = render_text_and_images(&message.content, &message.parts);
        let content = text.into_owned();
        let mut images = if image_counter.is_some() { images } else { Vec::new() };
        let mut image_tokens = image_counter.map_or(0, |counter| counter.count_images(&images).max);
        if image_tokens > left {
            images = Vec::new();
            image_tokens = 0;
            fits_all = false;
        }
        // Clients may store call and result parts under any role; providers accept them only here.
        let (calls, results) = match message.role {
            Role::Assistant => (tool::parse_calls(&message.parts), Vec::new()),
            Role::Tool => (Vec::new(), tool::parse_results(&message.parts)),
            Role::User | Role::System => (Vec::new(), Vec::new()),
        };
        // Providers reject messages without any content.
        if content.is_empty() && images.is_empty() && calls.is_empty() && results.is_empty() {
            continue;
        }
        available = left - image_tokens;
        // Path positions are in o200k_base tokens, whatever the model's vocabulary is.
        let own_tokens = u64::from(message.tokens) + u64::from(MESSAGE_TOKEN_OVERHEAD);
        window.push(WindowMessage {
            id: message.id,
            parent_id: message.parent_id,
            role: message.role,
            content,
            tokens: text_tokens + image_tokens,
            tokens_before: message.path_tokens.saturating_sub(own_tokens),
            path_tokens: message.path_tokens,
            images,
            calls,
            results,
        });
    }
    (window, fits_all)
}
