//! Counts of models whose vocabulary nobody knows, corrected by what their providers report.
//!
//! Such a model's texts are counted by o200k_base, and each reply says how many tokens the prompt
//! had for the model. From that each model's own ratio is learned. It bears on what fits the
//! context window, not on the budget of memory, which stays in counted tokens: so a change moves
//! nothing in a prompt unless the window itself is what bounds it.
//!
//! Nothing of it is stored: a server that starts learns anew, each instance for itself.

use super::assemble::AssembledPrompt;
use super::{Memory, tokens};
use crate::domain::Usage;
use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

/// A correction of 1, in steps of a twentieth.
const STEPS_PER_UNIT: u32 = 20;
/// Corrections that a vocabulary can account for: 0.7 to 8. What is outside is no count of this
/// prompt: some providers leave out what they had cached, or count what they add themselves.
const PLAUSIBLE_STEPS: RangeInclusive<u32> = 14..=160;
/// Shorter prompts tell more of what the provider puts around them than of its vocabulary.
const MIN_COUNTED_TOKENS: u32 = 500;
/// How many reports it takes to believe them.
const MIN_REPORTS: usize = 3;
/// How many reports of a model are kept.
const MAX_REPORTS: usize = 16;
/// By how many steps the reports must lie below a correction before it gives way.
const DECREASE_THRESHOLD: u32 = 2;
/// How many models are known at the same time.
const MAX_MODELS: usize = 64;

/// How many of a model's own tokens stand for one counted token, in steps of a twentieth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRatio(u32);

impl TokenRatio {
    /// Of models whose tokens are counted by their own vocabulary, or of which nothing is known.
    pub const IDENTITY: Self = Self(STEPS_PER_UNIT);

    /// The model's own tokens, rounded up.
    pub(super) fn to_model_tokens(self, counted: u32) -> u32 {
        let own = (u64::from(counted) * u64::from(self.0)).div_ceil(STEPS_PER_UNIT.into());
        u32::try_from(own).unwrap_or(u32::MAX)
    }

    /// What of so many of the model's own tokens there is to give away, in counted ones: rounded
    /// down, so that `own(counted(x))` is at most `x`.
    pub(super) fn to_counted_tokens(self, own: u32) -> u64 {
        u64::from(own) * u64::from(STEPS_PER_UNIT) / u64::from(self.0)
    }

    /// What stands for so many of the model's own tokens where that is known: rounded up.
    pub(super) fn to_counted_tokens_ceil(self, own: u32) -> u32 {
        let counted = (u64::from(own) * u64::from(STEPS_PER_UNIT)).div_ceil(self.0.into());
        u32::try_from(counted).unwrap_or(u32::MAX)
    }

    /// As a factor; `None` where it is 1.
    pub(super) fn as_factor(self) -> Option<f64> {
        (self != Self::IDENTITY).then(|| f64::from(self.0) / f64::from(STEPS_PER_UNIT))
    }
}

/// How a prompt was counted, to be compared with what its provider reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptCount {
    model: String,
    tokens: u32,
}

impl AssembledPrompt {
    /// What can be learned from; `None` with pictures, whose size is often a bound, not a count.
    pub fn prompt_count(&self) -> Option<PromptCount> {
        let has_images = self.pieces.iter().any(|piece| !piece.images.is_empty());
        let counted = || PromptCount { model: self.model.clone(), tokens: self.counted_tokens };
        (!has_images).then(counted)
    }
}

impl Memory {
    /// Learns how far a count was off from what the provider of this very model reported.
    pub fn record_prompt_count(&self, counted: &PromptCount, reported: Usage) {
        if reported.estimated || tokens::has_exact_vocabulary(&counted.model) {
            return;
        }
        let Some(changed) = self.token_ratios.record_report(counted, reported) else { return };
        tracing::info!(
            model = counted.model,
            tokens.correction = changed.as_factor().unwrap_or(1.0),
            "token counts of a model are corrected by what its provider reports"
        );
    }
}

/// What was learned of each model, bounded in size: of models that are not asked any more, the one
/// that was not reported for longest is forgotten.
#[derive(Debug, Default)]
pub(super) struct TokenRatioTracker {
    state: Mutex<TrackerState>,
}

#[derive(Debug, Default)]
struct TrackerState {
    models: HashMap<String, ModelReports>,
    /// Counts the reports; it tells which model's last one is the oldest.
    report_count: u64,
}

#[derive(Debug)]
struct ModelReports {
    /// What each report would have needed, newest last.
    required_steps: VecDeque<u32>,
    ratio: TokenRatio,
    last_report: u64,
}

impl TokenRatioTracker {
    /// What to correct a model's counts by.
    pub(super) fn ratio_of(&self, model: &str) -> TokenRatio {
        let learned = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        learned.models.get(model).map_or(TokenRatio::IDENTITY, |reports| reports.ratio)
    }

    /// Takes a report in; the model's correction if that has changed.
    fn record_report(
        &self,
        PromptCount { model, tokens }: &PromptCount,
        reported: Usage,
    ) -> Option<TokenRatio> {
        let needed = required_steps(*tokens, reported)?;
        let mut learned = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        learned.report_count += 1;
        let last = learned.report_count;
        if !learned.models.contains_key(model) && learned.models.len() >= MAX_MODELS {
            let oldest = learned.models.iter().min_by_key(|(_, reports)| reports.last_report);
            let oldest = oldest.map(|(name, _)| name.clone())?;
            learned.models.remove(&oldest);
        }
        let reports = learned.models.entry(model.clone()).or_insert_with(|| ModelReports {
            required_steps: VecDeque::with_capacity(MAX_REPORTS),
            ratio: TokenRatio::IDENTITY,
            last_report: last,
        });
        reports.last_report = last;
        reports.add_report(needed)
    }
}

