//! Token arithmetic of a prompt: how many tokens the model's context window leaves for memory.
//!
//! Invariant: system prompt, memory, new message and reply together never exceed the window.
//!
//! Two units occur. Context window, reply reserve and limits of the provider are in the model's own
//! tokens; everything else is in counted tokens, which [`TokenRatio`] converts.

use super::image_tokens::{ImageTokenCounter, TokenRange};
use super::strategies::{self, AvailableTokens, BudgetShares};
use super::token_ratio::TokenRatio;
use crate::domain::memory::{MemoryOptions, MemoryStrategy};
use crate::domain::message::MESSAGE_TOKEN_OVERHEAD;
use crate::domain::model::TokenVocabulary;
use crate::error::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::time::Duration;

/// Tokens that every prompt takes in addition to its messages: the beginning of the reply.
pub(super) const PROMPT_TOKEN_OVERHEAD: u32 = 3;
/// Tokens reserved for the reply if the request does not limit it; small windows reserve a quarter.
const DEFAULT_REPLY_RESERVE: u32 = 4096;
/// Upper bound of the default memory budget, however large the window.
const MAX_DEFAULT_MEMORY_TOKENS: u32 = 16_000;

/// The memory budget if neither session, request nor operator sets one.
pub(super) const fn default_memory_tokens(context_window: u32) -> u32 {
    let quarter = context_window / 4;
    if quarter < MAX_DEFAULT_MEMORY_TOKENS { quarter } else { MAX_DEFAULT_MEMORY_TOKENS }
}

/// Tokens reserved for the reply, in the model's own tokens.
pub(super) fn reply_reserve(context_window: u32, max_output_tokens: Option<u32>) -> u32 {
    max_output_tokens.unwrap_or_else(|| DEFAULT_REPLY_RESERVE.min(context_window / 4))
}

/// Counted tokens that system prompt, new message and reply leave of the window; `None` if they do
/// not fit. `context_window` and `max_output_tokens` are in the model's own tokens.
pub(super) fn available_memory_tokens(
    context_window: u32,
    max_output_tokens: Option<u32>,
    ratio: TokenRatio,
    system_tokens: u32,
    new_tokens: u32,
) -> Option<u32> {
    let framed = |tokens: u32| u64::from(tokens) + u64::from(MESSAGE_TOKEN_OVERHEAD);
    let fixed = u64::from(PROMPT_TOKEN_OVERHEAD) + framed(system_tokens) + framed(new_tokens);
    let reply = reply_reserve(context_window, max_output_tokens);
    // Subtract the reply first: it is in the model's own tokens, the fixed part is in counted ones.
    let prompt_tokens = ratio.to_counted_tokens(context_window.checked_sub(reply)?);
    let available = prompt_tokens.checked_sub(fixed)?;
    Some(u32::try_from(available).unwrap_or(u32::MAX))
}

/// The parts of a prompt that are sent whatever memory adds, in counted tokens.
pub(super) struct PromptCosts {
    pub(super) model: String,
    pub(super) vocabulary: TokenVocabulary,
    pub(super) context_window: u32,
    pub(super) token_ratio: TokenRatio,
    pub(super) system: Arc<str>,
    pub(super) system_tokens: u32,
    /// Zero if there is no new message yet.
    pub(super) new_message: TokenRange,
    /// `None` if the model accepts no images.
    pub(super) image_counter: Option<ImageTokenCounter>,
}

/// Budget of one prompt, decided before anything is read from the store.
#[derive(Debug, Clone)]
pub struct PromptBudget {
    pub model: String,
    pub vocabulary: TokenVocabulary,
    /// In the model's own tokens.
    pub context_window: u32,
    /// Converts between counted tokens and the model's own.
    pub token_ratio: TokenRatio,
    /// In the model's own tokens.
    pub reply_reserve: u32,
    pub strategy: MemoryStrategy,
    /// The rendered system prompt.
    pub system: Arc<str>,
    pub system_tokens: u32,
    /// Upper bound of the new message's tokens, images and `extra_tokens` included.
    pub new_tokens: u32,
    /// The part of `new_tokens` that is not the message itself: the reply whose calls it answers
    /// and the functions that are offered.
    pub extra_tokens: u32,
    /// `None` if the model accepts no images.
    pub image_counter: Option<ImageTokenCounter>,
    /// Memory options of the session and request, with the server's defaults filled in.
    pub options: MemoryOptions,
    /// Memory budget that applies if `options` sets none.
    pub default_tokens: u32,
    /// Tokens that the context window leaves for memory if the new message is ignored. The same
    /// from turn to turn, so that the window of messages is cut at the same positions.
    pub stable_tokens: u32,
    /// Tokens that memory, the project included, may take next to this new message.
    pub available_tokens: u32,
    /// How long to wait for recall; `None` waits until it is done.
    pub recall_timeout: Option<Duration>,
    /// Upper bound for the project: half of the memory budget. It stays the same from turn to turn,
    /// so a growing conversation does not push files out of the stable beginning of the prompt.
    pub max_project_tokens: u32,
}

