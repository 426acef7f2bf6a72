//! Summaries of messages that are no longer verbatim in the prompt.
//!
//! A summary is written in the background, before the window is full, so that it is ready when the
//! window is cut. It is usually extended: its text stays and a few lines are appended for the
//! messages that the next cut removes. When its share of the budget is full, it is rewritten to
//! half the size. Thus the beginning of a prompt changes at cuts only.
//!
//! A summary is stored with the last message that it covers, which identifies the path
//! ([`crate::store::PathSummary`]), so text of another branch never enters it. Messages are not
//! changed. A prompt without a summary simply omits the section.

use super::budget::PromptBudget;
use super::strategies::BudgetShares;
use super::window_cut;
use super::{Memory, tokens};
use crate::domain::message::MESSAGE_TOKEN_OVERHEAD;
use crate::domain::model::TokenVocabulary;
use crate::domain::session::SessionSettings;
use crate::domain::text::truncate_chars;
use crate::domain::{MessageId, Role, Session, UserId};
use crate::error::Result;
use crate::prompts::{SummaryMessage, SummaryPrompt};
use crate::provider::{Prompt, PromptMessage, TextGenerator};
use crate::store::{HistoryLimits, HistoryMessage, PathSummary};

/// First line of the summary section.
const SUMMARY_HEADING: &str =
    "Summary of what was said in this conversation before the messages below:\n";
/// Tokens of the messages in one call to the model; at most half of the model's context window.
const MAX_CHUNK_TOKENS: u64 = 12_000;
/// Calls per run, so that a run ends soon and the next turn sees its result. Also limits how far
/// back the first summary of a long conversation begins.
const MAX_CHUNKS: usize = 4;
/// Longer messages are summarized by their beginning.
const MAX_MESSAGE_CHARS: usize = 6_000;
/// Two words take about three tokens.
const TOKENS_PER_TWO_WORDS: u32 = 3;

/// A summary as a prompt contains it.
pub(super) struct RenderedSummary {
    pub(super) text: String,
    pub(super) tokens: u32,
    pub(super) source: PathSummary,
}

impl Memory {
    /// The summary of the path up to this message, shortened to `available` tokens. `None` if no
    /// summary exists or no line of it fits.
    pub(super) async fn render_summary(
        &self,
        session: &Session,
        up_to: &MessageId,
        available: u32,
        vocabulary: TokenVocabulary,
    ) -> Result<Option<RenderedSummary>> {
        let heading_tokens = vocabulary.count_tokens(SUMMARY_HEADING);
        let Some(room) = available.checked_sub(MESSAGE_TOKEN_OVERHEAD + heading_tokens) else {
            return Ok(None);
        };
        let Some(source) = self.store.find_summary(&session.id, up_to).await? else {
            return Ok(None);
        };
        let text = truncate_to_tokens(&source.text, room, vocabulary);
        if text.is_empty() {
            return Ok(None);
        }
        let text = format!("{SUMMARY_HEADING}{text}");
        let tokens = vocabulary.count_tokens(&text);
        // Token counts do not simply add up: joining heading and text may take one token more.
        if tokens > room + heading_tokens {
            return Ok(None);
        }
        Ok(Some(RenderedSummary { text, tokens, source }))
    }

    /// Summarizes the messages that the next cut removes from the prompts of the path ending with
    /// `last`, if that cut is near and they are not summarized yet. Returns whether a summary was
    /// saved. Errors: the generator's and the store's; chunks that were saved before stay.
    pub async fn summarize_history(
        &self,
        generator: &dyn TextGenerator,
        model: &str,
        session: &Session,
        settings: &SessionSettings,
        last: &MessageId,
    ) -> Result<bool> {
        let budget = self.plan_prompt(settings, None)?;
        let project = self.build_project_section(session, &budget, "").await?;
        // The same shares that prompts are cut by, so that both agree on the next cut.
        let project_tokens =
            project.as_ref().map_or(0, |section| section.stable_token_cost(&budget));
        let shares = budget.compute_shares(project_tokens);
        if shares.summary == 0 {
            return Ok(false);
        }
        let chunk = MAX_CHUNK_TOKENS.min(u64::from(self.context_window(model)) / 2);
        let mut summary = self.store.find_summary(&session.id, last).await?;
        let messages =
            self.read_unsummarized(session, &budget, shares, last, summary.as_ref(), chunk).await?;
        let distance = window_cut::cut_distance(shares.recent_tokens(), shares.recent_tokens());
        let mut is_saved = false;
        // Each chunk is saved before the next one is summarized: after a failure or a crash, the
        // next turn continues with the first chunk that is missing.
        for messages in split_into_chunks(&messages, chunk, distance).into_iter().take(MAX_CHUNKS) {
            let Some(next) =
                self.extend_summary(generator, model, shares, summary, messages).await?
            else {
                break;
            };
            self.store.save_summary(&session.id, &next).await?;
            summary = Some(next);
            is_saved = true;
        }
        Ok(is_saved)
    }

