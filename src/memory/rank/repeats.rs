//! Finds passages that say the same, so that each thing is recalled once, with its newest date.
//!
//! Passages repeat each other if their words are equal, or if nearly all of them are and no number
//! differs. Named senders are kept apart: that two people said the same is worth knowing.

use super::index::{IndexedPassage, PassageIndex};
use super::sketch::hash_term;
use super::tokenizer::TermTokenizer;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Shorter passages repeat each other only if their words are equal. In longer ones this share of
/// the distinct terms of each must be in the other.
const MIN_NEAR_TERMS: usize = 10;
const NEAR_SHARE: f32 = 0.9;
/// Number of the best passages that are compared for near equality. No budget takes more.
const MAX_COMPARED: usize = 512;

/// Merges passages that repeat each other: the newest one takes the place of the best one. Leaves
/// out passages that repeat one of `shown`, which the prompt contains anyway. `ranked` is sorted,
/// best first, and so is the result.
pub fn merge_repeats<'a>(
    index: &PassageIndex,
    ranked: &[(u32, f32)],
    shown: Range<usize>,
    text_of: impl Fn(u32) -> &'a str,
) -> Vec<(u32, f32)> {
    let distinct = merge_equal(index, ranked, shown);
    merge_near_equal(index, distinct, text_of)
}

fn merge_equal(
    index: &PassageIndex,
    ranked: &[(u32, f32)],
    shown: Range<usize>,
) -> Vec<(u32, f32)> {
    let key = |passage: &IndexedPassage| (passage.speaker, passage.sketch.fingerprint);
    let shown: HashSet<_> = index.passages()[shown].iter().map(key).collect();
    let mut places = HashMap::new();
    let mut distinct: Vec<(u32, f32)> = Vec::new();
    for (passage, score) in ranked {
        let key = key(&index.passages()[*passage as usize]);
        if shown.contains(&key) {
            continue;
        }
        let place = *places.entry(key).or_insert(distinct.len());
        match distinct.get_mut(place) {
            Some((known, _)) => *known = newest(index, *known, *passage),
            None => distinct.push((*passage, *score)),
        }
    }
    distinct
}

fn merge_near_equal<'a>(
    index: &PassageIndex,
    ranked: Vec<(u32, f32)>,
    text_of: impl Fn(u32) -> &'a str,
) -> Vec<(u32, f32)> {
    let mut term_sets: HashMap<u32, TermSet> = HashMap::new();
    // Places in `distinct` of the passages with a value at a position of the sketch.
    let mut places: HashMap<(usize, u32), Vec<usize>> = HashMap::new();
    let mut distinct: Vec<(u32, f32)> = Vec::with_capacity(ranked.len());
    for (at, (passage, score)) in ranked.into_iter().enumerate() {
        let described = &index.passages()[passage as usize];
        if at >= MAX_COMPARED || usize::from(described.sketch.terms) < MIN_NEAR_TERMS {
            distinct.push((passage, score));
            continue;
        }
        let values = || described.sketch.min_hashes.into_iter().enumerate();
        let mut candidates: Vec<usize> =
            values().filter_map(|value| places.get(&value)).flatten().copied().collect();
        candidates.sort_unstable();
        candidates.dedup();
        let known = candidates.into_iter().find(|place| {
            let other = distinct[*place].0;
            let is_same_speaker = index.passages()[other as usize].speaker == described.speaker;
            is_same_speaker
                && is_near(index.tokenizer(), &mut term_sets, [passage, other], &text_of)
        });
        match known {
            Some(place) => distinct[place].0 = newest(index, distinct[place].0, passage),
            None => {
                for value in values() {
                    places.entry(value).or_default().push(distinct.len());
                }
                distinct.push((passage, score));
            }
        }
    }
    distinct
}

fn newest(index: &PassageIndex, one: u32, other: u32) -> u32 {
    let age = |passage: u32| (index.passages()[passage as usize].at_millis, passage);
    if age(one) > age(other) { one } else { other }
}

