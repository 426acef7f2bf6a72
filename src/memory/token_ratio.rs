//! Corrects token counts of models with an unknown vocabulary by the usage that their providers
//! report.
//!
//! Texts for such a model are counted in o200k_base, and each reply reports how many tokens the
//! prompt had for the model itself. From both follows a ratio per model. It is applied to the
//! context window only. The memory budget stays in counted tokens, so a new ratio changes nothing
//! in a prompt unless the window is the bound.
//!
//! Ratios are kept in memory only: each instance learns its own after a start.

use super::Memory;
use crate::domain::{Usage, model};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;

/// Ratios are stored in steps of 1/20; this many steps are a ratio of 1.
const STEPS_PER_UNIT: u32 = 20;
/// Ratios that a vocabulary can account for: 0.7 to 8. Reports outside of it do not count the same
/// prompt: some providers leave out cached tokens or include text that they add.
const PLAUSIBLE_STEPS: RangeInclusive<u32> = 14..=160;
/// Shorter prompts say more about the provider's framing than about its vocabulary.
const MIN_COUNTED_TOKENS: u32 = 500;
/// Reports before the first correction.
const MIN_REPORTS: usize = 3;
/// Reports kept per model; older ones are dropped.
const MAX_REPORTS: usize = 16;
/// The ratio falls only if the reports are below it by at least this many steps.
const DECREASE_THRESHOLD: u32 = 2;
const MAX_MODELS: usize = 64;

/// Number of a model's own tokens per counted token, in steps of 1/20.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRatio(u32);

impl TokenRatio {
    /// For models that are counted in their own vocabulary, or that have no reports yet.
    pub const IDENTITY: Self = Self(STEPS_PER_UNIT);

    /// Converts counted tokens to the model's own, rounded up.
    pub(super) fn to_model_tokens(self, counted: u32) -> u32 {
        let own = (u64::from(counted) * u64::from(self.0)).div_ceil(STEPS_PER_UNIT.into());
        u32::try_from(own).unwrap_or(u32::MAX)
    }

    /// Converts a limit in the model's own tokens to counted ones, rounded down, so that converting
    /// it back never exceeds the limit.
    pub(super) fn to_counted_tokens(self, own: u32) -> u64 {
        u64::from(own) * u64::from(STEPS_PER_UNIT) / u64::from(self.0)
    }

    /// Converts a known number of the model's own tokens to counted ones, rounded up.
    pub(super) fn to_counted_tokens_ceil(self, own: u32) -> u32 {
        let counted = (u64::from(own) * u64::from(STEPS_PER_UNIT)).div_ceil(self.0.into());
        u32::try_from(counted).unwrap_or(u32::MAX)
    }

    /// The ratio as a number; `None` if it is 1.
    pub(super) fn as_factor(self) -> Option<f64> {
        (self != Self::IDENTITY).then(|| f64::from(self.0) / f64::from(STEPS_PER_UNIT))
    }
}

/// The count of a prompt, to be compared with the usage that its provider reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptCount {
    pub(super) model: String,
    /// Counted tokens of the whole prompt.
    pub(super) tokens: u32,
}

impl Memory {
    /// Updates the model's ratio from the usage that the provider reported for this prompt. Ignores
    /// estimated usage and models whose vocabulary is known.
    pub fn record_prompt_count(&self, counted: &PromptCount, reported: Usage) {
        if reported.estimated || model::vocabulary(&counted.model).is_some() {
            return;
        }
        let Some(changed) = self.token_ratios.record_report(counted, reported) else { return };
        tracing::info!(
            model = counted.model,
            tokens.correction = changed.as_factor().unwrap_or(1.0),
            "token ratio updated from the usage reported by the provider"
        );
    }
}

/// The ratios of up to [`MAX_MODELS`] models. A new model replaces the one whose last report is the
/// oldest.
#[derive(Debug, Default)]
pub(super) struct TokenRatioTracker {
    state: Mutex<TrackerState>,
}

#[derive(Debug, Default)]
struct TrackerState {
    models: HashMap<String, ModelReports>,
    /// Reports so far: a logical clock that orders the models by their last report.
    report_count: u64,
}

#[derive(Debug)]
struct ModelReports {
    /// Ratio that each report would have needed, in steps, oldest first.
    required_steps: VecDeque<u32>,
    ratio: TokenRatio,
    last_report: u64,
}

impl TokenRatioTracker {
    /// The current ratio, or the identity for a model without enough reports.
    pub(super) fn ratio_of(&self, model: &str) -> TokenRatio {
        let state = self.state.lock();
        state.models.get(model).map_or(TokenRatio::IDENTITY, |reports| reports.ratio)
    }

