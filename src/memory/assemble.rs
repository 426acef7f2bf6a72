//! Builds the prompt from a budget and a session: fetches what the budget has room for and puts it
//! into sections.

use super::Memory;
use super::budget::{PROMPT_TOKEN_OVERHEAD, PromptBudget};
use super::history::{HistoryWindow, select_history_window};
use super::project::{ProjectInclusion, ProjectSection};
use super::recall::{RecallQuery, RecalledMessage};
use super::sections::{
    PromptSection, PromptSections, SectionGroup, SectionKind, count_framed_tokens,
};
use super::strategies::BudgetShares;
use super::summary::RenderedSummary;
use super::token_ratio::PromptCount;
use super::tool_calls::{CallingReply, match_results};
use super::window::WindowMessage;
use crate::domain::image::MessageImage;
use crate::domain::memory::MemoryStrategy;
use crate::domain::message::MESSAGE_TOKEN_OVERHEAD;
use crate::domain::session::SessionSettings;
use crate::domain::tool::ToolResult;
use crate::domain::{MessageId, Role, Session, Timestamp};
use crate::error::Result;
use crate::provider::{Prompt, PromptMessage};
use crate::store::HistoryMessage;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

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

/// A prompt in progress, with the window selected.
struct PromptDraft<'a> {
    session: &'a Session,
    budget: &'a PromptBudget,
    shares: BudgetShares,
    /// Last message of the path.
    last: Option<&'a MessageId>,
    window: &'a HistoryWindow,
}

/// Everything that goes into a prompt.
struct PromptParts {
    project: Option<ProjectSection>,
    summary: Option<PromptSection>,
    window: HistoryWindow,
    recalled: Vec<RecalledMessage>,
    new: Option<PromptInput>,
}

impl Memory {
    /// Builds the prompt of the path that ends with `last`, followed by the new message. Reads no
    /// more of the session and its project than the budget allows, except for messages that the
    /// recall index has not seen yet.
    pub async fn assemble_prompt(
        &self,
        session: &Session,
        mut budget: PromptBudget,
        last: Option<&MessageId>,
        new: Option<PromptInput>,
    ) -> Result<AssembledPrompt> {
        self.apply_prompt_limits(&session.id, &mut budget);
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
        let draft = PromptDraft { session, budget: &budget, shares, last, window: &window };
        // Recall and summary are optional: if one fails, the turn continues with only the window.
        let recalled = self.recall_messages(&draft, new.as_ref(), known).await;
        let recalled = optional_or_warn(session, "nothing is recalled", recalled);
        let summary = self.build_summary_section(&draft).await;
        let summary = optional_or_warn(session, "the summary is left out", summary);
        Ok(PromptParts { project, summary, window, recalled, new }.into_prompt(budget))
    }

