//! A hash of a passage's words, by which passages that say the same are found.

use std::hash::{DefaultHasher, Hash, Hasher};

/// After a question, a passage of at most this many terms repeats another one only if the question
/// is the same: "yes" says something else each time.
const MAX_SHORT_TERMS: u16 = 4;
/// An odd number, so that no bit is lost.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// English words that say nothing by themselves, in the form that [`super::tokenizer`] emits. Few
/// stopwords are among them: a name, "not", "before" or "his" in the place of another word makes a
/// different fact of the longest sentence.
const FILLER_WORDS: [&str; 19] = [
    "a", "again", "also", "am", "an", "and", "are", "hello", "hi", "is", "just", "oh", "ok",
    "okay", "please", "really", "that", "the", "well",
];

/// Equal for passages with equal words in the same order, but for filler words.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PassageFingerprint {
    pub(super) hash: u64,
    /// Number of terms, without filler words.
    terms: u16,
}

impl PassageFingerprint {
    /// Adds the next term of the passage, and the word that it was made of.
    pub(super) fn add_term(&mut self, term: &str, word: &str) {
        if FILLER_WORDS.contains(&word) {
            return;
        }
        let mut hasher = DefaultHasher::new();
        term.hash(&mut hasher);
        self.hash = mix_hashes(self.hash, hasher.finish());
        self.terms = self.terms.saturating_add(1);
    }

    /// Completes the fingerprint of a passage that follows a question.
    pub(super) fn after_question(mut self, question: &Self) -> Self {
        if self.terms <= MAX_SHORT_TERMS {
            self.hash = mix_hashes(self.hash, question.hash);
        }
        self
    }
}

fn mix_hashes(hash: u64, other: u64) -> u64 {
    (hash.rotate_left(5) ^ other).wrapping_mul(MULTIPLIER)
}
