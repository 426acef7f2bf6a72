//! The part of the history that a prompt contains verbatim: reads the end of the path and selects
//! the window from it.

use super::Memory;
use super::budget::PromptBudget;
use super::strategies::BudgetShares;
use super::tool_calls::pair_calls;
use super::window::{self, WindowMessage};
use super::window_cut::trim_to_cut;
use crate::domain::attachment::render_text;
use crate::domain::message::MESSAGE_TOKEN_OVERHEAD;
use crate::domain::model::TokenVocabulary;
use crate::domain::{MessageId, Session, tool};
use crate::error::Result;
use crate::store::{HistoryLimits, HistoryMessage};

/// The messages at the end of the path that the prompt contains verbatim.
pub(super) struct HistoryWindow {
    /// Oldest first.
    pub(super) messages: Vec<WindowMessage>,
    /// Tokens of the path before the first of them.
    pub(super) start_tokens: u64,
    /// Whether the window is the whole path.
    pub(super) is_complete: bool,
    /// Tokens that still fit before the window begins at another message.
    remaining_tokens: u32,
    /// The same in messages.
    remaining_messages: usize,
}

impl HistoryWindow {
    /// Whether the next turn's window begins at the same message: it has room for a message of
    /// `new_tokens`, framing included, and for the reply to it.
    pub(super) fn keeps_start_after(&self, new_tokens: u32) -> bool {
        self.remaining_messages >= 2 && new_tokens < self.remaining_tokens
    }
}

impl Memory {
    /// Reads the end of the path, newest message first, as far as it can be verbatim.
    pub(super) async fn read_history(
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
}

/// Selects the messages of the window. `history` is newest first; `stable` are the shares that stay
/// the same from turn to turn, `shares` those of this turn.
pub(super) fn select_history_window(
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
            let tokens = count_text_tokens(&message, budget.vocabulary);
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
        remaining_tokens,
        remaining_messages,
    }
}

/// Tokens of a message's text, attachments and calls included, without images and framing.
fn count_text_tokens(message: &HistoryMessage, vocabulary: TokenVocabulary) -> u32 {
    match vocabulary {
        // Stored messages carry their o200k_base count.
        TokenVocabulary::O200k => message.tokens,
        TokenVocabulary::Cl100k => {
            let calls = tool::format_calls(&tool::parse_calls(&message.parts));
            let text = render_text(&message.content, &message.parts);
            vocabulary.count_tokens(&text).saturating_add(vocabulary.count_tokens(&calls))
        }
    }
}