/// The distinct terms of a passage as sorted hashes.
struct TermSet {
    all: Vec<u64>,
    numbers: Vec<u64>,
}

impl TermSet {
    fn of(tokenizer: &TermTokenizer, text: &str) -> Self {
        let mut set = Self { all: Vec::new(), numbers: Vec::new() };
        tokenizer.for_each_term(text, |term, _| {
            let hash = hash_term(term);
            set.all.push(hash);
            if term.chars().any(char::is_numeric) {
                set.numbers.push(hash);
            }
        });
        for hashes in [&mut set.all, &mut set.numbers] {
            hashes.sort_unstable();
            hashes.dedup();
        }
        set
    }

    fn is_near(&self, other: &Self) -> bool {
        let longer = self.all.len().max(other.all.len());
        let shared = self.all.iter().filter(|hash| other.all.binary_search(hash).is_ok()).count();
        longer >= MIN_NEAR_TERMS
            && shared as f32 >= NEAR_SHARE * longer as f32
            && self.numbers == other.numbers
    }
}

fn is_near<'a>(
    tokenizer: &TermTokenizer,
    sets: &mut HashMap<u32, TermSet>,
    passages: [u32; 2],
    text_of: impl Fn(u32) -> &'a str,
) -> bool {
    for passage in passages {
        sets.entry(passage).or_insert_with(|| TermSet::of(tokenizer, text_of(passage)));
    }
    sets[&passages[0]].is_near(&sets[&passages[1]])
}

#[cfg(test)]
mod tests {
    use super::super::index::Utterance;
    use super::*;

    /// The messages that are left, given as speaker and text, with the last ones shown anyway.
    fn merged(messages: &[(&str, &str)], shown: usize) -> Vec<u32> {
        let mut index = PassageIndex::default();
        for (at, (speaker, text)) in messages.iter().enumerate() {
            index.push(Utterance { day: "", speaker, text, at_millis: at as i64 });
        }
        let before = messages.len() - shown;
        let ranked: Vec<_> = (0..before as u32).map(|at| (at, 1.0)).collect();
        let text_of = |passage: u32| messages[passage as usize].1;
        let left = merge_repeats(&index, &ranked, before..messages.len(), text_of);
        left.into_iter().map(|(passage, _)| passage).collect()
    }

    #[test]
    fn equal_passages_are_merged_into_the_newest() {
        let passport = [
            ("", "My passport number is AB12345."),
            ("", "Something else"),
            ("", "my PASSPORT number is: AB12345"),
        ];
        assert_eq!(merged(&passport, 0), [2, 1]);
        assert_eq!(merged(&passport, 1), [1]);
        let people = [("ann", "I drink tea in the morning"), ("bob", "I drink tea in the morning")];
        assert_eq!(merged(&people, 0), [0, 1]);
    }

    #[test]
    fn short_answers_repeat_only_with_their_question() {
        let answers = [("", "Tea?"), ("", "Yes."), ("", "Coffee?"), ("", "Yes.")];
        assert_eq!(merged(&answers, 0), [0, 1, 2, 3]);
        let answers =
            [("", "Which number?"), ("", "AB12345"), ("", "which number?"), ("", "AB12345.")];
        assert_eq!(merged(&answers, 0), [2, 3]);
    }

    #[test]
    fn near_equal_passages_are_merged_unless_a_number_differs() {
        let base = "The workshop in the old harbor opens on Monday at 9 and Anna brings the \
                    keys, the coffee and a list of guests";
        let reworded = base.replace("a list", "one list");
        assert_eq!(merged(&[("", base), ("", &reworded)], 0), [1]);
        let moved = base.replace("at 9", "at 10");
        assert_eq!(merged(&[("", base), ("", &moved)], 0), [0, 1]);
        let other = base.replace("Anna brings the keys", "Bob forgot his whole luggage");
        assert_eq!(merged(&[("", base), ("", &other)], 0), [0, 1]);
    }
}
