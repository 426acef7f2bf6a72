//! Counting tokens: by OpenAI's vocabularies where the model's is one of them, else by o200k_base.
//!
//! Every stored message carries its o200k_base count from when it was written, so a prompt is
//! budgeted without reading texts again.

use tiktoken_rs::CoreBPE;
use tiktoken_rs::tokenizer::{Tokenizer, get_tokenizer};

/// Texts longer than this are counted on a thread that may block: about a millisecond of work.
pub(super) const SHORT: usize = 16 * 1024;

/// The vocabulary in which a model counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vocabulary {
    /// GPT-4o and everything since; also the estimate for everybody else's models.
    O200k,
    /// GPT-4 and GPT-3.5.
    Cl100k,
}

impl Vocabulary {
    /// The vocabulary of a model, `provider/` in front ignored.
    pub fn of(model: &str) -> Self {
        match get_tokenizer(base_name(model)) {
            Some(Tokenizer::Cl100kBase) => Self::Cl100k,
            _ => Self::O200k,
        }
    }

    /// How many tokens a text has.
    pub fn count(self, text: &str) -> u32 {
        let vocabulary: &CoreBPE = match self {
            Self::O200k => tiktoken_rs::o200k_base_singleton(),
            Self::Cl100k => tiktoken_rs::cl100k_base_singleton(),
        };
        u32::try_from(vocabulary.count_ordinary(text)).unwrap_or(u32::MAX)
    }
}

/// How many tokens of o200k_base a text has.
pub fn count(text: &str) -> u32 {
    Vocabulary::O200k.count(text)
}

/// The same, without holding up other tasks when the text is long.
pub async fn count_long(text: &str) -> u32 {
    if text.len() <= SHORT {
        return count(text);
    }
    let owned = text.to_owned();
    let counted = tokio::task::spawn_blocking(move || count(&owned)).await;
    // A task is only lost when the runtime goes down; then a safe bound will do.
    counted.unwrap_or_else(|_| u32::try_from(text.len()).unwrap_or(u32::MAX))
}

/// Reads the vocabulary, which takes a tenth of a second, before the first turn needs it.
pub fn warm_up() {
    count("");
}

/// Whether a model's tokens are counted by its own vocabulary.
pub(super) fn is_exact(model: &str) -> bool {
    use Tokenizer::{Cl100kBase, O200kBase, O200kHarmony};
    matches!(get_tokenizer(base_name(model)), Some(Cl100kBase | O200kBase | O200kHarmony))
}

/// How many tokens prompt and reply of one of OpenAI's models may have together.
/// Source: <https://platform.openai.com/docs/models>, as tiktoken-rs lists it.
pub(super) fn openai_context_window(model: &str) -> Option<u32> {
    tiktoken_rs::model::get_context_size(model).and_then(|size| u32::try_from(size).ok())
}

/// A model's name without `provider/` in front.
pub(super) fn base_name(model: &str) -> &str {
    model.rsplit('/').next().unwrap_or(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_own_vocabulary_counts_where_it_is_known() {
        assert_eq!(Vocabulary::of("openai/gpt-4o"), Vocabulary::O200k);
        assert_eq!(Vocabulary::of("gpt-4"), Vocabulary::Cl100k);
        assert_eq!(Vocabulary::of("llama3.2"), Vocabulary::O200k);
        // Counted by OpenAI's own tokenizer page.
        assert_eq!(Vocabulary::O200k.count("Hello, world!"), 4);
        assert!(is_exact("openai/gpt-4o") && is_exact("gpt-4") && is_exact("gpt-oss-20b"));
        assert!(!is_exact("llama3.2") && !is_exact("demo"));
    }
}
