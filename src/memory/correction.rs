//! Counts of models whose vocabulary nobody knows, corrected by what their providers report.
//!
//! Such a model's texts are counted by o200k_base, and each reply says how many tokens the prompt
//! had for the model. From that each model's own ratio is learned. It bears on what fits the
//! context window, not on the budget of memory, which stays in counted tokens: so a change moves
//! nothing in a prompt unless the window itself is what bounds it.
//!
//! Nothing of it is stored: a server that starts learns anew, each instance for itself.

use super::assemble::Assembled;
use super::{Memory, tokens};
use crate::domain::Usage;
use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

/// A correction of 1, in steps of a twentieth.
const ONE: u32 = 20;
/// Corrections that a vocabulary can account for: 0.7 to 8. What is outside is no count of this
/// prompt: some providers leave out what they had cached, or count what they add themselves.
const PLAUSIBLE: RangeInclusive<u32> = 14..=160;
/// Shorter prompts tell more of what the provider puts around them than of its vocabulary.
const LEAST_COUNTED: u32 = 500;
/// How many reports it takes to believe them.
const ENOUGH: usize = 3;
/// How many reports of a model are kept.
const REPORTS: usize = 16;
/// By how many steps the reports must lie below a correction before it gives way.
const SLACK: u32 = 2;
/// How many models are known at the same time.
const MODELS: usize = 64;

/// How many of a model's own tokens stand for one counted token, in steps of a twentieth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Correction(u32);

impl Correction {
    /// Of models whose tokens are counted by their own vocabulary, or of which nothing is known.
    pub const NONE: Self = Self(ONE);

    /// The model's own tokens, rounded up.
    pub(super) fn own(self, counted: u32) -> u32 {
        let own = (u64::from(counted) * u64::from(self.0)).div_ceil(ONE.into());
        u32::try_from(own).unwrap_or(u32::MAX)
    }

    /// What of so many of the model's own tokens there is to give away, in counted ones: rounded
    /// down, so that `own(counted(x))` is at most `x`.
    pub(super) fn counted(self, own: u32) -> u64 {
        u64::from(own) * u64::from(ONE) / u64::from(self.0)
    }

    /// What stands for so many of the model's own tokens where that is known: rounded up.
    pub(super) fn counted_at_least(self, own: u32) -> u32 {
        let counted = (u64::from(own) * u64::from(ONE)).div_ceil(self.0.into());
        u32::try_from(counted).unwrap_or(u32::MAX)
    }

    /// As a factor; `None` where it is 1.
    pub(super) fn factor(self) -> Option<f64> {
        (self != Self::NONE).then(|| f64::from(self.0) / f64::from(ONE))
    }
}

/// How a prompt was counted, to be compared with what its provider reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    model: String,
    tokens: u32,
}

impl Assembled {
    /// What can be learned from; `None` with pictures, whose size is often a bound, not a count.
    pub fn counted(&self) -> Option<Counted> {
        let has_images = self.pieces.iter().any(|piece| !piece.images.is_empty());
        let counted = || Counted { model: self.model.clone(), tokens: self.counted_tokens };
        (!has_images).then(counted)
    }
}

impl Memory {
    /// Learns how far a count was off from what the provider of this very model reported.
    pub fn learn(&self, counted: &Counted, reported: Usage) {
        if reported.estimated || tokens::is_exact(&counted.model) {
            return;
        }
        let Some(changed) = self.corrections.learn(counted, reported) else { return };
        tracing::info!(
            model = counted.model,
            tokens.correction = changed.factor().unwrap_or(1.0),
            "token counts of a model are corrected by what its provider reports"
        );
    }
}

/// What was learned of each model, bounded in size: of models that are not asked any more, the one
/// that was not reported for longest is forgotten.
#[derive(Debug, Default)]
pub(super) struct Corrections {
    learned: Mutex<Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    models: HashMap<String, Reports>,
    /// Counts the reports; it tells which model's last one is the oldest.
    reports: u64,
}

#[derive(Debug)]
struct Reports {
    /// What each report would have needed, newest last.
    needed: VecDeque<u32>,
    correction: Correction,
    last: u64,
}

impl Corrections {
    /// What to correct a model's counts by.
    pub(super) fn of(&self, model: &str) -> Correction {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.models.get(model).map_or(Correction::NONE, |reports| reports.correction)
    }

    /// Takes a report in; the model's correction if that has changed.
    fn learn(&self, Counted { model, tokens }: &Counted, reported: Usage) -> Option<Correction> {
        let needed = needed(*tokens, reported)?;
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.reports += 1;
        let last = learned.reports;
        if !learned.models.contains_key(model) && learned.models.len() >= MODELS {
            let oldest = learned.models.iter().min_by_key(|(_, reports)| reports.last);
            let oldest = oldest.map(|(name, _)| name.clone())?;
            learned.models.remove(&oldest);
        }
        let reports = learned.models.entry(model.clone()).or_insert_with(|| Reports {
            needed: VecDeque::with_capacity(REPORTS),
            correction: Correction::NONE,
            last,
        });
        reports.last = last;
        reports.take(needed)
    }
}