    /// The messages after the last summary that the next cut removes, oldest first.
    async fn read_unsummarized(
        &self,
        session: &Session,
        budget: &PromptBudget,
        shares: BudgetShares,
        last: &MessageId,
        summary: Option<&PathSummary>,
        chunk: u64,
    ) -> Result<Vec<HistoryMessage>> {
        let newest_only = HistoryLimits {
            max_messages: 1,
            max_tokens: u32::MAX,
            token_overhead: 0,
            max_part_bytes: 0,
        };
        let newest = self.store.recent_history(&session.id, last, newest_only).await?;
        let Some(end) = newest.first().map(|newest| newest.path_tokens) else {
            return Ok(Vec::new());
        };
        let until = window_cut::next_cut(end, shares.recent_tokens());
        let from = match summary {
            Some(summary) => summary.path_tokens,
            None => until.saturating_sub(chunk * MAX_CHUNKS as u64),
        };
        // A path well below its budget is sent as a whole and needs no summary yet.
        let total = u64::from(shares.total.min(budget.available_tokens));
        if from >= until || end <= total / 4 * 3 {
            return Ok(Vec::new());
        }
        let limits = HistoryLimits {
            max_messages: u32::MAX,
            max_tokens: u32::try_from(end - from).unwrap_or(u32::MAX),
            token_overhead: MESSAGE_TOKEN_OVERHEAD,
            max_part_bytes: 0,
        };
        let mut messages = self.store.recent_history(&session.id, last, limits).await?;
        messages.retain(|message| message.path_tokens > from && message.path_tokens <= until);
        // Tool results mean little without their calls, and the reply that follows uses them.
        messages.retain(|message| message.role != Role::Tool);
        messages.reverse();
        Ok(messages)
    }

    /// The summary extended by these messages; `None` if the model returns no text.
    async fn extend_summary(
        &self,
        generator: &dyn TextGenerator,
        model: &str,
        shares: BudgetShares,
        summary: Option<PathSummary>,
        messages: &[HistoryMessage],
    ) -> Result<Option<PathSummary>> {
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else {
            return Ok(None);
        };
        let so_far = summary.as_ref().map_or("", |summary| summary.text.as_str());
        let step = SummaryStep::new(so_far, shares.summary);
        let prompt = self.build_summary_prompt(&step, model, messages)?;
        let text = generator.generate_text(&prompt).await?;
        let text = text.trim();
        if text.is_empty() {
            tracing::warn!("summary failed: the model returned no text");
            return Ok(None);
        }
        // Models exceed word limits; the stored text keeps to its share in any case.
        let text = step.apply_reply(text);
        let text = truncate_to_tokens(&text, step.room, TokenVocabulary::O200k).to_owned();
        // An extended summary still begins where the first one began.
        let (first_message, tokens_before) = match summary {
            Some(summary) => (summary.first_message, summary.tokens_before),
            None => (first.id.clone(), tokens_before(first)),
        };
        Ok(Some(PathSummary {
            first_message,
            last_message: last.id.clone(),
            tokens_before,
            path_tokens: last.path_tokens,
            text,
            model: model.to_owned(),
        }))
    }

    /// The prompt that asks for the summary of these messages.
    fn build_summary_prompt(
        &self,
        step: &SummaryStep<'_>,
        model: &str,
        messages: &[HistoryMessage],
    ) -> Result<Prompt> {
        let messages = messages.iter().map(|message| SummaryMessage {
            day: message.created_at.format_day(),
            speaker: match message.sender_id == UserId::assistant() {
                true => message.role.as_str(),
                false => message.sender_id.as_str(),
            },
            text: truncate_chars(&message.content, MAX_MESSAGE_CHARS),
        });
        let request = self.prompts.render_summary(&SummaryPrompt {
            summary: step.so_far,
            messages: messages.collect(),
            words: step.max_tokens * 2 / TOKENS_PER_TWO_WORDS,
            rewrite: step.is_rewrite,
        })?;
        Ok(Prompt {
            model: model.to_owned(),
            messages: vec![PromptMessage::from_text(Role::User, request)],
            // Reasoning models spend output tokens before they answer.
            max_output_tokens: Some(step.max_tokens.saturating_mul(2) + 1000),
            ..Prompt::default()
        })
    }
}