    /// The summary of the messages before the window. `None` if the strategy has no summary, the
    /// window is the whole path, or no summary was written yet.
    async fn build_summary_section(
        &self,
        draft: &PromptDraft<'_>,
    ) -> Result<Option<PromptSection>> {
        let PromptDraft { session, budget, shares, last, window } = *draft;
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
    /// recalls nothing, the window is the whole path, or the new message is not a user's. `history`
    /// are the newest messages of the path as far as they were read, newest first.
    async fn recall_messages(
        &self,
        draft: &PromptDraft<'_>,
        new: Option<&PromptInput>,
        history: Vec<HistoryMessage>,
    ) -> Result<Vec<RecalledMessage>> {
        let PromptDraft { session, budget, shares, last, window } = *draft;
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

impl PromptParts {
    /// Builds the sections and counts them.
    fn into_prompt(self, budget: PromptBudget) -> AssembledPrompt {
        let Self { project, summary, window, recalled, new } = self;
        // The next prompt repeats the window if it still has room for this message and the reply to
        // it; otherwise the window is cut, and the summary ends at a different message.
        let keeps_window = window.keeps_start_after(budget.new_tokens + MESSAGE_TOKEN_OVERHEAD);
        // If the project does not fit, its files are chosen for each message again.
        let keeps_project = project.as_ref().is_none_or(|section| section.inclusion.is_complete());
        // The next prompt has the new message without the recalled text, which is sent inside it.
        let keeps_new_message = recalled.is_empty();
        let (project, inclusion) = match project {
            Some(ProjectSection { text_tokens, inclusion }) => (text_tokens, Some(inclusion)),
            None => (None, None),
        };
        let (calling, new) = match new {
            Some(new) => build_new_sections(new, &budget),
            None => (None, None),
        };
        // Function definitions are not a section, but the provider counts them as prompt tokens.
        let function_tokens = budget.extra_tokens.saturating_sub(count_framed_tokens(&calling));
        let sections = PromptSections {
            system: SectionGroup::new(build_system_section(&budget), true),
            project: SectionGroup::new(project.map(build_project_section), keeps_project),
            summary: SectionGroup::new(summary, keeps_window),
            recent: SectionGroup::new(
                window.messages.into_iter().map(build_recent_section),
                keeps_window,
            ),
            recalled: SectionGroup::new(
                recalled.into_iter().map(build_recalled_section),
                keeps_new_message,
            ),
            calling: SectionGroup::new(calling, true),
            new: SectionGroup::new(new, true),
        };
        let sections = sections.into_ordered();
        let counted_tokens = PROMPT_TOKEN_OVERHEAD + sections.count_tokens() + function_tokens;
        let ratio = budget.token_ratio;
        AssembledPrompt {
            strategy: budget.strategy,
            model: budget.model,
            context_window: budget.context_window,
            reply_reserve: budget.reply_reserve,
            prompt_tokens: ratio.to_model_tokens(counted_tokens),
            counted_tokens,
            token_correction: ratio.as_factor(),
            cacheable_prefix_tokens: ratio.to_model_tokens(sections.cacheable_prefix()),
            project: inclusion,
            pieces: sections.into_sections(),
        }
    }
}

/// `None` if the system prompt is empty.
fn build_system_section(budget: &PromptBudget) -> Option<PromptSection> {
    let PromptBudget { system, system_tokens, .. } = budget;
    let section = PromptSection::from_text(SectionKind::System, Role::System, system.clone());
    (!system.is_empty()).then_some(PromptSection { tokens: *system_tokens, ..section })
}

fn build_project_section((text, tokens): (Arc<str>, u32)) -> PromptSection {
    PromptSection { tokens, ..PromptSection::from_text(SectionKind::Project, Role::System, text) }
}

fn build_recent_section(message: WindowMessage) -> PromptSection {
    PromptSection {
        message_ids: vec![message.id],
        tokens: message.tokens,
        images: message.images,
        calls: message.calls,
        results: message.results,
        ..PromptSection::from_text(SectionKind::Recent, message.role, message.content.into())
    }
}

fn build_recalled_section(message: RecalledMessage) -> PromptSection {
    PromptSection {
        message_ids: vec![message.id],
        tokens: message.tokens,
        score: Some(message.score),
        ..PromptSection::from_text(SectionKind::Recalled, Role::User, message.text.into())
    }
}

/// The sections of the reply whose calls the new message answers, if it answers any, and of the
/// message itself.
fn build_new_sections(
    message: PromptInput,
    budget: &PromptBudget,
) -> (Option<PromptSection>, Option<PromptSection>) {
    let (calling, message) = split_calling_reply(message);
    // Providers accept images in user messages only, and some models accept none.
    let can_send_images = budget.image_counter.is_some() && message.role == Role::User;
    let section = PromptSection {
        message_ids: message.id.into_iter().collect(),
        tokens: budget.new_tokens.saturating_sub(budget.extra_tokens),
        images: if can_send_images { message.images } else { Vec::new() },
        results: message.results,
        ..PromptSection::from_text(SectionKind::New, message.role, message.text)
    };
    (calling, Some(section))
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

    /// The count to compare with the usage that the provider reports. `None` for prompts with
    /// images: their tokens are often an upper bound, not a count.
    pub fn prompt_count(&self) -> Option<PromptCount> {
        let has_images = self.pieces.iter().any(|section| !section.images.is_empty());
        let count = || PromptCount { model: self.model.clone(), tokens: self.counted_tokens };
        (!has_images).then(count)
    }

    /// Counted tokens of all sections but the system prompt and the new message, with their
    /// framing.
    pub fn memory_tokens(&self) -> u32 {
        let is_memory = |kind| !matches!(kind, SectionKind::System | SectionKind::New);
        count_framed_tokens(self.pieces.iter().filter(|section| is_memory(section.kind)))
    }

    /// Number of recent and recalled messages in the prompt.
    pub fn earlier_message_count(&self) -> usize {
        let is_earlier = |kind| matches!(kind, SectionKind::Recent | SectionKind::Recalled);
        self.pieces.iter().filter(|section| is_earlier(section.kind)).count()
    }
}
