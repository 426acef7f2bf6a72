//! Builds the prompt from a budget and a session: its sections in the order in which they are sent.

use super::Memory;
use super::budget::{PROMPT_TOKEN_OVERHEAD, PromptBudget};
use super::project::{ProjectInclusion, ProjectSection};
use super::recall::{RecallQuery, RecalledMessage};
use super::strategies::BudgetShares;
use super::summary::RenderedSummary;
use super::token_ratio::PromptCount;
use super::tokens::TokenVocabulary;
use super::tool_calls::{CallingReply, match_results, pair_calls};
use super::window::{self, WindowMessage};
use super::window_cut::trim_to_cut;
use crate::domain::attachment::render_text;
use crate::domain::image::MessageImage;
use crate::domain::memory::MemoryStrategy;
use crate::domain::message::MESSAGE_TOKEN_OVERHEAD;
use crate::domain::session::SessionSettings;
use crate::domain::tool::{self, ToolCall, ToolResult};
use crate::domain::{MessageId, Role, Session, Timestamp};
use crate::error::Result;
use crate::provider::{Prompt, PromptMessage};
use crate::store::{HistoryLimits, HistoryMessage};
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

/// A prompt, its sections and how its tokens are divided.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssembledPrompt {
    /// Memory strategy that built the prompt.
    pub strategy: MemoryStrategy,
    /// Model that the prompt is for.
    pub model: String,
    /// Context window of the model, in tokens.
    pub context_window: u32,
    /// Tokens reserved for the reply.
    pub reply_reserve: u32,
    /// Tokens of the whole prompt, message framing included: the counted tokens times
    /// `tokenCorrection`.
    pub prompt_tokens: u32,
    /// Counted tokens of the whole prompt, before `token_correction`.
    #[serde(skip)]
    pub counted_tokens: u32,
    /// Number of the model's own tokens per counted o200k_base token, learned from the usage that
    /// the provider reports; left out where it is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_correction: Option<f64>,
    /// Tokens at the beginning of the prompt that the next turn's prompt is expected to repeat, so
    /// that the provider can read them from its prompt cache.
    pub cacheable_prefix_tokens: u32,
    /// Which parts of the session's project the prompt contains; left out if the session has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectInclusion>,
    /// Sections of the prompt, in the order in which they are sent.
    pub pieces: Vec<PromptSection>,
}

/// The message that the prompt asks the model to answer.
#[derive(Debug, Clone)]
pub struct PromptInput {
    /// `None` in previews, where the message is not stored.
    pub id: Option<MessageId>,
    pub role: Role,
    /// Text, including the text of attachments.
    pub text: Arc<str>,
    pub images: Vec<MessageImage>,
    /// Results of the calls in `calling_reply`.
    pub results: Vec<ToolResult>,
    /// The reply whose calls this message answers. The path that is read ends before that reply.
    pub calling_reply: Option<CallingReply>,
    pub sent_at: Timestamp,
}

impl PromptInput {
    /// A user's text message that is not stored.
    pub fn from_user(text: impl Into<Arc<str>>, sent_at: Timestamp) -> Self {
        Self {
            id: None,
            role: Role::User,
            text: text.into(),
            images: Vec::new(),
            results: Vec::new(),
            calling_reply: None,
            sent_at,
        }
    }
}

/// The messages at the end of the path that the prompt contains verbatim.
struct HistoryWindow {
    /// Oldest first.
    messages: Vec<WindowMessage>,
    /// Tokens of the path before the first of them.
    start_tokens: u64,
    /// Whether the window is the whole path.
    is_complete: bool,
    /// Tokens and number of messages that still fit before the window begins at another message.
    remaining: (u32, usize),
}

