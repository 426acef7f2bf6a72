//! The order of thinking, texts and calls in a reply that is sent back.
//!
//! Thinking is stored with the call after it, together with the texts whose place would be lost
//! otherwise. The text of a message is one string, in which the stored texts are found again.

use super::reply::THINKING;
use crate::domain::message::CallOrigin;
use serde_json::Value;

/// A block that is stored with the call after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredBlock<'a> {
    Text(&'a str),
    Thinking { thinking: &'a str, signature: &'a str },
    RedactedThinking { data: &'a str },
}

impl<'a> StoredBlock<'a> {
    pub(super) const fn is_thinking(self) -> bool {
        !matches!(self, Self::Text(_))
    }

    /// `None` for thinking without its signature, which would be rejected.
    fn from_value(block: &'a Value) -> Option<Self> {
        let field = |name: &str| block.get(name).and_then(Value::as_str);
        let filled = |name: &str| field(name).filter(|text| !text.is_empty());
        match (field("text"), filled("data")) {
            (Some(text), _) => Some(Self::Text(text)),
            (None, Some(data)) => Some(Self::RedactedThinking { data }),
            (None, None) => Some(Self::Thinking {
                thinking: field("thinking")?,
                signature: filled("signature")?,
            }),
        }
    }
}

/// The blocks before a call. If a block of thinking cannot be sent, none is: a part of the thinking
/// would be rejected as well.
pub(super) fn read_blocks(origin: Option<&CallOrigin>) -> Vec<StoredBlock<'_>> {
    let data = origin.and_then(|origin| origin.opaque_data.as_ref());
    let list = data.and_then(|data| data.get(THINKING)?.as_array()).into_iter().flatten();
    let blocks: Vec<Option<StoredBlock<'_>>> = list.map(StoredBlock::from_value).collect();
    let is_whole = blocks.iter().all(Option::is_some);
    let blocks = blocks.into_iter().flatten();
    blocks.filter(|block| is_whole || !block.is_thinking()).collect()
}

/// A block of a reply that is sent back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyBlock<'a> {
    Text(&'a str),
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    RedactedThinking {
        data: &'a str,
    },
    /// The place of a call in its message.
    Call(usize),
}

/// Arranges a reply with calls: `stored` has the blocks before each call, and `content` all texts
/// of the reply. Texts that are not stored belong before the first call.
pub(super) fn arrange_reply<'a>(
    content: &'a str,
    stored: Vec<Vec<StoredBlock<'a>>>,
) -> Vec<ReplyBlock<'a>> {
    let Some(mut texts) = find_texts(content, &stored) else {
        // The text was shortened since. Thinking comes first in a message.
        let thinking = stored.iter().flatten().filter(|block| block.is_thinking());
        let mut blocks: Vec<_> = thinking.map(|block| to_reply_block(*block)).collect();
        push_text(&mut blocks, content);
        blocks.extend((0..stored.len()).map(ReplyBlock::Call));
        return blocks;
    };
    let mut blocks = Vec::new();
    let mut end = 0;
    for (place, own) in stored.iter().enumerate() {
        for block in own {
            if let StoredBlock::Text(text) = block {
                let Some(start) = texts.pop() else { continue };
                push_text(&mut blocks, &content[end..start]);
                end = start + text.len();
            }
            match block {
                StoredBlock::Text(text) => push_text(&mut blocks, text),
                block => blocks.push(to_reply_block(*block)),
            }
        }
        if place == 0 && !own.iter().any(|block| !block.is_thinking()) {
            let next = texts.last().copied().unwrap_or(content.len());
            push_text(&mut blocks, content[end..next].trim_end());
            end = next;
        }
        blocks.push(ReplyBlock::Call(place));
    }
    push_text(&mut blocks, content[end..].trim());
    blocks
}

/// Where the stored texts begin in `content`, last one first; `None` if one is missing. Searched
/// from the end, because only texts at the beginning are not stored.
fn find_texts(content: &str, stored: &[Vec<StoredBlock<'_>>]) -> Option<Vec<usize>> {
    let mut end = content.len();
    let texts = stored.iter().flatten().rev().filter_map(|block| match block {
        StoredBlock::Text(text) => Some(*text),
        StoredBlock::Thinking { .. } | StoredBlock::RedactedThinking { .. } => None,
    });
    texts
        .map(|text| {
            end = content.get(..end)?.rfind(text)?;
            Some(end)
        })
        .collect()
}

/// The API rejects blank texts.
fn push_text<'a>(blocks: &mut Vec<ReplyBlock<'a>>, text: &'a str) {
    if !text.trim().is_empty() {
        blocks.push(ReplyBlock::Text(text));
    }
}

const fn to_reply_block(block: StoredBlock<'_>) -> ReplyBlock<'_> {
    match block {
        StoredBlock::Text(text) => ReplyBlock::Text(text),
        StoredBlock::Thinking { thinking, signature } => {
            ReplyBlock::Thinking { thinking, signature }
        }
        StoredBlock::RedactedThinking { data } => ReplyBlock::RedactedThinking { data },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T1: StoredBlock<'_> = StoredBlock::Thinking { thinking: "1", signature: "s1" };
    const T2: StoredBlock<'_> = StoredBlock::RedactedThinking { data: "2" };

    fn thinking(block: StoredBlock<'static>) -> ReplyBlock<'static> {
        to_reply_block(block)
    }

    #[test]
    fn stored_texts_keep_their_place() {
        use ReplyBlock::{Call, Text};
        let text = StoredBlock::Text;
        for (content, stored, expected) in [
            ("Hi. ", vec![vec![]], vec![Text("Hi."), Call(0)]),
            ("", vec![vec![T1]], vec![thinking(T1), Call(0)]),
            ("Hi.", vec![vec![T1, T2]], vec![thinking(T1), thinking(T2), Text("Hi."), Call(0)]),
            (
                "Hi.\n\nSo.",
                vec![vec![T1, text("Hi."), T2, text("So.")]],
                vec![thinking(T1), Text("Hi."), thinking(T2), Text("So."), Call(0)],
            ),
            (
                "Hi.\n\nSo.\n\nEnd.",
                vec![vec![T1], vec![text("So."), T2], vec![]],
                vec![
                    thinking(T1),
                    Text("Hi."),
                    Call(0),
                    Text("So."),
                    thinking(T2),
                    Call(1),
                    Call(2),
                    Text("End."),
                ],
            ),
            (
                "Shortened",
                vec![vec![T1, text("Long."), T2]],
                vec![thinking(T1), thinking(T2), Text("Shortened"), Call(0)],
            ),
        ] {
            assert_eq!(arrange_reply(content.trim_end(), stored), expected, "{content}");
        }
    }
}
