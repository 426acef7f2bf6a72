//! How well each passage of a path answers a question.
//!
//! 1. **BM25** over day, speaker and text (S. Robertson, H. Zaragoza, "The Probabilistic Relevance
//!    Framework: BM25 and Beyond", 2009, with the idf of Lucene, which is never negative).
//! 2. **Flow**: a passage takes part in what its neighbours score, the more behind a question:
//!    answers follow questions, and seldom repeat their words.
//! 3. **ErrorKind**: questions are less worth than answers; who asks when, wants passages that say it.
//! 4. **Block**: the sitting as a whole is scored like a passage, and lifts what was said in it.
//! 5. **Speaker**: who names somebody asks for what they said more often than for what they were
//!    told.
//! 6. **Substance**: where the words leave it open, a long statement tells more than a short one, and
//!    more than a question. It fills what room is left, and decides little else.
//!
//! The weights of 2 to 6 were found by measuring how much of the labelled evidence of long
//! conversations they bring into a budget; docs/MEMORY.md has the figures.

use super::index::{PassageIndex, TermPosting};
use super::stopwords::is_stopword;
use super::time_cues::is_when_question;

/// BM25's saturation of repeated terms, and its share of length.
const K1: f32 = 1.2;
const B: f32 = 0.75;
/// A term in more than this part of the passages says nothing.
const COMMON_TERM_SHARE: f32 = 0.25;
/// What flows from the passage before, and from the one behind.
const FLOW_FROM_PREVIOUS: f32 = 0.5;
const FLOW_FROM_NEXT: f32 = 0.3;
/// How much more flows from a question.
const QUESTION_FLOW_FACTOR: f32 = 1.5;
/// The worth of a question.
const QUESTION_FACTOR: f32 = 0.7;
/// The worth of a passage that says when, to who asks when.
const MENTIONS_TIME_FACTOR: f32 = 1.5;
/// The weight of the block, as a part of the best passage's score.
const BLOCK_WEIGHT: f32 = 0.5;
/// The worth of what somebody said whom the question names.
const NAMED_SPEAKER_FACTOR: f32 = 1.3;
/// The weight of substance, as a part of the best passage's score …
const SUBSTANCE_WEIGHT: f32 = 0.2;
/// … the worth of it where nobody is named who said it …
const UNNAMED_SPEAKER_FACTOR: f32 = 0.3;
/// … and the number of terms that has half of it.
const SUBSTANCE_HALF_TERMS: f32 = 20.0;

/// The scores of all passages, in their order. Empty if the question has no word that anybody said,
/// and names nobody.
pub fn score_passages(index: &PassageIndex, question: &str) -> Vec<f32> {
    let terms = find_terms(index, question);
    let named = find_named_speakers(index, question);
    if terms.is_empty() && !named.contains(&true) {
        return Vec::new();
    }
    let alone = score_by_terms(index, &terms);
    let mut scores = spread_to_neighbors(index, &alone);
    let asks_when = is_when_question(question);
    for (score, passage) in scores.iter_mut().zip(index.passages()) {
        if passage.is_question {
            *score *= QUESTION_FACTOR;
        }
        if asks_when && passage.mentions_time {
            *score *= MENTIONS_TIME_FACTOR;
        }
    }
    add_block_scores(index, &terms, &mut scores);
    for (score, passage) in scores.iter_mut().zip(index.passages()) {
        if named[passage.speaker as usize] {
            *score *= NAMED_SPEAKER_FACTOR;
        }
    }
    add_substance_scores(index, &named, &mut scores);
    scores
}

/// Of each speaker, whether the question has a word of their name.
fn find_named_speakers(index: &PassageIndex, question: &str) -> Vec<bool> {
    let mut named = vec![false; index.speaker_names().len()];
    index.tokenizer().for_each_word(question, |word| {
        for (named, names) in named.iter_mut().zip(index.speaker_names()) {
            *named |= !is_stopword(word) && names.iter().any(|name| **name == *word);
        }
    });
    named
}