impl Memory {
    /// Builds the prompt of the path that ends with `last`, followed by the new message. Reads no
    /// more of the session and its project than the budget allows, except for messages that the
    /// recall index has not seen yet.
    pub async fn assemble_prompt(
        &self,
        session: &Session,
        budget: PromptBudget,
        last: Option<&MessageId>,
        new: Option<PromptInput>,
    ) -> Result<AssembledPrompt> {
        let message = new.as_ref().map_or("", |new| &new.text);
        let project = self.build_project_section(session, &budget, message).await?;
        let stable_project =
            project.as_ref().map_or(0, |section| section.stable_token_cost(&budget));
        let stable = budget.compute_shares(stable_project);
        // Invariant: all sections together stay within the available tokens of this turn. The
        // project is already rendered, so it is subtracted first and the rest is divided.
        let project_tokens = project.as_ref().map_or(0, ProjectSection::token_cost);
        let shares = stable.scaled_to(budget.available_tokens.saturating_sub(project_tokens));
        let history = self.read_history(session, shares, last).await?;
        // Recall extends its index by these messages instead of reading them again. Nothing is
        // recalled for a path that is shown as a whole, so the copy is not needed then.
        let is_short =
            history.first().is_none_or(|newest| newest.path_tokens <= u64::from(shares.total));
        let known = if shares.recalled > 0 && !is_short { history.clone() } else { Vec::new() };
        let window = select_history_window(history, &budget, stable, shares);
        // Recall and summary are optional: if one fails, the turn goes on with the window alone.
        let recalled =
            self.recall_messages(session, &budget, shares, last, new.as_ref(), known, &window);
        let recalled = optional_or_warn(session, "nothing is recalled", recalled.await);
        let summary = self.build_summary_section(session, &budget, shares, last, &window).await;
        let summary = optional_or_warn(session, "the summary is left out", summary);

        // The next prompt repeats this window if it still has room for this message and the reply
        // to it; otherwise the window is cut and begins at another message. It repeats the new
        // message only if nothing was recalled, because recalled text is sent inside that message.
        let new_tokens = budget.new_tokens + MESSAGE_TOKEN_OVERHEAD;
        let (remaining_tokens, remaining_messages) = window.remaining;
        let keeps_new_message = recalled.is_empty();
        let keeps_window = remaining_messages >= 2 && new_tokens < remaining_tokens;
        let keeps_project = project.as_ref().is_none_or(|section| section.inclusion.is_complete());
        let (project, inclusion) = match project {
            Some(part) => (part.text_tokens.map(project_prompt_section), Some(part.inclusion)),
            None => (None, None),
        };
        let system = (!budget.system.is_empty()).then(|| PromptSection {
            tokens: budget.system_tokens,
            ..PromptSection::from_text(SectionKind::System, Role::System, budget.system.clone())
        });
        let recent = window.messages.into_iter().map(|message| PromptSection {
            message_ids: vec![message.id],
            tokens: message.tokens,
            images: message.images,
            calls: message.calls,
            results: message.results,
            ..PromptSection::from_text(SectionKind::Recent, message.role, message.content.into())
        });
        let recalled = recalled.into_iter().map(|message| PromptSection {
            message_ids: vec![message.id],
            tokens: message.tokens,
            score: Some(message.score),
            ..PromptSection::from_text(SectionKind::Recalled, Role::User, message.text.into())
        });
        // Providers accept images in user messages only, and some models accept none.
        let can_send_images = budget.image_counter.is_some();
        let (calling, new) = match new {
            Some(message) => {
                let tokens = budget.new_tokens.saturating_sub(budget.extra_tokens);
                let (calling, message) = split_calling_reply(message);
                let section = PromptSection {
                    message_ids: message.id.into_iter().collect(),
                    tokens,
                    images: match message.role {
                        Role::User if can_send_images => message.images,
                        _ => Vec::new(),
                    },
                    results: message.results,
                    ..PromptSection::from_text(SectionKind::New, message.role, message.text)
                };
                (calling, Some(section))
            }
            None => (None, None),
        };
        // Function definitions are not a section, but the provider counts them as prompt tokens.
        let calling_tokens =
            calling.as_ref().map_or(0, |calling| calling.tokens + MESSAGE_TOKEN_OVERHEAD);
        let function_tokens = budget.extra_tokens.saturating_sub(calling_tokens);
        let sections: Vec<PromptSection> = system
            .into_iter()
            .chain(project)
            .chain(summary)
            .chain(recent)
            .chain(recalled)
            .chain(calling)
            .chain(new)
            .collect();
        let counted_tokens =
            PROMPT_TOKEN_OVERHEAD + count_framed_tokens(&sections, |_| true) + function_tokens;
        // This match must follow the order of the chain above: a cache reads a prefix, so a section
        // counts only if every section before it is repeated, too.
        let counted_prefix = count_framed_tokens(&sections, |section| match section.kind {
            SectionKind::System => true,
            SectionKind::Project => keeps_project,
            SectionKind::Summary | SectionKind::Recent => keeps_window && keeps_project,
            SectionKind::Recalled => false,
            SectionKind::New => keeps_window && keeps_project && keeps_new_message,
        });
        Ok(AssembledPrompt {
            strategy: budget.strategy,
            model: budget.model,
            context_window: budget.context_window,
            reply_reserve: budget.reply_reserve,
            prompt_tokens: budget.token_ratio.to_model_tokens(counted_tokens),
            counted_tokens,
            token_correction: budget.token_ratio.as_factor(),
            cacheable_prefix_tokens: budget.token_ratio.to_model_tokens(counted_prefix),
            project: inclusion,
            pieces: sections,
        })
    }

