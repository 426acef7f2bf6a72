//! Scores how well each passage of a path answers a question.
//!
//! 1. **BM25** over day, speaker and text (S. Robertson, H. Zaragoza, "The Probabilistic Relevance
//!    Framework: BM25 and Beyond", 2009, with the idf of Lucene, which is never negative).
//! 2. **Flow**: a passage gets a part of its neighbors' scores, and more after a question, because
//!    answers follow questions and seldom repeat their words.
//! 3. **Kind**: questions count less than answers; passages that mention a time count more for a
//!    question that asks when.
//! 4. **Block**: the sitting as a whole is scored like a passage and raises all passages of it.
//! 5. **Speaker**: a question that names a person is more often about what that person said than
//!    about what was said to them.
//! 6. **Substance**: where words do not decide, a long statement counts more than a short one or a
//!    question. This fills the remaining budget and has little influence otherwise.
//!
//! The weights of 2 to 6 were tuned by the share of labeled evidence of long conversations that
//! fits into a budget; docs/MEMORY.md has the figures.

use super::index::{PassageIndex, TermPosting};
use super::stopwords::is_stopword;
use super::time_cues::is_when_question;
use super::tokenizer::for_each_word;
use std::borrow::Cow;
use std::collections::HashSet;

/// BM25 parameters: saturation of repeated terms, and influence of the passage's length.
const K1: f32 = 1.2;
const B: f32 = 0.75;
/// Terms in more than this share of the passages are ignored.
const COMMON_TERM_SHARE: f32 = 0.25;
/// Parts of the scores of the previous and the next passage that a passage gets.
const FLOW_FROM_PREVIOUS: f32 = 0.5;
const FLOW_FROM_NEXT: f32 = 0.3;
/// Factor of the flow from a previous passage that is a question.
const QUESTION_FLOW_FACTOR: f32 = 1.5;
/// Factor of a passage that is a question itself.
const QUESTION_FACTOR: f32 = 0.7;
/// Factor of a passage that mentions a time, if the question asks when.
const MENTIONS_TIME_FACTOR: f32 = 1.5;
/// Weight of the block's score, relative to the best passage.
const BLOCK_WEIGHT: f32 = 0.5;
/// Factor of a passage whose speaker the question names.
const NAMED_SPEAKER_FACTOR: f32 = 1.3;
/// Weight of substance, relative to the best passage.
const SUBSTANCE_WEIGHT: f32 = 0.2;
/// Factor of substance if the question does not name the passage's speaker.
const UNNAMED_SPEAKER_FACTOR: f32 = 0.3;
/// Number of terms at which substance reaches half of its weight.
const SUBSTANCE_HALF_TERMS: f32 = 20.0;

/// Scores of all passages, in their order. Empty if no term of the question occurs and no speaker
/// is named.
pub fn score_passages(index: &PassageIndex, question: &str) -> Vec<f32> {
    let terms = find_terms(index, question);
    let named = find_named_speakers(index, question);
    if terms.is_empty() && !named.contains(&true) {
        return Vec::new();
    }
    let own = score_by_terms(index, &terms);
    let mut scores = spread_to_neighbors(index, &own);
    // The order of the following steps matters: block and substance are relative to the best score
    // so far, and a named speaker raises the block's part, too.
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

/// For each speaker, whether the question contains a word of their name.
fn find_named_speakers(index: &PassageIndex, question: &str) -> Vec<bool> {
    let mut asked = HashSet::new();
    for_each_word(question, |word| {
        if !is_stopword(word.as_str()) {
            asked.insert(word.as_str().to_owned());
        }
    });
    let is_named = |names: &Vec<Box<str>>| names.iter().any(|name| asked.contains(&**name));
    index.speaker_names().iter().map(is_named).collect()
}

/// Adds a score for length and kind of a passage, whatever the question's terms are.
fn add_substance_scores(index: &PassageIndex, named: &[bool], scores: &mut [f32]) {
    let best = max_score(scores);
    // With a speaker's name alone, no passage has a score yet.
    let best = if best > 0.0 { best } else { 1.0 };
    for (score, passage) in scores.iter_mut().zip(index.passages()) {
        let terms = f32::from(passage.term_count);
        let by_speaker = if named[passage.speaker as usize] { 1.0 } else { UNNAMED_SPEAKER_FACTOR };
        let by_kind = if passage.is_question { QUESTION_FACTOR } else { 1.0 };
        *score +=
            SUBSTANCE_WEIGHT * best * by_speaker * by_kind * terms / (terms + SUBSTANCE_HALF_TERMS);
    }
}

/// Postings of the question's terms. Ignores stopwords and very common terms, unless nothing else
/// is left.
fn find_terms<'a>(index: &'a PassageIndex, question: &str) -> Vec<Cow<'a, [TermPosting]>> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    index.tokenizer().for_each_term(question, |term, word| {
        if !seen.insert(term.to_owned()) {
            return;
        }
        let postings = index.find_postings(term, word);
        if !postings.is_empty() {
            found.push((is_stopword(word.as_str()), postings));
        }
    });
    // In a short path any term is in a large share of the passages; up to two are never too common.
    let max_passages = (index.passages().len() as f32 * COMMON_TERM_SHARE).max(2.0);
    let is_common = |postings: &[TermPosting]| postings.len() as f32 > max_passages;
    let is_significant =
        |(is_stop, postings): &(bool, Cow<'_, [TermPosting]>)| !is_stop && !is_common(postings);
    if found.iter().any(is_significant) {
        found.retain(is_significant);
    } else if found.iter().any(|(is_stop, _)| !is_stop) {
        found.retain(|(is_stop, _)| !is_stop);
    }
    found.into_iter().map(|(_, postings)| postings).collect()
}

