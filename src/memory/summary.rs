//! Summaries: what stands in a prompt for messages that are no longer verbatim.
//!
//! One is written beside the turns, before the window is full, so that it is there when the window
//! is cut. It is only ever continued: what it says stays, and a few lines are put behind it for the
//! messages that the next cut takes away. When it has no room left it is written anew, shorter. So a
//! prompt's beginning changes at cuts and at no other time. A summary names the last message it
//! stands for and thereby its path ([`crate::store::PathSummary`]); what another branch says is never
//! in it. The messages themselves stay as they are. Without a summary a prompt is just without it.

use super::budget::{MESSAGE_TOKEN_OVERHEAD, PromptBudget};
use super::project::ProjectSection;
use super::strategies::BudgetShares;
use super::tokens::TokenVocabulary;
use super::window_cut;
use super::{Memory, tokens};
use crate::domain::session::SessionSettings;
use crate::domain::text::truncate_chars;
use crate::domain::{MessageId, Role, Session};
use crate::error::Result;
use crate::prompts::{SummaryMessage, SummaryPrompt};
use crate::provider::{Prompt, PromptMessage, TextGenerator};
use crate::store::{HistoryLimits, HistoryMessage, PathSummary};

/// What stands before a summary.
const SUMMARY_HEADING: &str =
    "What was said in this conversation before the messages below, in short:\n";
/// The messages of this many tokens are summed up at once, if the model has room for them …
const MAX_CHUNK_TOKENS: u64 = 12_000;
/// … and so many times before the next turn has its chance. Of a conversation that nobody has summed
/// up before, no more than that is looked at.
const MAX_CHUNKS: usize = 4;
/// Of a long message, the beginning is summed up, in characters.
const MAX_MESSAGE_CHARS: usize = 6_000;
/// A text of so many words has about three tokens for two words.
const TOKENS_PER_TWO_WORDS: u32 = 3;

/// A summary as it stands in a prompt.
pub(super) struct RenderedSummary {
    pub(super) text: String,
    pub(super) tokens: u32,
    pub(super) source: PathSummary,
}

impl Memory {
    /// What stands for the path up to this message, within the room.
    pub(super) async fn render_summary(
        &self,
        session: &Session,
        up_to: &MessageId,
        room: u32,
        vocabulary: TokenVocabulary,
    ) -> Result<Option<RenderedSummary>> {
        let Some(room) =
            room.checked_sub(MESSAGE_TOKEN_OVERHEAD + vocabulary.count_tokens(SUMMARY_HEADING))
        else {
            return Ok(None);
        };
        let Some(of) = self.store.find_summary(&session.id, up_to).await? else { return Ok(None) };
        let text = truncate_to_tokens(&of.text, room, vocabulary);
        if text.is_empty() {
            return Ok(None);
        }
        let text = format!("{SUMMARY_HEADING}{text}");
        let tokens = vocabulary.count_tokens(&text);
        // Where the two meet, a vocabulary might make one token more.
        if tokens > room + vocabulary.count_tokens(SUMMARY_HEADING) {
            return Ok(None);
        }
        Ok(Some(RenderedSummary { text, tokens, source: of }))
    }

    /// Sums up what the next cut takes out of the prompts of the path that ends with `last`, if that
    /// is near and nobody has done so. Whether a summary was written.
    pub async fn summarize_history(
        &self,
        writer: &dyn TextGenerator,
        model: &str,
        session: &Session,
        settings: &SessionSettings,
        last: &MessageId,
    ) -> Result<bool> {
        let plan = self.plan_prompt(settings, None)?;
        let project = self.build_project_section(session, &plan, "").await?;
        let shares = plan.compute_shares(
            project.as_ref().map_or(0, |part| ProjectSection::stable_token_cost(part, &plan)),
        );
        if shares.summary == 0 {
            return Ok(false);
        }
        let chunk = MAX_CHUNK_TOKENS.min(u64::from(self.context_window(model)) / 2);
        let before = self.store.find_summary(&session.id, last).await?;
        let messages =
            self.read_unsummarized(session, &plan, shares, last, before.as_ref(), chunk).await?;
        let step = window_cut::cut_distance(shares.recent_tokens(), shares.recent_tokens());
        let mut before = before;
        let mut is_written = false;
        for messages in split_into_chunks(&messages, chunk, step).into_iter().take(MAX_CHUNKS) {
            let Some(next) = self.extend_summary(writer, model, shares, before, messages).await?
            else {
                break;
            };
            self.store.save_summary(&session.id, &next).await?;
            (before, is_written) = (Some(next), true);
        }
        Ok(is_written)
    }

