//! The arithmetic of a prompt: what the model's context window leaves for memory.
//!
//! Invariant: system prompt, memory, new message and reply together never exceed the window.

use super::image_tokens::{ImageTokenCounter, TokenRange};
use super::strategies::{self, AvailableTokens, BudgetShares};
use super::token_ratio::TokenRatio;
use super::tokens::TokenVocabulary;
use crate::domain::memory::{MemoryOptions, MemoryStrategy};
use crate::domain::message;
use crate::error::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::time::Duration;

/// What each message takes beside its text.
pub(super) const MESSAGE_TOKEN_OVERHEAD: u32 = message::MESSAGE_TOKEN_OVERHEAD;
/// What every prompt takes beside its messages: the beginning of the reply.
pub(super) const PROMPT_TOKEN_OVERHEAD: u32 = 3;
/// What is kept for the reply unless its limit is given, or a quarter of a small window.
const DEFAULT_REPLY_RESERVE: u32 = 4096;
/// The most that memory takes by default, however large the window.
const MAX_DEFAULT_MEMORY_TOKENS: u32 = 16_000;

/// What memory may take of a window unless somebody says otherwise.
pub(super) const fn default_memory_tokens(context_window: u32) -> u32 {
    let quarter = context_window / 4;
    if quarter < MAX_DEFAULT_MEMORY_TOKENS { quarter } else { MAX_DEFAULT_MEMORY_TOKENS }
}

/// What is kept for the reply.
pub(super) fn reply_reserve(context_window: u32, max_output_tokens: Option<u32>) -> u32 {
    max_output_tokens.unwrap_or_else(|| DEFAULT_REPLY_RESERVE.min(context_window / 4))
}

/// What system prompt, new message and reply leave of the window, in counted tokens; `None` if they
/// do not fit. Window and reply are in the model's own tokens, the others as they are counted.
pub(super) fn available_memory_tokens(
    context_window: u32,
    max_output_tokens: Option<u32>,
    correction: TokenRatio,
    system_tokens: u32,
    new_tokens: u32,
) -> Option<u32> {
    let framed = |tokens: u32| u64::from(tokens) + u64::from(MESSAGE_TOKEN_OVERHEAD);
    let fixed = u64::from(PROMPT_TOKEN_OVERHEAD) + framed(system_tokens) + framed(new_tokens);
    let reply = reply_reserve(context_window, max_output_tokens);
    let room =
        correction.to_counted_tokens(context_window.checked_sub(reply)?).checked_sub(fixed)?;
    Some(u32::try_from(room).unwrap_or(u32::MAX))
}

/// What stands in the prompt in any case, in counted tokens.
pub(super) struct PromptCosts {
    pub(super) model: String,
    pub(super) vocabulary: TokenVocabulary,
    pub(super) context_window: u32,
    pub(super) token_ratio: TokenRatio,
    pub(super) system: Arc<str>,
    pub(super) system_tokens: u32,
    /// What the new message takes; nothing where there is none yet.
    pub(super) new_message: TokenRange,
    /// `None` where the model takes no pictures.
    pub(super) image_counter: Option<ImageTokenCounter>,
}

/// What was decided before anything is read.
#[derive(Debug, Clone)]
pub struct PromptBudget {
    /// The model.
    pub model: String,
    /// The vocabulary it counts in.
    pub vocabulary: TokenVocabulary,
    /// Its context window, in tokens.
    pub context_window: u32,
    /// How its own tokens differ from the counted ones; window and reply are in its own, all else
    /// is as it is counted.
    pub token_ratio: TokenRatio,
    /// What is kept for the reply, in tokens.
    pub reply_reserve: u32,
    /// The strategy.
    pub strategy: MemoryStrategy,
    /// The system prompt.
    pub system: Arc<str>,
    /// Its tokens.
    pub system_tokens: u32,
    /// The new message's tokens, its pictures' included; of those that nobody knows, the most.
    pub new_tokens: u32,
    /// The part of these that goes to what stands beside it: calls that it answers, functions that
    /// are offered.
    pub extra_tokens: u32,
    /// How pictures count; `None` where the model takes none.
    pub image_counter: Option<ImageTokenCounter>,
    /// What is asked of memory.
    pub options: MemoryOptions,
    /// What memory takes unless somebody says otherwise.
    pub default_tokens: u32,
    /// What the context window leaves for memory, whatever the new message is.
    pub stable_tokens: u32,
    /// What memory may take beside this new message, the project included.
    pub available_tokens: u32,
    /// How long to wait for what is recalled; `None` is as long as it takes.
    pub recall_timeout: Option<Duration>,
    /// The part of it that the session's project may take: half of the memory budget, the same from
    /// turn to turn, so that a long conversation does not push files out of the prompt's beginning.
    pub max_project_tokens: u32,
}

impl PromptBudget {
    /// What each part of memory takes from turn to turn, beside so many tokens for the project.
    pub(super) fn compute_shares(&self, project: u32) -> BudgetShares {
        let room = |tokens: u32| tokens.saturating_sub(project);
        let max_tokens = self.options.max_tokens.map(room);
        let options = MemoryOptions { max_tokens, ..self.options };
        let room = AvailableTokens {
            window_tokens: room(self.stable_tokens),
            default_tokens: room(self.default_tokens),
        };
        strategies::find_strategy(self.strategy).divide_budget(room, options)
    }