/// Inverse document frequency of a term that is in `with_term` of `count` documents.
fn idf(count: f32, with_term: f32) -> f32 {
    (1.0 + (count - with_term + 0.5) / (with_term + 0.5)).ln()
}

/// BM25 score of one term in a document of `length` terms; `mean` is the mean length.
fn bm25(idf: f32, times: f32, length: f32, mean: f32) -> f32 {
    idf * times * (K1 + 1.0) / (times + K1 * (1.0 - B + B * length / mean))
}

/// BM25 score of each passage.
fn score_by_terms(index: &PassageIndex, terms: &[Cow<'_, [TermPosting]>]) -> Vec<f32> {
    let count = index.passages.len() as f32;
    let mean = index.total_terms as f32 / count;
    let mut scores = vec![0.0; index.passages.len()];
    for postings in terms {
        let idf = idf(count, postings.len() as f32);
        for posting in postings.iter() {
            let at = posting.passage as usize;
            let length = f32::from(index.passages[at].term_count);
            scores[at] += bm25(idf, f32::from(posting.occurrences), length, mean);
        }
    }
    scores
}

/// Adds parts of the previous and the next passage's scores to each score.
fn spread_to_neighbors(index: &PassageIndex, own: &[f32]) -> Vec<f32> {
    let from_previous = |at: usize| {
        let previous = at.checked_sub(1)?;
        let is_question = index.passages[previous].is_question;
        let factor = if is_question { QUESTION_FLOW_FACTOR } else { 1.0 };
        Some(FLOW_FROM_PREVIOUS * factor * own[previous])
    };
    let from_next = |at: usize| own.get(at + 1).map(|next| FLOW_FROM_NEXT * next);
    let spread = |(at, score): (usize, &f32)| {
        score + from_previous(at).unwrap_or(0.0) + from_next(at).unwrap_or(0.0)
    };
    own.iter().enumerate().map(spread).collect()
}

/// Raises the passages of blocks that match the question as a whole.
fn add_block_scores(index: &PassageIndex, terms: &[Cow<'_, [TermPosting]>], scores: &mut [f32]) {
    let Some(last) = index.passages.last() else { return };
    let count = last.block as usize + 1;
    let mut lengths = vec![0.0_f32; count];
    for passage in &index.passages {
        lengths[passage.block as usize] += f32::from(passage.term_count);
    }
    let mean = index.total_terms as f32 / count as f32;
    let mut blocks = vec![0.0_f32; count];
    let block_of = |posting: &TermPosting| index.passages[posting.passage as usize].block;
    for postings in terms {
        // Both postings and blocks are in the order of passages, so each block's are adjacent.
        let in_blocks = || postings.chunk_by(|one, other| block_of(one) == block_of(other));
        let idf = idf(count as f32, in_blocks().count() as f32);
        for in_block in in_blocks() {
            let times = in_block.iter().map(|posting| f32::from(posting.occurrences)).sum();
            let block = block_of(&in_block[0]) as usize;
            blocks[block] += bm25(idf, times, lengths[block], mean);
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