    /// The messages behind the last summary that the next cut takes away, oldest first.
    async fn read_unsummarized(
        &self,
        session: &Session,
        plan: &PromptBudget,
        shares: BudgetShares,
        last: &MessageId,
        before: Option<&PathSummary>,
        chunk: u64,
    ) -> Result<Vec<HistoryMessage>> {
        let one = HistoryLimits {
            max_messages: 1,
            max_tokens: u32::MAX,
            token_overhead: 0,
            max_part_bytes: 0,
        };
        let newest = self.store.recent_history(&session.id, last, one).await?;
        let Some(end) = newest.first().map(|newest| newest.path_tokens) else {
            return Ok(Vec::new());
        };
        let until = window_cut::next_cut(end, shares.recent_tokens());
        let from = match before {
            Some(before) => before.path_tokens,
            None => until.saturating_sub(chunk * MAX_CHUNKS as u64),
        };
        // A path that is shown as a whole needs none for now.
        if from >= until || end <= u64::from(shares.total.min(plan.available_tokens)) / 4 * 3 {
            return Ok(Vec::new());
        }
        let tokens = u32::try_from(end - from).unwrap_or(u32::MAX);
        let bounds = HistoryLimits {
            max_messages: u32::MAX,
            max_tokens: tokens,
            token_overhead: MESSAGE_TOKEN_OVERHEAD,
            max_part_bytes: 0,
        };
        let mut read = self.store.recent_history(&session.id, last, bounds).await?;
        read.retain(|message| message.path_tokens > from && message.path_tokens <= until);
        read.retain(|message| message.role != Role::Tool);
        read.reverse();
        Ok(read)
    }

    /// The summary that also stands for these messages; `None` if the model has nothing to say.
    async fn extend_summary(
        &self,
        writer: &dyn TextGenerator,
        model: &str,
        shares: BudgetShares,
        before: Option<PathSummary>,
        messages: &[HistoryMessage],
    ) -> Result<Option<PathSummary>> {
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else {
            return Ok(None);
        };
        let room = shares
            .summary
            .saturating_sub(MESSAGE_TOKEN_OVERHEAD + tokens::count_tokens(SUMMARY_HEADING));
        let so_far = before.as_ref().map_or("", |before| before.text.as_str());
        let addition = (room / 4).max(1);
        let rewrite = !so_far.is_empty() && tokens::count_tokens(so_far) + addition > room;
        let most = if rewrite { room / 2 } else { addition };
        let said = messages.iter().map(|message| SummaryMessage {
            day: message.created_at.format_day(),
            speaker: match message.sender_id == crate::domain::UserId::assistant() {
                true => message.role.as_str(),
                false => message.sender_id.as_str(),
            },
            text: truncate_chars(&message.content, MAX_MESSAGE_CHARS),
        });
        let asked = self.prompts.render_summary(&SummaryPrompt {
            summary: so_far,
            messages: said.collect(),
            words: most * 2 / TOKENS_PER_TWO_WORDS,
            rewrite,
        })?;
        let prompt = Prompt {
            model: model.to_owned(),
            messages: vec![PromptMessage::from_text(Role::User, asked)],
            // Models that think first need some.
            max_output_tokens: Some(most.saturating_mul(2) + 1000),
            ..Prompt::default()
        };
        let written = writer.generate_text(&prompt).await?;
        let written = written.trim();
        if written.is_empty() {
            tracing::warn!("the model wrote no summary");
            return Ok(None);
        }
        let text = match so_far {
            "" => written.to_owned(),
            _ if rewrite => written.to_owned(),
            so_far => format!("{so_far}\n{written}"),
        };
        let (first, tokens_before) = match before {
            Some(before) => (before.first_message, before.tokens_before),
            None => (first.id.clone(), tokens_before(first)),
        };
        Ok(Some(PathSummary {
            first_message: first,
            last_message: last.id.clone(),
            tokens_before,
            path_tokens: last.path_tokens,
            text: truncate_to_tokens(&text, room, TokenVocabulary::O200k).to_owned(),
            model: model.to_owned(),
        }))
    }
}

/// Messages in pieces of about so many tokens, each of one message at least. A piece ends at each
/// place where a path may be cut, so that a window that begins there finds a summary up to there.
fn split_into_chunks(messages: &[HistoryMessage], most: u64, step: u64) -> Vec<&[HistoryMessage]> {
    let (mut chunks, mut start, mut size) = (Vec::new(), 0, 0);
    for (at, message) in messages.iter().enumerate() {
        let tokens = u64::from(message.tokens) + u64::from(MESSAGE_TOKEN_OVERHEAD);
        // A cut takes the messages that end before it.
        let cuts = |message: &HistoryMessage| message.path_tokens.div_ceil(step);
        let is_behind_cut = at > 0 && cuts(&messages[at - 1]) != cuts(message);
        if size > 0 && (size + tokens > most || is_behind_cut) {
            chunks.push(&messages[start..at]);
            (start, size) = (at, 0);
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

/// The end of a text, by whole lines, that has at most so many tokens: what was said last tells most.
/// Of a single line that is too long, the beginning.
fn truncate_to_tokens(text: &str, room: u32, vocabulary: TokenVocabulary) -> &str {
    let mut rest = text.trim();
    while vocabulary.count_tokens(rest) > room {
        match rest.split_once('\n') {
            Some((_, behind)) if !behind.trim().is_empty() => rest = behind.trim_start(),
            _ => break,
        }
    }
    while vocabulary.count_tokens(rest) > room {
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
