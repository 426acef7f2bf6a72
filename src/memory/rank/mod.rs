//! Which of the earlier messages belong to a question: pure functions over the words of a path.
//!
//! Nothing here knows a store, a session or a clock. [`Index`] takes messages in and gives their
//! passages, [`scores`] says how well each of them answers. Called by `recall`.

mod cues;
mod index;
mod passages;
mod search;
mod stop;
mod vectors;
mod words;

pub use index::{Index, Passage, Said};
pub use search::scores;
pub use vectors::{Vector, blend};
