//! The sections of a prompt: what they contain, in which order they are sent, and how much of the
//! prompt a provider's cache can reuse.
//!
//! Each group of sections states whether the next prompt repeats it. The cacheable prefix follows
//! from that and from the order, which [`PromptSections::into_ordered`] alone decides.

use crate::domain::image::MessageImage;
use crate::domain::message::MESSAGE_TOKEN_OVERHEAD;
use crate::domain::tool::{ToolCall, ToolResult};
use crate::domain::{MessageId, Role};
use serde::{Serialize, Serializer};
use std::sync::Arc;
use utoipa::ToSchema;

/// Kind of a prompt section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SectionKind {
    /// System prompt: the server's template, or the session's own instructions.
    System,
    /// Description, instructions and files of the session's project.
    Project,
    /// Summary of messages that are no longer included verbatim.
    Summary,
    /// Message of the session, verbatim.
    Recent,
    /// Earlier message that is relevant to the new one. It is sent in front of the new message's
    /// text, in the same message.
    Recalled,
    /// The new message, or the reply whose function calls it answers.
    New,
}

/// One message of the prompt, or a part of its last message.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PromptSection {
    /// Kind of the section.
    pub kind: SectionKind,
    /// Role under which the section is sent.
    pub role: Role,
    /// Ids of the stored messages that the section contains or summarizes.
    #[schema(value_type = Vec<String>)]
    pub message_ids: Vec<MessageId>,
    /// Tokens of text and images, in the model's vocabulary or, if that is unknown, in o200k_base.
    pub tokens: u32,
    /// Relevance to the new message; only for recalled sections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Number of images sent with the section.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "serialize_count")]
    #[schema(value_type = u32)]
    pub images: Vec<MessageImage>,
    /// Function calls that the model made in this message.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub calls: Vec<ToolCall>,
    /// Results of function calls. A section of the role `tool` sends these instead of its text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub results: Vec<ToolResult>,
    /// Text, exactly as sent.
    #[schema(value_type = String)]
    pub text: Arc<str>,
}

impl PromptSection {
    pub(super) fn from_text(kind: SectionKind, role: Role, text: Arc<str>) -> Self {
        Self {
            kind,
            role,
            message_ids: Vec::new(),
            tokens: 0,
            score: None,
            images: Vec::new(),
            calls: Vec::new(),
            results: Vec::new(),
            text,
        }
    }
}

fn serialize_count<S: Serializer>(
    images: &[MessageImage],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(images.len() as u64)
}

/// Counted tokens of these sections, with the framing of their messages. Recalled sections have no
/// framing of their own: they are sent inside the new message.
pub(super) fn count_framed_tokens<'a>(
    sections: impl IntoIterator<Item = &'a PromptSection>,
) -> u32 {
    let framed = |section: &PromptSection| match section.kind {
        SectionKind::Recalled => section.tokens,
        _ => section.tokens + MESSAGE_TOKEN_OVERHEAD,
    };
    sections.into_iter().map(framed).sum()
}

/// The sections at one place of the prompt, possibly none.
#[derive(Debug)]
pub(super) struct SectionGroup {
    sections: Vec<PromptSection>,
    /// Whether the next prompt is expected to have the same sections at this place. An empty group
    /// may be `false`, too: something else can appear there.
    is_repeated: bool,
}

impl SectionGroup {
    /// `is_repeated`: whether the next prompt contains the same sections.
    pub(super) fn new(
        sections: impl IntoIterator<Item = PromptSection>,
        is_repeated: bool,
    ) -> Self {
        Self { sections: sections.into_iter().collect(), is_repeated }
    }
}

/// All sections of one prompt.
pub(super) struct PromptSections {
    pub(super) system: SectionGroup,
    pub(super) project: SectionGroup,
    pub(super) summary: SectionGroup,
    pub(super) recent: SectionGroup,
    pub(super) recalled: SectionGroup,
    /// The reply whose calls the new message answers.
    pub(super) calling: SectionGroup,
    pub(super) new: SectionGroup,
}

impl PromptSections {
    /// Puts the sections into the order in which they are sent. Those that change most often come
    /// last, so that the prefix that a cache can reuse is as long as possible.
    pub(super) fn into_ordered(self) -> OrderedSections {
        let Self { system, project, summary, recent, recalled, calling, new } = self;
        OrderedSections([system, project, summary, recent, recalled, calling, new])
    }
}

/// The sections of one prompt in the order in which they are sent.
pub(super) struct OrderedSections([SectionGroup; 7]);

impl OrderedSections {
    /// Counted tokens of all sections, with framing.
    pub(super) fn count_tokens(&self) -> u32 {
        count_framed_tokens(self.0.iter().flat_map(|group| &group.sections))
    }

    /// Counted tokens, with framing, at the beginning of the prompt that the next prompt is
    /// expected to repeat.
    pub(super) fn cacheable_prefix(&self) -> u32 {
        // A cache reads a prefix: it ends at the first group that changes, whatever follows.
        let repeated = self.0.iter().take_while(|group| group.is_repeated);
        count_framed_tokens(repeated.flat_map(|group| &group.sections))
    }

    pub(super) fn into_sections(self) -> Vec<PromptSection> {
        self.0.into_iter().flat_map(|group| group.sections).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prompt with one section per group. The tokens of the groups are powers of two, in order.
    fn sections_with(is_repeated: [bool; 7]) -> OrderedSections {
        use SectionKind::{New, Project, Recalled, Recent, Summary, System};
        let kinds = [System, Project, Summary, Recent, Recalled, New, New];
        let mut groups = (0..7).map(|place| {
            let section = PromptSection::from_text(kinds[place], Role::User, "".into());
            let tokens = 1 << place;
            SectionGroup::new([PromptSection { tokens, ..section }], is_repeated[place])
        });
        let mut next = || groups.next().unwrap();
        let sections = PromptSections {
            system: next(),
            project: next(),
            summary: next(),
            recent: next(),
            recalled: next(),
            calling: next(),
            new: next(),
        };
        sections.into_ordered()
    }

    #[test]
    fn cacheable_prefix_ends_at_the_first_group_that_changes() {
        let framing = MESSAGE_TOKEN_OVERHEAD;
        for (changing, tokens) in [
            (0, 0),
            (1, 1 + framing),
            (2, 3 + 2 * framing),
            (4, 15 + 4 * framing),
            // Recalled sections have no framing.
            (5, 31 + 4 * framing),
        ] {
            let mut is_repeated = [true; 7];
            is_repeated[changing] = false;
            assert_eq!(sections_with(is_repeated).cacheable_prefix(), tokens, "{changing}");
        }
        let all = sections_with([true; 7]);
        assert_eq!(all.cacheable_prefix(), 127 + 6 * framing);
        assert_eq!(all.count_tokens(), 127 + 6 * framing);
        let tokens: Vec<u32> = all.into_sections().iter().map(|section| section.tokens).collect();
        assert_eq!(tokens, [1, 2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn empty_group_that_may_change_ends_the_prefix() {
        let OrderedSections(mut groups) =
            sections_with([true, false, true, true, true, true, true]);
        groups[1].sections.clear();
        let prefix = OrderedSections(groups).cacheable_prefix();
        assert_eq!(prefix, 1 + MESSAGE_TOKEN_OVERHEAD);
    }
}