impl PromptBudget {
    /// Divides the stable part of the budget, minus `project_tokens`, between the parts of memory.
    pub(super) fn compute_shares(&self, project_tokens: u32) -> BudgetShares {
        let without_project = |tokens: u32| tokens.saturating_sub(project_tokens);
        let max_tokens = self.options.max_tokens.map(without_project);
        let options = MemoryOptions { max_tokens, ..self.options };
        let available = AvailableTokens {
            window_tokens: without_project(self.stable_tokens),
            default_tokens: without_project(self.default_tokens),
        };
        strategies::find_strategy(self.strategy).divide_budget(available, options)
    }

    /// Limits memory, so that the prompt has at most `max_tokens` counted tokens, or no memory if
    /// system prompt and new message take as many.
    pub(super) fn limit_prompt(&mut self, max_tokens: u32) {
        let framed = |tokens: u32| tokens.saturating_add(MESSAGE_TOKEN_OVERHEAD);
        let before_new = max_tokens
            .saturating_sub(PROMPT_TOKEN_OVERHEAD.saturating_add(framed(self.system_tokens)));
        self.stable_tokens = self.stable_tokens.min(before_new);
        let left = before_new.saturating_sub(framed(self.new_tokens));
        self.available_tokens = self.available_tokens.min(left);
        self.max_project_tokens = self.max_project_tokens.min(left / 2);
    }

    /// Limits memory to half of `used_tokens`, for a retry after the provider rejected the prompt
    /// as too long. The stable shares stay, so later prompts are cut as before.
    pub fn halve_memory(&mut self, used_tokens: u32) {
        // Counting was wrong for this model by an unknown factor, so the budget does not tell how
        // much to remove; what memory actually used does.
        self.available_tokens = self.available_tokens.min(used_tokens / 2);
        self.max_project_tokens = self.max_project_tokens.min(self.available_tokens / 2);
    }
}

impl PromptCosts {
    /// Divides the window. Errors: `context_too_long` if system prompt and new message leave no
    /// room for a reply even at the lower bound of the message's tokens. Where they fit only at the
    /// lower bound, memory gets nothing.
    pub(super) fn into_budget(
        self,
        options: MemoryOptions,
        max_output_tokens: Option<u32>,
        default_tokens: u32,
    ) -> Result<PromptBudget> {
        let available_with = |new_tokens| {
            available_memory_tokens(
                self.context_window,
                max_output_tokens,
                self.token_ratio,
                self.system_tokens,
                new_tokens,
            )
        };
        let reply_reserve = reply_reserve(self.context_window, max_output_tokens);
        // Image tokens are often only known as a range. A message is rejected only if it cannot fit
        // at all; memory is budgeted as if it took the most.
        if available_with(self.new_message.min).is_none() {
            return Err(self.context_too_long_error(reply_reserve));
        }
        let left = available_with(self.new_message.max).unwrap_or(0);
        let stable_tokens = available_with(0).unwrap_or(left).max(left);
        let strategy = options.strategy.unwrap_or_default();
        let total = strategies::find_strategy(strategy)
            .divide_budget(
                AvailableTokens { window_tokens: stable_tokens, default_tokens },
                options,
            )
            .total;
        let available_tokens = total.min(left);
        let memory_tokens = available_tokens.min(options.max_tokens.unwrap_or(default_tokens));
        Ok(PromptBudget {
            options,
            default_tokens,
            stable_tokens,
            available_tokens,
            recall_timeout: None,
            max_project_tokens: memory_tokens / 2,
            vocabulary: self.vocabulary,
            model: self.model,
            context_window: self.context_window,
            token_ratio: self.token_ratio,
            reply_reserve,
            strategy,
            system: self.system,
            system_tokens: self.system_tokens,
            new_tokens: self.new_message.max,
            extra_tokens: 0,
            image_counter: self.image_counter,
        })
    }

