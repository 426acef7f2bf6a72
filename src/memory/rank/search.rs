//! How well each passage of a path answers a question.
//!
//! 1. **BM25** over day, speaker and text (S. Robertson, H. Zaragoza, "The Probabilistic Relevance
//!    Framework: BM25 and Beyond", 2009, with the idf of Lucene, which is never negative).
//! 2. **Flow**: a passage takes part in what its neighbours score, the more behind a question:
//!    answers follow questions, and seldom repeat their words.
//! 3. **Kind**: questions are less worth than answers; who asks when, wants passages that say it.
//! 4. **Block**: the sitting as a whole is scored like a passage, and lifts what was said in it.
//! 5. **Speaker**: who names somebody asks for what they said more often than for what they were
//!    told.
//! 6. **Substance**: where the words leave it open, a long statement tells more than a short one, and
//!    more than a question. It fills what room is left, and decides little else.
//!
//! The weights of 2 to 6 were found by measuring how much of the labelled evidence of long
//! conversations they bring into a budget; docs/MEMORY.md has the figures.

use super::cues::asks_when;
use super::index::{Index, Posting};
use super::stop::is_stop;

/// BM25's saturation of repeated terms, and its share of length.
const K1: f32 = 1.2;
const B: f32 = 0.75;
/// A term in more than this part of the passages says nothing.
const COMMON: f32 = 0.25;
/// What flows from the passage before, and from the one behind.
const FROM_BEFORE: f32 = 0.5;
const FROM_BEHIND: f32 = 0.3;
/// How much more flows from a question.
const FROM_QUESTION: f32 = 1.5;
/// The worth of a question.
const QUESTION: f32 = 0.7;
/// The worth of a passage that says when, to who asks when.
const DATED: f32 = 1.5;
/// The weight of the block, as a part of the best passage's score.
const BLOCK: f32 = 0.5;
/// The worth of what somebody said whom the question names.
const NAMED: f32 = 1.3;
/// The weight of substance, as a part of the best passage's score …
const SUBSTANCE: f32 = 0.2;
/// … the worth of it where nobody is named who said it …
const UNNAMED: f32 = 0.3;
/// … and the number of terms that has half of it.
const HALF: f32 = 20.0;

/// The scores of all passages, in their order. Empty if the question has no word that anybody said,
/// and names nobody.
pub fn scores(index: &Index, question: &str) -> Vec<f32> {
    let terms = terms(index, question);
    let named = named(index, question);
    if terms.is_empty() && !named.contains(&true) {
        return Vec::new();
    }
    let alone = passages_alone(index, &terms);
    let mut scores = with_neighbours(index, &alone);
    let asks_when = asks_when(question);
    for (score, passage) in scores.iter_mut().zip(index.passages()) {
        if passage.asks {
            *score *= QUESTION;
        }
        if asks_when && passage.dates {
            *score *= DATED;
        }
    }
    add_blocks(index, &terms, &mut scores);
    for (score, passage) in scores.iter_mut().zip(index.passages()) {
        if named[passage.speaker as usize] {
            *score *= NAMED;
        }
    }
    add_substance(index, &named, &mut scores);
    scores
}

/// Of each speaker, whether the question has a word of their name.
fn named(index: &Index, question: &str) -> Vec<bool> {
    let mut named = vec![false; index.speakers().len()];
    index.words().words(question, |word| {
        for (named, names) in named.iter_mut().zip(index.speakers()) {
            *named |= !is_stop(word) && names.iter().any(|name| **name == *word);
        }
    });
    named
}

/// Adds what a passage is worth by itself.
fn add_substance(index: &Index, named: &[bool], scores: &mut [f32]) {
    let best = highest(scores);
    let best = if best > 0.0 { best } else { 1.0 };
    for (score, passage) in scores.iter_mut().zip(index.passages()) {
        let terms = f32::from(passage.terms);
        let by_speaker = if named[passage.speaker as usize] { 1.0 } else { UNNAMED };
        let by_kind = if passage.asks { QUESTION } else { 1.0 };
        *score += SUBSTANCE * best * by_speaker * by_kind * terms / (terms + HALF);
    }
}