    /// Reads the end of the path, newest message first, as far as it can be verbatim.
    async fn read_history(
        &self,
        session: &Session,
        shares: BudgetShares,
        last: Option<&MessageId>,
    ) -> Result<Vec<HistoryMessage>> {
        let Some(last) = last else { return Ok(Vec::new()) };
        let limits = HistoryLimits {
            max_messages: shares.max_messages,
            max_tokens: shares.total,
            token_overhead: MESSAGE_TOKEN_OVERHEAD,
            max_part_bytes: window::MAX_IMAGE_BYTES,
        };
        if shares.recent_tokens() == 0 {
            // Without a share for recent messages, the window is either the whole path or empty.
            // The last message carries the tokens of its whole path, so reading that one decides
            // it.
            let newest_only = HistoryLimits { max_messages: 1, max_tokens: u32::MAX, ..limits };
            let history = self.store.recent_history(&session.id, last, newest_only).await?;
            if history.first().is_none_or(|newest| newest.path_tokens > u64::from(shares.total)) {
                return Ok(history);
            }
        }
        self.store.recent_history(&session.id, last, limits).await
    }

    /// The summary of the messages before the window. `None` if the strategy has no summary, the
    /// window is the whole path, or no summary was written yet.
    async fn build_summary_section(
        &self,
        session: &Session,
        budget: &PromptBudget,
        shares: BudgetShares,
        last: Option<&MessageId>,
        window: &HistoryWindow,
    ) -> Result<Option<PromptSection>> {
        let up_to = match window.messages.first() {
            Some(oldest) => oldest.parent_id.as_ref(),
            None => last,
        };
        let Some(up_to) = up_to.filter(|_| shares.summary > 0 && !window.is_complete) else {
            return Ok(None);
        };
        let rendered =
            self.render_summary(session, up_to, shares.summary, budget.vocabulary).await?;
        let Some(RenderedSummary { text, tokens, source }) = rendered else { return Ok(None) };
        let message_ids = match budget.recall_timeout {
            // Only a preview lists every summarized message; finding them may read the whole path.
            None => {
                let path_tokens = source.tokens_before..source.path_tokens;
                self.recall.message_ids(session, up_to, path_tokens).await?
            }
            Some(_) => vec![source.first_message, source.last_message],
        };
        let section = PromptSection::from_text(SectionKind::Summary, Role::System, text.into());
        Ok(Some(PromptSection { message_ids, tokens, ..section }))
    }

