//! What pictures take of a context window, and which models take none.
//!
//! Nobody says beforehand how large a picture is to a model: that depends on its pixels, which lie
//! behind a URL, and on the model. So each counts as the largest that vendors describe, whatever its
//! size and `detail`: a prompt may come out smaller than its budget, never larger.

use super::budget::MESSAGE_OVERHEAD;
use crate::domain::image::{Image, images};
use crate::domain::tool::{self, ToolCall, ToolResult};
use crate::domain::{MessageId, Role};
use crate::store::Remembered;

/// The most that a picture takes: Llama 3.2 Vision's four tiles of 1,601 tokens. OpenAI's models stay
/// below 4,000, but for the one below. Sources: <https://docs.together.ai/docs/vision-overview>,
/// <https://platform.openai.com/docs/guides/images-vision#calculating-costs>.
const IMAGE: u32 = 6_500;
/// gpt-4o-mini counts 2,833 and 5,667 for each of at most eight tiles.
const IMAGE_OF_4O_MINI: u32 = 48_200;
/// The most bytes of pictures that go into a prompt from memory; OpenAI takes 50 MB in all.
pub(super) const MAX_BYTES: usize = 16 << 20;

/// Beginnings of the names of models that refuse pictures. Others are believed to take them.
const TAKE_NONE: &[&str] = &[
    "gpt-3.5",
    "gpt-4-0314",
    "gpt-4-0613",
    "gpt-4-1106",
    "gpt-4-0125",
    "gpt-4-32k",
    "o1-mini",
    "o1-preview",
    "o3-mini",
    "deepseek-chat",
    "deepseek-reasoner",
];

/// The tokens that a picture counts for with a model; `None` if the model takes none.
pub(super) fn tokens_of_one(model: &str) -> Option<u32> {
    let name = model.rsplit('/').next().unwrap_or(model);
    if name == "gpt-4" || TAKE_NONE.iter().any(|beginning| name.starts_with(beginning)) {
        return None;
    }
    Some(if name.starts_with("gpt-4o-mini") { IMAGE_OF_4O_MINI } else { IMAGE })
}

/// The tokens of so many pictures; none where the model takes none.
pub(super) fn tokens_of(count: u32, each: Option<u32>) -> u32 {
    count.saturating_mul(each.unwrap_or(0))
}

/// A message of the path, with the pictures that go along.
#[derive(Debug)]
pub(super) struct Recent {
    pub(super) id: MessageId,
    pub(super) role: Role,
    pub(super) content: String,
    /// Of text and pictures.
    pub(super) tokens: u32,
    /// The message before it.
    pub(super) parent_id: Option<MessageId>,
    /// Tokens of the path before it …
    pub(super) tokens_before: u64,
    /// … and up to it.
    pub(super) path_tokens: u64,
    pub(super) images: Vec<Image>,
    /// The functions that it called.
    pub(super) calls: Vec<ToolCall>,
    /// What came of the calls before it.
    pub(super) results: Vec<ToolResult>,
}

/// Takes messages, newest first, while they fit `room`. The pictures of a message come along if they
/// fit, too; else its text goes alone, so that a large picture does not end what is remembered. Each
/// message comes with the tokens of its text.
/// Also whether all of it was taken.
pub(super) fn fit(
    messages: Vec<(Remembered, u32)>,
    mut room: u32,
    each: Option<u32>,
) -> (Vec<Recent>, bool) {
    let (mut taken, mut is_all) = (Vec::with_capacity(messages.len()), true);
    for (message, text_tokens) in messages {
        let Some(left) = room.checked_sub(text_tokens.saturating_add(MESSAGE_OVERHEAD)) else {
            return (taken, false);
        };
        let mut images = if each.is_some() { images(&message.parts) } else { Vec::new() };
        let mut image_tokens = tokens_of(u32::try_from(images.len()).unwrap_or(u32::MAX), each);
        if image_tokens > left {
            (images, image_tokens, is_all) = (Vec::new(), 0, false);
        }
        let (calls, results) = (tool::calls(&message.parts), tool::results(&message.parts));
        if message.content.is_empty() && images.is_empty() && calls.is_empty() && results.is_empty()
        {
            continue;
        }
        room = left - image_tokens;
        let own = u64::from(message.tokens) + u64::from(MESSAGE_OVERHEAD);
        let tokens_before = message.path_tokens.saturating_sub(own);
        let Remembered { id, role, content, path_tokens, parent_id, .. } = message;
        let tokens = text_tokens + image_tokens;
        taken.push(Recent {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_refuse_pictures_are_known_by_their_names() {
        for model in ["gpt-3.5-turbo", "gpt-4", "openai/gpt-4-0613", "o3-mini", "deepseek-chat"] {
            assert_eq!(tokens_of_one(model), None, "{model}");
        }
        for model in ["gpt-4o", "gpt-4-turbo", "gpt-4.1-mini", "gpt-5-mini", "o3", "llava"] {
            assert_eq!(tokens_of_one(model), Some(6_500), "{model}");
        }
        assert_eq!(tokens_of_one("openai/gpt-4o-mini-2024-07-18"), Some(48_200));
    }
}