    /// Halves what memory took of a prompt that the provider found too long.
    pub fn halve_memory(&mut self, taken: u32) {
        self.available_tokens = self.available_tokens.min(taken / 2);
        self.max_project_tokens = self.max_project_tokens.min(self.available_tokens / 2);
    }
}

impl PromptCosts {
    /// Divides the window up. Errors: `context_too_long` if system prompt and new message surely
    /// leave no room for a reply. Where they may, memory gets none.
    pub(super) fn into_budget(
        self,
        options: MemoryOptions,
        max_output_tokens: Option<u32>,
        default_tokens: u32,
    ) -> Result<PromptBudget> {
        let room_beside = |new_tokens| {
            available_memory_tokens(
                self.context_window,
                max_output_tokens,
                self.token_ratio,
                self.system_tokens,
                new_tokens,
            )
        };
        let reply_reserve = reply_reserve(self.context_window, max_output_tokens);
        if room_beside(self.new_message.min).is_none() {
            return Err(self.context_too_long_error(reply_reserve));
        }
        let left = room_beside(self.new_message.max).unwrap_or(0);
        let steady = room_beside(0);
        let strategy = options.strategy.unwrap_or_default();
        let steady = steady.unwrap_or(left).max(left);
        let all = strategies::find_strategy(strategy)
            .divide_budget(AvailableTokens { window_tokens: steady, default_tokens }, options)
            .total;
        let room = all.min(left);
        Ok(PromptBudget {
            options,
            default_tokens,
            stable_tokens: steady,
            available_tokens: room,
            recall_timeout: None,
            max_project_tokens: room.min(options.max_tokens.unwrap_or(default_tokens)) / 2,
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
                 and {reply_reserve} kept for the reply, in a context window of {context_window}"
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

    /// Numbers as they come, and those at which arithmetic breaks.
    fn any_tokens() -> impl Strategy<Value = u32> {
        prop_oneof![3 => 0u32..3000, 1 => any::<u32>(), 1 => u32::MAX - 5..=u32::MAX, 1 => 0u32..3]
    }

    /// Corrections, in twentieths.
    fn ratio_steps() -> impl Strategy<Value = u32> {
        prop_oneof![Just(20u32), 14u32..=160]
    }

    fn memory_options() -> impl Strategy<Value = MemoryOptions> {
        let ways = STRATEGY_NAMES.map(|(_, way)| way);
        let strategy = proptest::sample::select(ways.to_vec());
        let some = || proptest::option::of(any_tokens());
        (proptest::option::of(strategy), some(), some(), some()).prop_map(
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
        fn whatever_is_asked_all_together_fits_the_window(
            context_window in prop_oneof![256u32..10_000, any::<u32>()],
            system_tokens in any_tokens(),
            new_tokens in any_tokens(),
            unsure in prop_oneof![Just(0u32), any_tokens()],
            max_output_tokens in proptest::option::of(any_tokens()),
            default_tokens in any_tokens(),
            options in memory_options(),
            steps in ratio_steps(),
        ) {
            let (model, vocabulary, system) = ("m".to_owned(), TokenVocabulary::O200k, "".into());
            let new = TokenRange { min: new_tokens.saturating_sub(unsure), max: new_tokens };
            let sight = ImageTokenCounter::for_model(&model, TokenRatio::IDENTITY);
            let correction = TokenRatio::from_steps(steps);
            let own = |counted: u64| (counted * u64::from(steps)).div_ceil(20);
            let fixed = PromptCosts {
                model, vocabulary, context_window, token_ratio: correction, system, system_tokens, new_message: new, image_counter: sight,
            };
            let planned = fixed.into_budget(options, max_output_tokens, default_tokens);
            let overhead = u64::from(MESSAGE_TOKEN_OVERHEAD);
            let before_memory = |new: u32| {
                let system = u64::from(PROMPT_TOKEN_OVERHEAD) + u64::from(system_tokens) + overhead;
                system + u64::from(new) + overhead
            };
            match planned {
                Ok(plan) => {
                    let memory = u64::from(plan.available_tokens);
                    let all = |new| own(before_memory(new) + memory) + u64::from(plan.reply_reserve);
                    let window = u64::from(context_window);
                    prop_assert!(all(new.min) <= window, "{} of {window}: {plan:?}", all(new.min));
                    prop_assert!(memory == 0 || all(new.max) <= window, "{plan:?}");
                    prop_assert!(memory <= options.max_tokens.map_or(u64::MAX, u64::from));
                    prop_assert!(plan.max_project_tokens <= plan.available_tokens / 2);
                    let shares = plan.compute_shares(0);
                    prop_assert!(u64::from(shares.summary) + u64::from(shares.recalled) <= u64::from(shares.total));
                    let now = shares.scaled_to(plan.available_tokens);
                    prop_assert!(now.total <= plan.available_tokens && now.summary + now.recalled <= now.total);
                    prop_assert_eq!(plan.reply_reserve, reply_reserve(context_window, max_output_tokens));
                }
                Err(error) => {
                    prop_assert_eq!(error.kind, ErrorKind::ContextTooLong);
                    let reserve = u64::from(reply_reserve(context_window, max_output_tokens));
                    let all = own(before_memory(new.min)) + reserve;
                    prop_assert!(all > u64::from(context_window), "it would have fitted");
                }
            }
        }
    }
}