/// How one call changes the summary.
struct SummaryStep<'a> {
    /// Empty before the first call.
    so_far: &'a str,
    /// Tokens that the changed summary may have.
    room: u32,
    /// Tokens to ask the model for.
    max_tokens: u32,
    /// Whether the reply replaces the summary so far; otherwise it is appended.
    is_rewrite: bool,
}

impl<'a> SummaryStep<'a> {
    /// `share` are the tokens of the summary's section, its heading and framing included.
    fn new(so_far: &'a str, share: u32) -> Self {
        let heading = MESSAGE_TOKEN_OVERHEAD + tokens::count_tokens(SUMMARY_HEADING);
        let room = share.saturating_sub(heading);
        let addition = (room / 4).max(1);
        let is_rewrite = !so_far.is_empty() && tokens::count_tokens(so_far) + addition > room;
        let max_tokens = if is_rewrite { room / 2 } else { addition };
        Self { so_far, room, max_tokens, is_rewrite }
    }

    /// The text of the changed summary.
    fn apply_reply(&self, reply: &str) -> String {
        match self.so_far {
            so_far if !so_far.is_empty() && !self.is_rewrite => format!("{so_far}\n{reply}"),
            _ => reply.to_owned(),
        }
    }
}

/// Splits messages into chunks of at most `max_tokens`, but of one message at least. A chunk also
/// ends at every position where a path may be cut, so that a window beginning there finds a summary
/// that ends there.
fn split_into_chunks(
    messages: &[HistoryMessage],
    max_tokens: u64,
    cut_distance: u64,
) -> Vec<&[HistoryMessage]> {
    let (mut chunks, mut start, mut size) = (Vec::new(), 0, 0);
    for (at, message) in messages.iter().enumerate() {
        let tokens = u64::from(message.tokens) + u64::from(MESSAGE_TOKEN_OVERHEAD);
        // A cut removes the messages that end at or before it.
        let cut_of = |message: &HistoryMessage| message.path_tokens.div_ceil(cut_distance);
        let crosses_cut = at > 0 && cut_of(&messages[at - 1]) != cut_of(message);
        if size > 0 && (size + tokens > max_tokens || crosses_cut) {
            chunks.push(&messages[start..at]);
            start = at;
            size = 0;
        }
        size += tokens;
    }
    if start < messages.len() {
        chunks.push(&messages[start..]);
    }
    chunks
}

/// Tokens of the path before a message.
fn tokens_before(message: &HistoryMessage) -> u64 {
    let own = u64::from(message.tokens) + u64::from(MESSAGE_TOKEN_OVERHEAD);
    message.path_tokens.saturating_sub(own)
}

/// The last lines of a text that have at most `max_tokens` tokens, because the newest lines matter
/// most. A single line that is too long is cut at its end.
fn truncate_to_tokens(text: &str, max_tokens: u32, vocabulary: TokenVocabulary) -> &str {
    let mut rest = text.trim();
    while vocabulary.count_tokens(rest) > max_tokens {
        match rest.split_once('\n') {
            Some((_, lines)) if !lines.trim().is_empty() => rest = lines.trim_start(),
            _ => break,
        }
    }
    while vocabulary.count_tokens(rest) > max_tokens {
        let half = rest.chars().count() / 2;
        rest = truncate_chars(rest, half).trim_end();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_summary_loses_oldest_lines_first() {
        let o200k = TokenVocabulary::O200k;
        let text = "- one two three\n- four five six\n- seven eight nine";
        assert_eq!(truncate_to_tokens(text, 100, o200k), text);
        assert_eq!(truncate_to_tokens(text, 9, o200k), "- four five six\n- seven eight nine");
        assert_eq!(truncate_to_tokens(text, 4, o200k), "- seven eight nine");
        assert!(o200k.count_tokens(truncate_to_tokens(text, 2, o200k)) <= 2);
        assert_eq!(truncate_to_tokens(text, 0, o200k), "");
    }
}
