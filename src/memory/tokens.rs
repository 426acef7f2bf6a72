//! Counts tokens: in OpenAI's vocabularies for OpenAI's models, in o200k_base for all others.
//!
//! Every message is stored with its o200k_base count, so prompts are budgeted without counting the
//! texts of the history again.

use tiktoken_rs::CoreBPE;
use tiktoken_rs::tokenizer::{Tokenizer, get_tokenizer};

/// Longer texts are counted on a blocking thread; up to here it takes about a millisecond.
pub(super) const MAX_INLINE_BYTES: usize = 16 * 1024;

/// A vocabulary in which tokens are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVocabulary {
    /// GPT-4o and later; also the estimate for models of other vendors.
    O200k,
    /// GPT-4 and GPT-3.5.
    Cl100k,
}

impl TokenVocabulary {
    /// The vocabulary of a model; a `provider/` prefix is ignored.
    pub fn for_model(model: &str) -> Self {
        match get_tokenizer(base_name(model)) {
            Some(Tokenizer::Cl100kBase) => Self::Cl100k,
            _ => Self::O200k,
        }
    }

    pub fn count_tokens(self, text: &str) -> u32 {
        let vocabulary: &CoreBPE = match self {
            Self::O200k => tiktoken_rs::o200k_base_singleton(),
            Self::Cl100k => tiktoken_rs::cl100k_base_singleton(),
        };
        u32::try_from(vocabulary.count_ordinary(text)).unwrap_or(u32::MAX)
    }
}

/// Counts tokens in o200k_base.
pub fn count_tokens(text: &str) -> u32 {
    TokenVocabulary::O200k.count_tokens(text)
}

/// [`count_tokens`] for async callers: counts long texts on a blocking thread.
pub async fn count_tokens_async(text: &str) -> u32 {
    if text.len() <= MAX_INLINE_BYTES {
        return count_tokens(text);
    }
    let owned = text.to_owned();
    let counted = tokio::task::spawn_blocking(move || count_tokens(&owned)).await;
    // The task is lost only while the runtime shuts down; bytes are a safe upper bound then.
    counted.unwrap_or_else(|_| u32::try_from(text.len()).unwrap_or(u32::MAX))
}

/// Loads the vocabulary, which takes about 0.1 s, before the first turn needs it.
pub fn load_vocabulary() {
    count_tokens("");
}

/// Whether tokens of this model are counted exactly, not estimated.
pub(super) fn has_exact_vocabulary(model: &str) -> bool {
    use Tokenizer::{Cl100kBase, O200kBase, O200kHarmony};
    matches!(get_tokenizer(base_name(model)), Some(Cl100kBase | O200kBase | O200kHarmony))
}

/// Context window of an OpenAI model, in tokens. Source: <https://platform.openai.com/docs/models>,
/// as listed by tiktoken-rs.
pub(super) fn openai_context_window(model: &str) -> Option<u32> {
    tiktoken_rs::model::get_context_size(model).and_then(|size| u32::try_from(size).ok())
}

/// Model name without a `provider/` prefix.
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
        // As counted by OpenAI's tokenizer page.
        assert_eq!(TokenVocabulary::O200k.count_tokens("Hello, world!"), 4);
        assert!(
            has_exact_vocabulary("openai/gpt-4o")
                && has_exact_vocabulary("gpt-4")
                && has_exact_vocabulary("gpt-oss-20b")
        );
        assert!(!has_exact_vocabulary("llama3.2") && !has_exact_vocabulary("demo"));
    }
}