    fn context_too_long_error(&self, reply_reserve: u32) -> Error {
        let Self { model, context_window, .. } = self;
        let new_tokens = self.token_ratio.to_model_tokens(self.new_message.min);
        let system_tokens = self.token_ratio.to_model_tokens(self.system_tokens);
        Error::new(
            ErrorKind::ContextTooLong,
            format!(
                "the message does not fit the model: {new_tokens} tokens, with {system_tokens} of system prompt \
                 and {reply_reserve} reserved for the reply, in a context window of {context_window}"
            ),
        )
        .with_details(serde_json::json!({
            "model": model,
            "contextWindow": context_window,
            "messageTokens": new_tokens,
            "systemTokens": system_tokens,
            "replyReserve": reply_reserve,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::memory::STRATEGY_NAMES;
    use proptest::prelude::*;
    use proptest::strategy::Strategy;

    /// Ordinary token counts, and those at the edges where arithmetic overflows.
    fn any_tokens() -> impl Strategy<Value = u32> {
        prop_oneof![3 => 0u32..3000, 1 => any::<u32>(), 1 => u32::MAX - 5..=u32::MAX, 1 => 0u32..3]
    }

    /// Ratios, in twentieths.
    fn ratio_steps() -> impl Strategy<Value = u32> {
        prop_oneof![Just(20u32), 14u32..=160]
    }

    fn memory_options() -> impl Strategy<Value = MemoryOptions> {
        let strategies = STRATEGY_NAMES.map(|(_, strategy)| strategy);
        let strategy = proptest::sample::select(strategies.to_vec());
        let tokens = || proptest::option::of(any_tokens());
        (proptest::option::of(strategy), tokens(), tokens(), tokens()).prop_map(
            |(strategy, last_messages, max_tokens, recall_tokens)| MemoryOptions {
                strategy,
                last_messages,
                max_tokens,
                recall_tokens,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_budget_fits_the_context_window(
            context_window in prop_oneof![256u32..10_000, any::<u32>()],
            system_tokens in any_tokens(),
            new_tokens in any_tokens(),
            unsure in prop_oneof![Just(0u32), any_tokens()],
            max_output_tokens in proptest::option::of(any_tokens()),
            default_tokens in any_tokens(),
            options in memory_options(),
            steps in ratio_steps(),
        ) {
            let new = TokenRange { min: new_tokens.saturating_sub(unsure), max: new_tokens };
            let to_own = |counted: u64| (counted * u64::from(steps)).div_ceil(20);
            let costs = PromptCosts {
                model: "m".to_owned(),
                vocabulary: TokenVocabulary::O200k,
                context_window,
                token_ratio: TokenRatio::from_steps(steps),
                system: "".into(),
                system_tokens,
                new_message: new,
                image_counter: ImageTokenCounter::for_model("m", TokenRatio::IDENTITY),
            };
            let budget = costs.into_budget(options, max_output_tokens, default_tokens);
            let overhead = u64::from(MESSAGE_TOKEN_OVERHEAD);
            let before_memory = |new: u32| {
                let system = u64::from(PROMPT_TOKEN_OVERHEAD) + u64::from(system_tokens) + overhead;
                system + u64::from(new) + overhead
            };
            match budget {
                Ok(budget) => {
                    let memory = u64::from(budget.available_tokens);
                    let reserve = u64::from(budget.reply_reserve);
                    let all = |new| to_own(before_memory(new) + memory) + reserve;
                    let window = u64::from(context_window);
                    prop_assert!(all(new.min) <= window, "{} of {window}: {budget:?}", all(new.min));
                    prop_assert!(memory == 0 || all(new.max) <= window, "{budget:?}");
                    prop_assert!(memory <= options.max_tokens.map_or(u64::MAX, u64::from));
                    prop_assert!(budget.max_project_tokens <= budget.available_tokens / 2);
                    let stable = budget.compute_shares(0);
                    prop_assert!(u64::from(stable.summary) + u64::from(stable.recalled) <= u64::from(stable.total));
                    let shares = stable.scaled_to(budget.available_tokens);
                    prop_assert!(shares.total <= budget.available_tokens);
                    prop_assert!(shares.summary + shares.recalled <= shares.total);
                    prop_assert_eq!(budget.reply_reserve, reply_reserve(context_window, max_output_tokens));
                }
                Err(error) => {
                    prop_assert_eq!(error.kind, ErrorKind::ContextTooLong);
                    let reserve = u64::from(reply_reserve(context_window, max_output_tokens));
                    let all = to_own(before_memory(new.min)) + reserve;
                    prop_assert!(all > u64::from(context_window), "it would have fitted");
                }
            }
        }
    }
}