/// The steps that would have made the count the reported one, or more; `None` if the report says
/// nothing of the model's vocabulary.
fn required_steps(counted: u32, reported: Usage) -> Option<u32> {
    let leaves_out_cached = reported.cached_tokens > reported.prompt_tokens;
    if counted < MIN_COUNTED_TOKENS || leaves_out_cached {
        return None;
    }
    let steps = reported.prompt_tokens.checked_mul(STEPS_PER_UNIT.into())?.div_ceil(counted.into());
    u32::try_from(steps).ok().filter(|steps| PLAUSIBLE_STEPS.contains(steps))
}

impl ModelReports {
    /// It goes up at once and comes down only when much too high: an estimate that is too large
    /// leaves a little of the window unused, one that is too small fails a turn. Three quarters of
    /// the reports decide, so no single one does.
    fn add_report(&mut self, needed: u32) -> Option<TokenRatio> {
        if self.required_steps.len() == MAX_REPORTS {
            self.required_steps.pop_front();
        }
        self.required_steps.push_back(needed);
        if self.required_steps.len() < MIN_REPORTS {
            return None;
        }
        let mut sorted: Vec<u32> = self.required_steps.iter().copied().collect();
        sorted.sort_unstable();
        let wanted = sorted[(sorted.len() - 1) * 3 / 4];
        let TokenRatio(current) = self.ratio;
        if wanted <= current && wanted + DECREASE_THRESHOLD > current {
            return None;
        }
        self.ratio = TokenRatio(wanted);
        Some(self.ratio)
    }
}

#[cfg(test)]
impl TokenRatio {
    /// One of so many twentieths.
    pub(super) const fn from_steps(steps: u32) -> Self {
        Self(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage_report(prompt_tokens: u64) -> Usage {
        Usage { prompt_tokens, completion_tokens: 1, ..Usage::default() }
    }

    fn prompt_count(model: &str, tokens: u32) -> PromptCount {
        PromptCount { model: model.to_owned(), tokens }
    }

    /// The corrections after each of these reports on a prompt that was counted as 1,000 tokens.
    fn ratios_after(reports: &[u64]) -> Vec<u32> {
        let corrections = TokenRatioTracker::default();
        let learn = |reported: &u64| {
            corrections.record_report(&prompt_count("m", 1000), usage_report(*reported));
            corrections.ratio_of("m").0
        };
        reports.iter().map(learn).collect()
    }

    #[test]
    fn three_reports_set_ratio_rounded_up() {
        assert_eq!(ratios_after(&[1210, 1210, 1210, 1210]), [20, 20, 25, 25]);
        assert_eq!(ratios_after(&[850, 850, 850]), [20, 20, 17]);
        assert_eq!(ratios_after(&[1000, 1000, 1000]), [20, 20, 20]);
    }

    #[test]
    fn one_outlier_changes_nothing() {
        assert_eq!(ratios_after(&[1200, 1200, 1200, 7900, 1200, 1200]), [20, 20, 24, 24, 24, 24]);
        assert_eq!(ratios_after(&[7900, 1200, 1200, 1200]), [20, 20, 24, 24]);
        assert_eq!(ratios_after(&[1200, 1200, 1200, 710, 1200]), [20, 20, 24, 24, 24]);
    }

    #[test]
    fn implausible_reports_are_ignored() {
        // Nothing, only what was not cached, a hidden prompt of thousands, absurd numbers.
        assert_eq!(
            ratios_after(&[0, 0, 0, 120, 120, 120, 9000, 9000, 9000, u64::MAX, u64::MAX]),
            [20; 11]
        );
        let corrections = TokenRatioTracker::default();
        let apart = Usage { cached_tokens: 1100, ..usage_report(1050) };
        for _ in 0..5 {
            corrections.record_report(&prompt_count("m", 1000), apart);
            corrections.record_report(&prompt_count("m", 499), usage_report(900));
        }
        assert_eq!(corrections.ratio_of("m"), TokenRatio::IDENTITY);
    }

    #[test]
    fn ratio_rises_at_once_and_falls_slowly() {
        let noise: Vec<u64> = (0..60).map(|number| 1180 + number * 37 % 60).collect();
        let steps = ratios_after(&noise);
        let changes = steps.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 2, "{steps:?}");
        let reports: Vec<u64> = [[1500; 16], [1440; 16], [1100; 16]].concat();
        let steps = ratios_after(&reports);
        assert_eq!((steps[15], steps[31], steps[47]), (30, 30, 22));
    }

    #[test]
    fn models_have_separate_ratios_within_limit() {
        let corrections = TokenRatioTracker::default();
        for number in 0..1000 {
            for _ in 0..3 {
                corrections
                    .record_report(&prompt_count(&format!("m{number}"), 1000), usage_report(1500));
                corrections.record_report(&prompt_count("in use", 1000), usage_report(2000));
            }
        }
        assert_eq!(corrections.ratio_of("in use").0, 40);
        assert_eq!((corrections.ratio_of("m999").0, corrections.ratio_of("m0").0), (30, 20));
        assert_eq!(corrections.state.lock().unwrap().models.len(), MAX_MODELS);
    }

    proptest! {
        #[test]
        fn what_is_given_away_never_counts_for_more_than_there_is(
            own in 0u32..1 << 30,
            steps in PLAUSIBLE_STEPS,
        ) {
            let correction = TokenRatio(steps);
            let counted = u32::try_from(correction.to_counted_tokens(own)).unwrap();
            prop_assert!(correction.to_model_tokens(counted) <= own);
            prop_assert!(correction.to_model_tokens(counted + 1) > own);
            prop_assert!(correction.to_model_tokens(correction.to_counted_tokens_ceil(own)) >= own);
        }
    }
}