/// The steps that would have made the count the reported one, or more; `None` if the report says
/// nothing of the model's vocabulary.
fn needed(counted: u32, reported: Usage) -> Option<u32> {
    let leaves_out_cached = reported.cached_tokens > reported.prompt_tokens;
    if counted < LEAST_COUNTED || leaves_out_cached {
        return None;
    }
    let steps = reported.prompt_tokens.checked_mul(ONE.into())?.div_ceil(counted.into());
    u32::try_from(steps).ok().filter(|steps| PLAUSIBLE.contains(steps))
}

impl Reports {
    /// It goes up at once and comes down only when much too high: an estimate that is too large
    /// leaves a little of the window unused, one that is too small fails a turn. Three quarters of
    /// the reports decide, so no single one does.
    fn take(&mut self, needed: u32) -> Option<Correction> {
        if self.needed.len() == REPORTS {
            self.needed.pop_front();
        }
        self.needed.push_back(needed);
        if self.needed.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<u32> = self.needed.iter().copied().collect();
        sorted.sort_unstable();
        let wanted = sorted[(sorted.len() - 1) * 3 / 4];
        let Correction(current) = self.correction;
        if wanted <= current && wanted + SLACK > current {
            return None;
        }
        self.correction = Correction(wanted);
        Some(self.correction)
    }
}

#[cfg(test)]
impl Correction {
    /// One of so many twentieths.
    pub(super) const fn of_steps(steps: u32) -> Self {
        Self(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report(prompt_tokens: u64) -> Usage {
        Usage { prompt_tokens, completion_tokens: 1, ..Usage::default() }
    }

    fn counted(model: &str, tokens: u32) -> Counted {
        Counted { model: model.to_owned(), tokens }
    }

    /// The corrections after each of these reports on a prompt that was counted as 1,000 tokens.
    fn after(reports: &[u64]) -> Vec<u32> {
        let corrections = Corrections::default();
        let learn = |reported: &u64| {
            corrections.learn(&counted("m", 1000), report(*reported));
            corrections.of("m").0
        };
        reports.iter().map(learn).collect()
    }

    #[test]
    fn three_reports_teach_a_model_its_ratio_rounded_up() {
        assert_eq!(after(&[1210, 1210, 1210, 1210]), [20, 20, 25, 25]);
        assert_eq!(after(&[850, 850, 850]), [20, 20, 17]);
        assert_eq!(after(&[1000, 1000, 1000]), [20, 20, 20]);
    }

    #[test]
    fn one_odd_report_changes_nothing() {
        assert_eq!(after(&[1200, 1200, 1200, 7900, 1200, 1200]), [20, 20, 24, 24, 24, 24]);
        assert_eq!(after(&[7900, 1200, 1200, 1200]), [20, 20, 24, 24]);
        assert_eq!(after(&[1200, 1200, 1200, 710, 1200]), [20, 20, 24, 24, 24]);
    }

    #[test]
    fn what_is_no_count_of_the_prompt_is_not_learned_from() {
        // Nothing, only what was not cached, a hidden prompt of thousands, absurd numbers.
        assert_eq!(
            after(&[0, 0, 0, 120, 120, 120, 9000, 9000, 9000, u64::MAX, u64::MAX]),
            [20; 11]
        );
        let corrections = Corrections::default();
        let apart = Usage { cached_tokens: 1100, ..report(1050) };
        for _ in 0..5 {
            corrections.learn(&counted("m", 1000), apart);
            corrections.learn(&counted("m", 499), report(900));
        }
        assert_eq!(corrections.of("m"), Correction::NONE);
    }

    #[test]
    fn it_goes_up_at_once_and_down_only_when_it_is_much_too_high() {
        let noise: Vec<u64> = (0..60).map(|number| 1180 + number * 37 % 60).collect();
        let steps = after(&noise);
        let changes = steps.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 2, "{steps:?}");
        let reports: Vec<u64> = [[1500; 16], [1440; 16], [1100; 16]].concat();
        let steps = after(&reports);
        assert_eq!((steps[15], steps[31], steps[47]), (30, 30, 22));
    }

    #[test]
    fn models_are_learned_apart_and_no_more_than_a_few_are_kept() {
        let corrections = Corrections::default();
        for number in 0..1000 {
            for _ in 0..3 {
                corrections.learn(&counted(&format!("m{number}"), 1000), report(1500));
                corrections.learn(&counted("in use", 1000), report(2000));
            }
        }
        assert_eq!(corrections.of("in use").0, 40);
        assert_eq!((corrections.of("m999").0, corrections.of("m0").0), (30, 20));
        assert_eq!(corrections.learned.lock().unwrap().models.len(), MODELS);
    }

    proptest! {
        #[test]
        fn what_is_given_away_never_counts_for_more_than_there_is(
            own in 0u32..1 << 30,
            steps in PLAUSIBLE,
        ) {
            let correction = Correction(steps);
            let counted = u32::try_from(correction.counted(own)).unwrap();
            prop_assert!(correction.own(counted) <= own);
            prop_assert!(correction.own(counted + 1) > own);
            prop_assert!(correction.own(correction.counted_at_least(own)) >= own);
        }
    }
}