    /// The messages before the window that are relevant to the new one. Empty if the strategy
    /// recalls nothing, the window is the whole path, or the new message is not a user's.
    #[expect(clippy::too_many_arguments, reason = "all parts of one prompt in progress")]
    async fn recall_messages(
        &self,
        session: &Session,
        budget: &PromptBudget,
        shares: BudgetShares,
        last: Option<&MessageId>,
        new: Option<&PromptInput>,
        history: Vec<HistoryMessage>,
        window: &HistoryWindow,
    ) -> Result<Vec<RecalledMessage>> {
        let (Some(last), Some(new)) = (last, new) else { return Ok(Vec::new()) };
        if shares.recalled == 0 || window.is_complete || new.role != Role::User {
            return Ok(Vec::new());
        }
        let query = RecallQuery {
            session: session.clone(),
            last: last.clone(),
            text: new.text.clone(),
            asked_at: new.sent_at,
            history,
            window_start: window.start_tokens,
            available_tokens: shares.recalled,
            vocabulary: budget.vocabulary,
        };
        let recalled = self.recall.search(query, budget.recall_timeout).await?;
        if recalled.is_none() {
            tracing::debug!(session.id = %session.id, "recall timed out; the index is still being built");
        }
        Ok(recalled.unwrap_or_default())
    }
}

/// The value, or the default after logging the error.
fn optional_or_warn<T: Default>(session: &Session, outcome: &'static str, found: Result<T>) -> T {
    found.unwrap_or_else(|error| {
        tracing::warn!(session.id = %session.id, error = %error.chain(), outcome, "recall or summary failed");
        T::default()
    })
}

/// Selects the messages of the window. `history` is newest first; `stable` are the shares that stay
/// the same from turn to turn, `shares` those of this turn.
fn select_history_window(
    history: Vec<HistoryMessage>,
    budget: &PromptBudget,
    stable: BudgetShares,
    shares: BudgetShares,
) -> HistoryWindow {
    let has_root = history.last().is_some_and(|oldest| oldest.parent_id.is_none());
    let end = history.first().map_or(u64::MAX, |newest| newest.path_tokens + 1);
    let counted: Vec<(HistoryMessage, u32)> = history
        .into_iter()
        .map(|message| {
            let tokens = match budget.vocabulary {
                // Stored messages carry their o200k_base count.
                TokenVocabulary::O200k => message.tokens,
                vocabulary => {
                    let calls = tool::format_calls(&tool::parse_calls(&message.parts));
                    let text = render_text(&message.content, &message.parts);
                    vocabulary.count_tokens(&text).saturating_add(vocabulary.count_tokens(&calls))
                }
            };
            (message, tokens)
        })
        .collect();
    let framed =
        |(_, tokens): &(HistoryMessage, u32)| tokens.saturating_add(MESSAGE_TOKEN_OVERHEAD);
    let path_tokens = counted.iter().map(framed).fold(0, u32::saturating_add);
    // A path that fits as a whole takes the shares of summary and recall, too: with nothing left
    // out, both would be empty.
    let is_complete = has_root && path_tokens <= shares.total;
    let available = if is_complete { shares.total } else { shares.recent_tokens() };
    let (mut recent, fits_all) = window::fit_messages(counted, available, budget.image_counter);
    // A limit on the number of messages means a sliding window, which is not cut.
    if !is_complete && shares.max_messages == u32::MAX {
        trim_to_cut(&mut recent, stable.recent_tokens(), available);
    }
    let used = recent.iter().map(|message| message.tokens + MESSAGE_TOKEN_OVERHEAD).sum();
    let remaining_messages = (shares.max_messages as usize).saturating_sub(recent.len());
    let start_tokens = recent.last().map_or(end, |oldest| oldest.tokens_before);
    // Pairing may drop messages, so everything that depends on the window's size is computed
    // before.
    pair_calls(&mut recent);
    recent.reverse();
    // A complete path whose images did not all fit is cut differently as soon as it grows.
    let remaining_tokens =
        if fits_all || !is_complete { available.saturating_sub(used) } else { 0 };
    HistoryWindow {
        messages: recent,
        start_tokens: if is_complete { 0 } else { start_tokens },
        is_complete,
        remaining: (remaining_tokens, remaining_messages),
    }
}

