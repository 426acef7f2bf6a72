//! Ranks earlier messages by relevance to a question: pure functions over the words of a path.
//!
//! Nothing here depends on a store, a session or a clock. [`PassageIndex`] splits messages into
//! passages and indexes their terms; [`score_passages`] scores the passages for a question, and
//! [`merge_repeats`] merges those that say the same.

mod fingerprint;
mod index;
mod passages;
mod repeats;
mod search;
mod stopwords;
mod term_table;
mod time_cues;
mod tokenizer;
mod vectors;

pub use index::{IndexedPassage, PassageIndex, Utterance};
pub use repeats::merge_repeats;
pub use search::score_passages;
pub use vectors::{QuantizedVector, blend_scores};