/// Where the question's terms are. Stopwords and terms that are everywhere do not count, unless
/// nothing else is there.
fn terms<'a>(index: &'a Index, question: &str) -> Vec<&'a [Posting]> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    index.words().words(question, |word| {
        let is_stop = is_stop(word);
        index.words().terms(word, |term| {
            if seen.iter().any(|known| known == term) {
                return;
            }
            seen.push(term.to_owned());
            let postings = index.postings(term);
            if !postings.is_empty() {
                found.push((is_stop, postings));
            }
        });
    });
    let most = (index.passages().len() as f32 * COMMON).max(2.0);
    let is_common = |postings: &[Posting]| postings.len() as f32 > most;
    let telling = |(is_stop, postings): &&(bool, &[Posting])| !is_stop && !is_common(postings);
    let mut terms: Vec<_> = found.iter().filter(telling).map(|(_, postings)| *postings).collect();
    if terms.is_empty() {
        terms =
            found.iter().filter(|(is_stop, _)| !is_stop).map(|(_, postings)| *postings).collect();
    }
    if terms.is_empty() {
        terms = found.into_iter().map(|(_, postings)| postings).collect();
    }
    terms
}

fn idf(count: f32, with_term: f32) -> f32 {
    (1.0 + (count - with_term + 0.5) / (with_term + 0.5)).ln()
}

fn bm25(idf: f32, times: f32, length: f32, mean: f32) -> f32 {
    idf * times * (K1 + 1.0) / (times + K1 * (1.0 - B + B * length / mean))
}

/// Each passage by its own terms.
fn passages_alone(index: &Index, terms: &[&[Posting]]) -> Vec<f32> {
    let count = index.passages.len() as f32;
    let mean = index.terms as f32 / count;
    let mut scores = vec![0.0; index.passages.len()];
    for postings in terms {
        let idf = idf(count, postings.len() as f32);
        for posting in *postings {
            let at = posting.passage as usize;
            let length = f32::from(index.passages[at].terms);
            scores[at] += bm25(idf, f32::from(posting.times), length, mean);
        }
    }
    scores
}

/// Each passage with what flows to it from the one before and the one behind.
fn with_neighbours(index: &Index, alone: &[f32]) -> Vec<f32> {
    let from_before = |at: usize| {
        let before = at.checked_sub(1)?;
        let more = if index.passages[before].asks { FROM_QUESTION } else { 1.0 };
        Some(FROM_BEFORE * more * alone[before])
    };
    let from_behind = |at: usize| alone.get(at + 1).map(|behind| FROM_BEHIND * behind);
    let flowing = |(at, score): (usize, &f32)| {
        score + from_before(at).unwrap_or(0.0) + from_behind(at).unwrap_or(0.0)
    };
    alone.iter().enumerate().map(flowing).collect()
}

/// Lifts the passages of blocks that answer the question as a whole.
fn add_blocks(index: &Index, terms: &[&[Posting]], scores: &mut [f32]) {
    let Some(last) = index.passages.last() else { return };
    let count = last.block as usize + 1;
    let mut lengths = vec![0.0_f32; count];
    for passage in &index.passages {
        lengths[passage.block as usize] += f32::from(passage.terms);
    }
    let mean = index.terms as f32 / count as f32;
    let mut blocks = vec![0.0_f32; count];
    for postings in terms {
        let mut times = vec![0.0_f32; count];
        for posting in *postings {
            times[index.passages[posting.passage as usize].block as usize] +=
                f32::from(posting.times);
        }
        let with_term = times.iter().filter(|times| **times > 0.0).count();
        let idf = idf(count as f32, with_term as f32);
        for ((block, times), length) in blocks.iter_mut().zip(times).zip(&lengths) {
            *block += bm25(idf, times, *length, mean);
        }
    }
    let (best, best_block) = (highest(scores), highest(&blocks));
    if best_block <= 0.0 {
        return;
    }
    for (score, passage) in scores.iter_mut().zip(&index.passages) {
        *score += BLOCK * best * blocks[passage.block as usize] / best_block;
    }
}

fn highest(scores: &[f32]) -> f32 {
    scores.iter().copied().fold(0.0, f32::max)
}
