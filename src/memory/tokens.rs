//! Counts tokens: in OpenAI's vocabularies for OpenAI's models, in o200k_base for all others.
//!
//! Every message is stored with its o200k_base count, so prompts are budgeted without counting the
//! texts of the history again.

use crate::cpu_pool::run_cpu;
use crate::domain::model::TokenVocabulary;
use tiktoken_rs::CoreBPE;

/// Longer texts are counted on a thread for computing; up to here it takes about a millisecond.
pub(super) const MAX_INLINE_BYTES: usize = 16 * 1024;

impl TokenVocabulary {
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

/// [`count_tokens`] for async callers: counts long texts on a thread for computing.
pub async fn count_tokens_async(text: &str) -> u32 {
    if text.len() <= MAX_INLINE_BYTES {
        return count_tokens(text);
    }
    let owned = text.to_owned();
    let counted = run_cpu(move || count_tokens(&owned)).await;
    // The count fails only if the counter panics; bytes are a safe upper bound then.
    counted.unwrap_or_else(|_| u32::try_from(text.len()).unwrap_or(u32::MAX))
}

/// Loads the vocabulary, which takes about 0.1 s, before the first turn needs it.
pub fn load_vocabulary() {
    count_tokens("");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vocabularies_count_like_openai() {
        // As counted by OpenAI's tokenizer page.
        assert_eq!(TokenVocabulary::O200k.count_tokens("Hello, world!"), 4);
    }
}
