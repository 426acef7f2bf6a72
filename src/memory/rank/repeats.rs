//! Finds passages that say the same, so that each thing is recalled once, with its newest date.
//!
//! Passages repeat each other if their words are equal and in the same order, but for a few filler
//! words. Named senders are kept apart: that two people said the same is worth knowing.

use super::index::{IndexedPassage, PassageIndex};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Merges passages that repeat each other: the newest one takes the place of the best one. Leaves
/// out passages that repeat one of `shown`, which the prompt contains anyway. `ranked` is sorted,
/// best first, and so is the result.
pub fn merge_repeats(
    index: &PassageIndex,
    ranked: &[(u32, f32)],
    shown: Range<usize>,
) -> Vec<(u32, f32)> {
    let key = |passage: &IndexedPassage| (passage.speaker, passage.fingerprint.hash);
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

fn newest(index: &PassageIndex, one: u32, other: u32) -> u32 {
    let age = |passage: u32| (index.passages()[passage as usize].at_millis, passage);
    if age(one) > age(other) { one } else { other }
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
        let left = merge_repeats(&index, &ranked, before..messages.len());
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
    fn filler_words_make_no_difference() {
        let base = "The workshop in the old harbor opens at 9 and Anna brings a list of guests.";
        for other in [
            base.replace("a list", "the list"),
            base.replace("and Anna", "and also Anna"),
            base.replace("harbor opens", "harbor, that opens"),
        ] {
            assert_eq!(merged(&[("", base), ("", &other)], 0), [1], "{other}");
        }
    }

    #[test]
    fn long_sentences_that_differ_in_a_word_are_all_kept() {
        let table = "Please book a table for Anna at the Italian place on Main Street before 9 in \
                     the evening, from the 3rd to the 5th, and she will pay for all guests";
        let mut facts = vec![table.to_owned()];
        for (word, other) in [
            ("Anna", "Bob"),
            ("Please book", "Please do not book"),
            ("before 9", "after 9"),
            ("before 9", "before 10"),
            ("from the 3rd to the 5th", "from the 5th to the 3rd"),
            ("she", "he"),
            ("all guests", "some guests"),
        ] {
            facts.push(table.replace(word, other));
        }
        let dinner = "下个星期五的晚上我们要和老朋友小明一起去城里最好的那家饭馆吃一顿大餐";
        facts.push(dinner.to_owned());
        facts.push(dinner.replace("小明", "阿强"));
        let messages: Vec<_> = facts.iter().map(|fact| ("", fact.as_str())).collect();
        let all: Vec<_> = (0..facts.len() as u32).collect();
        assert_eq!(merged(&messages, 0), all);
    }
}