    /// Adds a report. Returns the new ratio if it changed.
    fn record_report(
        &self,
        PromptCount { model, tokens }: &PromptCount,
        reported: Usage,
    ) -> Option<TokenRatio> {
        let needed = required_steps(*tokens, reported)?;
        let mut state = self.state.lock();
        state.report_count += 1;
        let now = state.report_count;
        // Model names come from requests, so the map needs a bound.
        if !state.models.contains_key(model) && state.models.len() >= MAX_MODELS {
            let oldest = state.models.iter().min_by_key(|(_, reports)| reports.last_report);
            let oldest = oldest.map(|(name, _)| name.clone())?;
            state.models.remove(&oldest);
        }
        let reports = state.models.entry(model.clone()).or_insert_with(|| ModelReports {
            required_steps: VecDeque::with_capacity(MAX_REPORTS),
            ratio: TokenRatio::IDENTITY,
            last_report: now,
        });
        reports.last_report = now;
        reports.add_report(needed)
    }
}

/// The ratio, in steps and rounded up, that turns the count into the reported one. `None` if the
/// report is implausible or the prompt too short.
fn required_steps(counted: u32, reported: Usage) -> Option<u32> {
    // Providers that report cached tokens apart leave them out of the prompt tokens.
    let excludes_cached = reported.cached_tokens > reported.prompt_tokens;
    if counted < MIN_COUNTED_TOKENS || excludes_cached {
        return None;
    }
    let steps = reported.prompt_tokens.checked_mul(STEPS_PER_UNIT.into())?.div_ceil(counted.into());
    u32::try_from(steps).ok().filter(|steps| PLAUSIBLE_STEPS.contains(steps))
}

impl ModelReports {
    /// Raises the ratio at once and lowers it only when it is much too high: an estimate that is
    /// too large leaves a little of the window unused, one that is too small fails a turn.
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
        // The third quartile decides, so neither a single outlier nor the lowest report does.
        let required = sorted[(sorted.len() - 1) * 3 / 4];
        let TokenRatio(current) = self.ratio;
        if required <= current && required + DECREASE_THRESHOLD > current {
            return None;
        }
        self.ratio = TokenRatio(required);
        Some(self.ratio)
    }
}

#[cfg(test)]
impl TokenRatio {
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

    /// The steps after each of these reports on a prompt that was counted as 1,000 tokens.
    fn ratios_after(reports: &[u64]) -> Vec<u32> {
        let tracker = TokenRatioTracker::default();
        let record = |reported: &u64| {
            tracker.record_report(&prompt_count("m", 1000), usage_report(*reported));
            tracker.ratio_of("m").0
        };
        reports.iter().map(record).collect()
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
        // Zero, uncached tokens only, a hidden prompt of thousands of tokens, absurd numbers.
        assert_eq!(
            ratios_after(&[0, 0, 0, 120, 120, 120, 9000, 9000, 9000, u64::MAX, u64::MAX]),
            [20; 11]
        );
        let tracker = TokenRatioTracker::default();
        let cached_apart = Usage { cached_tokens: 1100, ..usage_report(1050) };
        for _ in 0..5 {
            tracker.record_report(&prompt_count("m", 1000), cached_apart);
            tracker.record_report(&prompt_count("m", 499), usage_report(900));
        }
        assert_eq!(tracker.ratio_of("m"), TokenRatio::IDENTITY);
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
        let tracker = TokenRatioTracker::default();
        for number in 0..1000 {
            for _ in 0..3 {
                tracker
                    .record_report(&prompt_count(&format!("m{number}"), 1000), usage_report(1500));
                tracker.record_report(&prompt_count("in use", 1000), usage_report(2000));
            }
        }
        assert_eq!(tracker.ratio_of("in use").0, 40);
        assert_eq!((tracker.ratio_of("m999").0, tracker.ratio_of("m0").0), (30, 20));
        assert_eq!(tracker.state.lock().models.len(), MAX_MODELS);
    }

    proptest! {
        #[test]
        fn converted_limit_is_never_exceeded(
            own in 0u32..1 << 30,
            steps in PLAUSIBLE_STEPS,
        ) {
            let ratio = TokenRatio(steps);
            let counted = u32::try_from(ratio.to_counted_tokens(own)).unwrap();
            prop_assert!(ratio.to_model_tokens(counted) <= own);
            prop_assert!(ratio.to_model_tokens(counted + 1) > own);
            prop_assert!(ratio.to_model_tokens(ratio.to_counted_tokens_ceil(own)) >= own);
        }
    }
}