/// Adds what a passage is worth by itself.
fn add_substance_scores(index: &PassageIndex, named: &[bool], scores: &mut [f32]) {
    let best = max_score(scores);
    let best = if best > 0.0 { best } else { 1.0 };
    for (score, passage) in scores.iter_mut().zip(index.passages()) {
        let terms = f32::from(passage.term_count);
        let by_speaker = if named[passage.speaker as usize] { 1.0 } else { UNNAMED_SPEAKER_FACTOR };
        let by_kind = if passage.is_question { QUESTION_FACTOR } else { 1.0 };
        *score +=
            SUBSTANCE_WEIGHT * best * by_speaker * by_kind * terms / (terms + SUBSTANCE_HALF_TERMS);
    }
}

/// Where the question's terms are. Stopwords and terms that are everywhere do not count, unless
/// nothing else is there.
fn find_terms<'a>(index: &'a PassageIndex, question: &str) -> Vec<&'a [TermPosting]> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    index.tokenizer().for_each_word(question, |word| {
        let is_stop = is_stopword(word);
        index.tokenizer().for_each_term(word, |term| {
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
    let most = (index.passages().len() as f32 * COMMON_TERM_SHARE).max(2.0);
    let is_common = |postings: &[TermPosting]| postings.len() as f32 > most;
    let telling = |(is_stop, postings): &&(bool, &[TermPosting])| !is_stop && !is_common(postings);
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
fn score_by_terms(index: &PassageIndex, terms: &[&[TermPosting]]) -> Vec<f32> {
    let count = index.passages.len() as f32;
    let mean = index.total_terms as f32 / count;
    let mut scores = vec![0.0; index.passages.len()];
    for postings in terms {
        let idf = idf(count, postings.len() as f32);
        for posting in *postings {
            let at = posting.passage as usize;
            let length = f32::from(index.passages[at].term_count);
            scores[at] += bm25(idf, f32::from(posting.occurrences), length, mean);
        }
    }
    scores
}

/// Each passage with what flows to it from the one before and the one behind.
fn spread_to_neighbors(index: &PassageIndex, alone: &[f32]) -> Vec<f32> {
    let from_before = |at: usize| {
        let before = at.checked_sub(1)?;
        let more = if index.passages[before].is_question { QUESTION_FLOW_FACTOR } else { 1.0 };
        Some(FLOW_FROM_PREVIOUS * more * alone[before])
    };
    let from_behind = |at: usize| alone.get(at + 1).map(|behind| FLOW_FROM_NEXT * behind);
    let flowing = |(at, score): (usize, &f32)| {
        score + from_before(at).unwrap_or(0.0) + from_behind(at).unwrap_or(0.0)
    };
    alone.iter().enumerate().map(flowing).collect()
}

/// Lifts the passages of blocks that answer the question as a whole.
fn add_block_scores(index: &PassageIndex, terms: &[&[TermPosting]], scores: &mut [f32]) {
    let Some(last) = index.passages.last() else { return };
    let count = last.block as usize + 1;
    let mut lengths = vec![0.0_f32; count];
    for passage in &index.passages {
        lengths[passage.block as usize] += f32::from(passage.term_count);
    }
    let mean = index.total_terms as f32 / count as f32;
    let mut blocks = vec![0.0_f32; count];
    for postings in terms {
        let mut times = vec![0.0_f32; count];
        for posting in *postings {
            times[index.passages[posting.passage as usize].block as usize] +=
                f32::from(posting.occurrences);
        }
        let with_term = times.iter().filter(|times| **times > 0.0).count();
        let idf = idf(count as f32, with_term as f32);
        for ((block, times), length) in blocks.iter_mut().zip(times).zip(&lengths) {
            *block += bm25(idf, times, *length, mean);
        }
    }
    let (best, best_block) = (max_score(scores), max_score(&blocks));
    if best_block <= 0.0 {
        return;
    }
    for (score, passage) in scores.iter_mut().zip(&index.passages) {
        *score += BLOCK_WEIGHT * best * blocks[passage.block as usize] / best_block;
    }
}

fn max_score(scores: &[f32]) -> f32 {
    scores.iter().copied().fold(0.0, f32::max)
}
