//! Which of the earlier messages belong to a question: pure functions over the words of a path.
//!
//! Nothing here knows a store, a session or a clock. [`PassageIndex`] takes messages in and gives their
//! passages, [`score_passages`] says how well each of them answers. Called by `recall`.

mod index;
mod passages;
mod search;
mod stopwords;
mod time_cues;
mod tokenizer;
mod vectors;

pub use index::{IndexedPassage, PassageIndex, Utterance};
pub use search::score_passages;
pub use vectors::{QuantizedVector, blend_scores};
