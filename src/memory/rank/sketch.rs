//! Hashes that tell whether two passages may say the same, without a comparison of their words.

use std::hash::{DefaultHasher, Hash, Hasher};

/// After a question, a passage of at most this many terms repeats another one only if the question
/// is the same: "yes" says something else each time.
const MAX_SHORT_TERMS: u16 = 4;
const MIN_HASHES: usize = 4;
/// Odd multipliers, each of which orders the hashes of terms differently.
const MULTIPLIERS: [u64; MIN_HASHES] =
    [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9, 0xd6e8_feb8_6659_fd93];

/// A few hashes that tell whether passages may repeat each other.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PassageSketch {
    /// Equal for equal words in the same order.
    pub(super) fingerprint: u64,
    /// Smallest hash of a term in each of several orders. Two passages share a value with the
    /// probability of a term being in both (A. Broder, "On the resemblance and containment of
    /// documents", 1997), so passages that share nearly all terms hardly ever differ in all values.
    pub(super) min_hashes: [u32; MIN_HASHES],
    pub(super) terms: u16,
}

impl PassageSketch {
    pub(super) fn add_term(&mut self, term: &str) {
        let hash = hash_term(term);
        self.fingerprint = mix_hashes(self.fingerprint, hash);
        for (smallest, multiplier) in self.min_hashes.iter_mut().zip(MULTIPLIERS) {
            let value = (hash.wrapping_mul(multiplier) >> 32) as u32;
            *smallest = if self.terms == 0 { value } else { value.min(*smallest) };
        }
        self.terms = self.terms.saturating_add(1);
    }

    /// Completes the sketch of a passage that follows a question.
    pub(super) fn after_question(mut self, question: &Self) -> Self {
        if self.terms <= MAX_SHORT_TERMS {
            self.fingerprint = mix_hashes(self.fingerprint, question.fingerprint);
        }
        self
    }
}

pub(super) fn hash_term(term: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    term.hash(&mut hasher);
    hasher.finish()
}

fn mix_hashes(hash: u64, other: u64) -> u64 {
    (hash.rotate_left(5) ^ other).wrapping_mul(MULTIPLIERS[0])
}
