//! From a plan and a session to the prompt: the pieces in the order in which they are sent.

use super::Memory;
use super::budget::{MESSAGE_TOKEN_OVERHEAD, PROMPT_TOKEN_OVERHEAD, PromptBudget};
use super::project::{ProjectInclusion, ProjectSection};
use super::recall::{RecallQuery, RecalledMessage};
use super::strategies::BudgetShares;
use super::summary::RenderedSummary;
use super::tokens::TokenVocabulary;
use super::tool_calls::{CallingReply, match_results, pair_calls};
use super::window::{self, WindowMessage};
use super::window_cut::trim_to_cut;
use crate::domain::attachment::render_text;
use crate::domain::image::MessageImage;
use crate::domain::memory::MemoryStrategy;
use crate::domain::session::SessionSettings;
use crate::domain::tool::{self, ToolCall, ToolResult};
use crate::domain::{MessageId, Role, Session, Timestamp};
use crate::error::Result;
use crate::provider::{Prompt, PromptMessage};
use crate::store::{HistoryLimits, HistoryMessage};
use serde::{Serialize, Serializer};
use std::sync::Arc;
use utoipa::ToSchema;

/// What a piece of the prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SectionKind {
    /// What the model is told before everything else.
    System,
    /// What the session's project says.
    Project,
    /// What stands for messages that are no longer verbatim.
    Summary,
    /// A message of the path, verbatim.
    Recent,
    /// An earlier message that belongs to the new one. It stands in front of that one's text, in the
    /// same message.
    Recalled,
    /// The message that is to be answered.
    New,
}

/// One message of the prompt, or a part of its last one.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PromptSection {
    /// What it is.
    pub kind: SectionKind,
    /// Who speaks.
    pub role: Role,
    /// The stored messages it stands for.
    #[schema(value_type = Vec<String>)]
    pub message_ids: Vec<MessageId>,
    /// Tokens of its text, by the model's vocabulary or else o200k_base, and of its pictures.
    pub tokens: u32,
    /// How well it answers the new message, if it was recalled for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// How many pictures go with it.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "count")]
    #[schema(value_type = u32)]
    pub images: Vec<MessageImage>,
    /// The functions that it calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub calls: Vec<ToolCall>,
    /// What came of calls; of the role `tool` these are what is sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub results: Vec<ToolResult>,
    /// The text, exactly as sent.
    #[schema(value_type = String)]
    pub text: Arc<str>,
}

/// A prompt and how it came about.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssembledPrompt {
    /// The strategy.
    pub strategy: MemoryStrategy,
    /// The model.
    pub model: String,
    /// Its context window, in tokens.
    pub context_window: u32,
    /// What is kept for the reply, in tokens.
    pub reply_reserve: u32,
    /// Tokens of the whole prompt, the marks around its messages included: the sum of what is counted,
    /// times `tokenCorrection`.
    pub prompt_tokens: u32,
    /// The same as counted.
    #[serde(skip)]
    pub counted_tokens: u32,
    /// How many of the model's own tokens stand for one of o200k_base, as learned from what its
    /// provider reports; left out where it is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_correction: Option<f64>,
    /// Tokens from the beginning of the prompt that the next turn's prompt will begin with, too.
    pub cacheable_prefix_tokens: u32,
    /// What of the session's project is in it; left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectInclusion>,
    /// What is sent, in order.
    pub pieces: Vec<PromptSection>,
}

/// The message that is to be answered.
#[derive(Debug, Clone)]
pub struct PromptInput {
    /// Its id, once it is stored.
    pub id: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// Its text, and what is attached to it.
    pub text: Arc<str>,
    /// The pictures that go with it.
    pub images: Vec<MessageImage>,
    /// What came of the calls it answers.
    pub results: Vec<ToolResult>,
    /// The reply that wrote these calls. The path ends before it.
    pub calling_reply: Option<CallingReply>,
    /// The time.
    pub sent_at: Timestamp,
}

impl PromptInput {
    /// What a user says, before it is stored.
    pub fn from_user(text: impl Into<Arc<str>>, at: Timestamp) -> Self {
        let (images, results, calling) = Default::default();
        Self {
            id: None,
            role: Role::User,
            text: text.into(),
            images,
            results,
            calling_reply: calling,
            sent_at: at,
        }
    }
}

/// What of the path stands in the prompt verbatim.
struct HistoryWindow {
    /// Oldest first.
    messages: Vec<WindowMessage>,
    /// Where they begin, in tokens of the path.
    start_tokens: u64,
    /// Whether nothing of the path is missing.
    is_complete: bool,
    /// What the messages that are still to come may take before they begin elsewhere, in tokens, and
    /// how many they may be.
    remaining: (u32, usize),
}