/// Splits off the reply whose calls the message answers. Calls without a result and results without
/// a call are dropped from both.
fn split_calling_reply(mut message: PromptInput) -> (Option<PromptSection>, PromptInput) {
    let results = std::mem::take(&mut message.results);
    let Some(calling) = message.calling_reply.take() else { return (None, message) };
    let (calls, results) = match_results(calling.calls, results);
    message.results = results;
    let section = PromptSection {
        message_ids: vec![calling.id],
        tokens: calling.tokens,
        calls,
        ..PromptSection::from_text(SectionKind::New, Role::Assistant, calling.text.into())
    };
    (Some(section), message)
}

impl PromptSection {
    fn from_text(kind: SectionKind, role: Role, text: Arc<str>) -> Self {
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

fn project_prompt_section((text, tokens): (Arc<str>, u32)) -> PromptSection {
    PromptSection { tokens, ..PromptSection::from_text(SectionKind::Project, Role::System, text) }
}

fn serialize_count<S: Serializer>(
    images: &[MessageImage],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(images.len() as u64)
}

/// Tokens of the sections that `includes` selects, with the framing of their messages. Recalled
/// sections have no framing of their own: they are sent inside the new message.
fn count_framed_tokens(
    sections: &[PromptSection],
    includes: impl Fn(&PromptSection) -> bool,
) -> u32 {
    let framed = |section: &PromptSection| match section.kind {
        SectionKind::Recalled => section.tokens,
        _ => section.tokens + MESSAGE_TOKEN_OVERHEAD,
    };
    sections.iter().filter(|section| includes(section)).map(framed).sum()
}

impl AssembledPrompt {
    /// The request to the provider. Recalled sections are joined with the message that follows
    /// them.
    pub fn to_prompt(&self, settings: &SessionSettings) -> Prompt {
        let mut recalled = String::new();
        let mut messages = Vec::with_capacity(self.pieces.len());
        for section in &self.pieces {
            if section.kind == SectionKind::Recalled {
                recalled.push_str(&section.text);
                continue;
            }
            let content = match recalled.is_empty() {
                true => section.text.clone(),
                false => (std::mem::take(&mut recalled) + &section.text).into(),
            };
            messages.push(PromptMessage {
                role: section.role,
                content,
                images: section.images.clone(),
                calls: section.calls.clone(),
                results: section.results.clone(),
            });
        }
        Prompt {
            model: self.model.clone(),
            messages,
            temperature: settings.temperature,
            top_p: settings.top_p,
            max_output_tokens: settings.max_output_tokens,
            extra_params: settings.extra_params.clone(),
            cache_key: None,
        }
    }

    /// The count to compare with the usage that the provider reports. `None` for prompts with images:
    /// their tokens are often an upper bound, not a count.
    pub fn prompt_count(&self) -> Option<PromptCount> {
        let has_images = self.pieces.iter().any(|section| !section.images.is_empty());
        let count = || PromptCount { model: self.model.clone(), tokens: self.counted_tokens };
        (!has_images).then(count)
    }

    /// Counted tokens of all sections but the system prompt and the new message, with their
    /// framing.
    pub fn memory_tokens(&self) -> u32 {
        let is_memory = |kind| !matches!(kind, SectionKind::System | SectionKind::New);
        count_framed_tokens(&self.pieces, |section| is_memory(section.kind))
    }

    /// Number of recent and recalled messages in the prompt.
    pub fn earlier_message_count(&self) -> usize {
        let is_earlier = |kind| matches!(kind, SectionKind::Recent | SectionKind::Recalled);
        self.pieces.iter().filter(|section| is_earlier(section.kind)).count()
    }
}
