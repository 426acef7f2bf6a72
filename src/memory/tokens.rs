//! Counting tokens: by OpenAI's vocabularies where the model's is one of them, else by o200k_base.
//!
//! Every stored message carries its o200k_base count from when it was written, so a prompt is
//! budgeted without reading texts again.

use tiktoken_rs::CoreBPE;
use tiktoken_rs::tokenizer::{Tokenizer, get_tokenizer};

/// Texts longer than this are counted on a thread that may block: about a millisecond of work.
pub(super) const MAX_INLINE_BYTES: usize = 16 * 1024;

/// The vocabulary in which a model counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVocabulary {
    /// GPT-4o and everything since; also the estimate for everybody else's models.
    O200k,
    /// GPT-4 and GPT-3.5.
    Cl100k,
}

impl TokenVocabulary {
    /// The vocabulary of a model, `provider/` in front ignored.
    pub fn for_model(model: &str) -> Self {
        match get_tokenizer(base_name(model)) {
            Some(Tokenizer::Cl100kBase) => Self::Cl100k,
            _ => Self::O200k,
        }
    }

    /// How many tokens a text has.
    pub fn count_tokens(self, text: &str) -> u32 {
        let vocabulary: &CoreBPE = match self {
            Self::O200k => tiktoken_rs::o200k_base_singleton(),
            Self::Cl100k => tiktoken_rs::cl100k_base_singleton(),
        };
        u32::try_from(vocabulary.count_ordinary(text)).unwrap_or(u32::MAX)
    }
}

/// How many tokens of o200k_base a text has.
pub fn count_tokens(text: &str) -> u32 {
    TokenVocabulary::O200k.count_tokens(text)
}

/// The same, without holding up other tasks when the text is long.
pub async fn count_tokens_async(text: &str) -> u32 {
    if text.len() <= MAX_INLINE_BYTES {
        return count_tokens(text);
    }
    let owned = text.to_owned();
    let counted = tokio::task::spawn_blocking(move || count_tokens(&owned)).await;
    // A task is only lost when the runtime goes down; then a safe bound will do.
    counted.unwrap_or_else(|_| u32::try_from(text.len()).unwrap_or(u32::MAX))
}

/// Reads the vocabulary, which takes a tenth of a second, before the first turn needs it.
pub fn load_vocabulary() {
    count_tokens("");
}

/// Whether a model's tokens are counted by its own vocabulary.
pub(super) fn has_exact_vocabulary(model: &str) -> bool {
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
    fn known_models_use_their_own_vocabulary() {
        assert_eq!(TokenVocabulary::for_model("openai/gpt-4o"), TokenVocabulary::O200k);
        assert_eq!(TokenVocabulary::for_model("gpt-4"), TokenVocabulary::Cl100k);
        assert_eq!(TokenVocabulary::for_model("llama3.2"), TokenVocabulary::O200k);
        // Counted by OpenAI's own tokenizer page.
        assert_eq!(TokenVocabulary::O200k.count_tokens("Hello, world!"), 4);
        assert!(
            has_exact_vocabulary("openai/gpt-4o")
                && has_exact_vocabulary("gpt-4")
                && has_exact_vocabulary("gpt-oss-20b")
        );
        assert!(!has_exact_vocabulary("llama3.2") && !has_exact_vocabulary("demo"));
    }
}