impl Memory {
    /// Builds the prompt for the path that ends with `last`, and a new message behind it. Reads no
    /// more of the session and of its project than the plan allows, but for what recall does not
    /// know yet.
    pub async fn assemble_prompt(
        &self,
        session: &Session,
        plan: PromptBudget,
        last: Option<&MessageId>,
        new: Option<PromptInput>,
    ) -> Result<AssembledPrompt> {
        let message = new.as_ref().map_or("", |new| &new.text);
        let project = self.build_project_section(session, &plan, message).await?;
        let shares =
            plan.compute_shares(project.as_ref().map_or(0, |part| part.stable_token_cost(&plan)));
        // Invariant: all parts together are within the room of this turn, the project among them.
        let taken = project.as_ref().map_or(0, ProjectSection::token_cost);
        let now = shares.scaled_to(plan.available_tokens.saturating_sub(taken));
        let read = self.read_history(session, now, last).await?;
        // Recall begins where this ends, so it need not read it again; of a path that is shown as a
        // whole, nothing is recalled.
        let is_short = read.first().is_none_or(|newest| newest.path_tokens <= u64::from(now.total));
        let known = if now.recalled > 0 && !is_short { read.clone() } else { Vec::new() };
        let verbatim = select_history_window(read, &plan, shares, now);
        // Both are beside the point of a turn: where they fail, the window is there all the same.
        let recalled =
            self.recall_messages(session, &plan, now, last, new.as_ref(), known, &verbatim);
        let recalled = optional_or_warn(session, "nothing is recalled", recalled.await);
        let summary = self.build_summary_section(session, &plan, now, last, &verbatim).await;
        let summary = optional_or_warn(session, "the summary is left out", summary);

        let new_tokens = plan.new_tokens + MESSAGE_TOKEN_OVERHEAD;
        let (left, messages_left) = verbatim.remaining;
        let is_new_part_of_next = recalled.is_empty();
        let goes_on = messages_left >= 2 && new_tokens < left;
        let is_whole_project = project.as_ref().is_none_or(|part| part.inclusion.is_complete());
        let (project, shown) = match project {
            Some(part) => (part.text_tokens.map(project_prompt_section), Some(part.inclusion)),
            None => (None, None),
        };
        let system = (!plan.system.is_empty()).then(|| PromptSection {
            tokens: plan.system_tokens,
            ..PromptSection::from_text(SectionKind::System, Role::System, plan.system.clone())
        });
        let recent = verbatim.messages.into_iter().map(|message| PromptSection {
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
        // Only users show pictures, and only some models look at them.
        let can_show = plan.image_counter.is_some();
        let (calling, new) = match new {
            Some(message) => {
                let beside = plan.extra_tokens;
                let tokens = plan.new_tokens.saturating_sub(beside);
                let (calling, message) = split_calling_reply(message);
                let piece = PromptSection {
                    message_ids: message.id.into_iter().collect(),
                    tokens,
                    images: match message.role {
                        Role::User if can_show => message.images,
                        _ => Vec::new(),
                    },
                    results: message.results,
                    ..PromptSection::from_text(SectionKind::New, message.role, message.text)
                };
                (calling, Some(piece))
            }
            None => (None, None),
        };
        // Functions that are offered are no piece, but take their room.
        let called = calling.as_ref().map_or(0, |calling| calling.tokens + MESSAGE_TOKEN_OVERHEAD);
        let offered_tokens = plan.extra_tokens.saturating_sub(called);
        let pieces: Vec<PromptSection> = system
            .into_iter()
            .chain(project)
            .chain(summary)
            .chain(recent)
            .chain(recalled)
            .chain(calling)
            .chain(new)
            .collect();
        let counted_tokens =
            PROMPT_TOKEN_OVERHEAD + count_framed_tokens(&pieces, |_| true) + offered_tokens;
        let counted_prefix = count_framed_tokens(&pieces, |piece| match piece.kind {
            SectionKind::System => true,
            SectionKind::Project => is_whole_project,
            SectionKind::Summary | SectionKind::Recent => goes_on && is_whole_project,
            SectionKind::Recalled => false,
            SectionKind::New => goes_on && is_whole_project && is_new_part_of_next,
        });
        Ok(AssembledPrompt {
            strategy: plan.strategy,
            model: plan.model,
            context_window: plan.context_window,
            reply_reserve: plan.reply_reserve,
            prompt_tokens: plan.token_ratio.to_model_tokens(counted_tokens),
            counted_tokens,
            token_correction: plan.token_ratio.as_factor(),
            cacheable_prefix_tokens: plan.token_ratio.to_model_tokens(counted_prefix),
            project: shown,
            pieces,
        })
    }

    /// The end of the path, newest first, as much of it as may be shown verbatim.
    async fn read_history(
        &self,
        session: &Session,
        now: BudgetShares,
        last: Option<&MessageId>,
    ) -> Result<Vec<HistoryMessage>> {
        let Some(last) = last else { return Ok(Vec::new()) };
        let bounds = HistoryLimits {
            max_messages: now.max_messages,
            max_tokens: now.total,
            token_overhead: MESSAGE_TOKEN_OVERHEAD,
            max_part_bytes: window::MAX_IMAGE_BYTES,
        };
        if now.recent_tokens() == 0 {
            // Nothing is verbatim unless all of it is: the last message knows how much that would be.
            let only = HistoryLimits { max_messages: 1, max_tokens: u32::MAX, ..bounds };
            let read = self.store.recent_history(&session.id, last, only).await?;
            if read.first().is_none_or(|newest| newest.path_tokens > u64::from(now.total)) {
                return Ok(read);
            }
        }
        self.store.recent_history(&session.id, last, bounds).await
    }

    /// The piece that stands for what comes before the verbatim messages, if the strategy wants one
    /// and one was written.
    async fn build_summary_section(
        &self,
        session: &Session,
        plan: &PromptBudget,
        now: BudgetShares,
        last: Option<&MessageId>,
        verbatim: &HistoryWindow,
    ) -> Result<Option<PromptSection>> {
        let up_to = match verbatim.messages.first() {
            Some(oldest) => oldest.parent_id.as_ref(),
            None => last,
        };
        let Some(up_to) = up_to.filter(|_| now.summary > 0 && !verbatim.is_complete) else {
            return Ok(None);
        };
        let shown = self.render_summary(session, up_to, now.summary, plan.vocabulary).await?;
        let Some(RenderedSummary { text, tokens, source: of }) = shown else { return Ok(None) };
        let message_ids = match plan.recall_timeout {
            // Only who looks at the prompt wants to know all of them.
            None => {
                self.recall.message_ids(session, up_to, of.tokens_before..of.path_tokens).await?
            }
            Some(_) => vec![of.first_message, of.last_message],
        };
        let piece = PromptSection::from_text(SectionKind::Summary, Role::System, text.into());
        Ok(Some(PromptSection { message_ids, tokens, ..piece }))
    }

    /// The earlier messages that belong to the new one, if the strategy wants any and something of
    /// the path is not in the prompt anyway.
    #[allow(clippy::too_many_arguments)]
    async fn recall_messages(
        &self,
        session: &Session,
        plan: &PromptBudget,
        now: BudgetShares,
        last: Option<&MessageId>,
        new: Option<&PromptInput>,
        read: Vec<HistoryMessage>,
        verbatim: &HistoryWindow,
    ) -> Result<Vec<RecalledMessage>> {
        let (Some(last), Some(new)) = (last, new) else { return Ok(Vec::new()) };
        if now.recalled == 0 || verbatim.is_complete || new.role != Role::User {
            return Ok(Vec::new());
        }
        let asked = RecallQuery {
            session: session.clone(),
            last: last.clone(),
            text: new.text.clone(),
            asked_at: new.sent_at,
            history: read,
            window_start: verbatim.start_tokens,
            available_tokens: now.recalled,
            vocabulary: plan.vocabulary,
        };
        let found = self.recall.search(asked, plan.recall_timeout).await?;
        if found.is_none() {
            tracing::debug!(session.id = %session.id, "nothing is recalled: the index is not there yet");
        }
        Ok(found.unwrap_or_default())
    }
}

/// What there is, or nothing and a line in the log.
fn optional_or_warn<T: Default>(session: &Session, outcome: &'static str, found: Result<T>) -> T {
    found.unwrap_or_else(|error| {
        tracing::warn!(session.id = %session.id, error = %error.chain(), outcome, "memory is short");
        T::default()
    })
}

/// Of the messages that were read, newest first, those that stand in the prompt.
fn select_history_window(
    read: Vec<HistoryMessage>,
    plan: &PromptBudget,
    steady: BudgetShares,
    now: BudgetShares,
) -> HistoryWindow {
    let has_root = read.last().is_some_and(|oldest| oldest.parent_id.is_none());
    let end = read.first().map_or(u64::MAX, |newest| newest.path_tokens + 1);
    let counted: Vec<(HistoryMessage, u32)> = read
        .into_iter()
        .map(|message| {
            let tokens = match plan.vocabulary {
                TokenVocabulary::O200k => message.tokens,
                vocabulary => {
                    let calls = tool::format_calls(&tool::parse_calls(&message.parts));
                    let told = render_text(&message.content, &message.parts);
                    vocabulary.count_tokens(&told).saturating_add(vocabulary.count_tokens(&calls))
                }
            };
            (message, tokens)
        })
        .collect();
    let framed =
        |(_, tokens): &(HistoryMessage, u32)| tokens.saturating_add(MESSAGE_TOKEN_OVERHEAD);
    let all = counted.iter().map(framed).fold(0, u32::saturating_add);
    // A path that fits as a whole is not cut for the sake of parts that would be about nothing.
    let is_whole = has_root && all <= now.total;
    let room = if is_whole { now.total } else { now.recent_tokens() };
    let (mut recent, is_all) = window::fit_messages(counted, room, plan.image_counter);
    if !is_whole && now.max_messages == u32::MAX {
        trim_to_cut(&mut recent, steady.recent_tokens(), room);
    }
    let shown = recent.iter().map(|message| message.tokens + MESSAGE_TOKEN_OVERHEAD).sum();
    let messages_left = (now.max_messages as usize).saturating_sub(recent.len());
    let begin = recent.last().map_or(end, |oldest| oldest.tokens_before);
    pair_calls(&mut recent);
    recent.reverse();
    HistoryWindow {
        messages: recent,
        start_tokens: if is_whole { 0 } else { begin },
        is_complete: is_whole,
        remaining: (
            if is_all || !is_whole { room.saturating_sub(shown) } else { 0 },
            messages_left,
        ),
    }
}

/// A new message, and in front of it the reply whose calls it answers, both with what belongs
/// together alone.
fn split_calling_reply(mut message: PromptInput) -> (Option<PromptSection>, PromptInput) {
    let results = std::mem::take(&mut message.results);
    let Some(calling) = message.calling_reply.take() else { return (None, message) };
    let (calls, results) = match_results(calling.calls, results);
    message.results = results;
    let piece = PromptSection {
        message_ids: vec![calling.id],
        tokens: calling.tokens,
        calls,
        ..PromptSection::from_text(SectionKind::New, Role::Assistant, calling.text.into())
    };
    (Some(piece), message)
}

impl PromptSection {
    fn from_text(kind: SectionKind, role: Role, text: Arc<str>) -> Self {
        let (message_ids, images, calls, results) = Default::default();
        Self { kind, role, message_ids, tokens: 0, score: None, images, calls, results, text }
    }
}

fn project_prompt_section((text, tokens): (Arc<str>, u32)) -> PromptSection {
    PromptSection { tokens, ..PromptSection::from_text(SectionKind::Project, Role::System, text) }
}

fn count<S: Serializer>(images: &[MessageImage], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(images.len() as u64)
}

/// The tokens of pieces with the marks around them. What is recalled is part of the new message.
fn count_framed_tokens(pieces: &[PromptSection], counts: impl Fn(&PromptSection) -> bool) -> u32 {
    let framed = |piece: &PromptSection| match piece.kind {
        SectionKind::Recalled => piece.tokens,
        _ => piece.tokens + MESSAGE_TOKEN_OVERHEAD,
    };
    pieces.iter().filter(|piece| counts(piece)).map(framed).sum()
}

impl AssembledPrompt {
    /// What the model is sent.
    pub fn to_prompt(&self, settings: &SessionSettings) -> Prompt {
        let mut recalled = String::new();
        let mut messages = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            if piece.kind == SectionKind::Recalled {
                recalled.push_str(&piece.text);
                continue;
            }
            let content = match recalled.is_empty() {
                true => piece.text.clone(),
                false => (std::mem::take(&mut recalled) + &piece.text).into(),
            };
            messages.push(PromptMessage {
                role: piece.role,
                content,
                images: piece.images.clone(),
                calls: piece.calls.clone(),
                results: piece.results.clone(),
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

    /// Tokens of the project and the earlier messages in it, the marks around them included.
    pub fn memory_tokens(&self) -> u32 {
        let is_memory = |kind| !matches!(kind, SectionKind::System | SectionKind::New);
        count_framed_tokens(&self.pieces, |piece| is_memory(piece.kind))
    }

    /// How many earlier messages are in it.
    pub fn earlier_message_count(&self) -> usize {
        let is_earlier = |kind| matches!(kind, SectionKind::Recent | SectionKind::Recalled);
        self.pieces.iter().filter(|piece| is_earlier(piece.kind)).count()
    }
}
