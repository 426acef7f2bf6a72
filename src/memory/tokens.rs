//! Counting tokens: by OpenAI's vocabularies where the model's is one of them, else by o200k_base.
//!
//! Every stored message carries its o200k_base count from when it was written, so a prompt is
//! budgeted without reading texts again.

use tiktoken_rs::CoreBPE;
use tiktoken_rs::tokenizer::{Tokenizer, get_tokenizer};

/// The context window of models nobody knows, in tokens.
const UNKNOWN_WINDOW: u32 = 128_000;
/// What every Claude since 2.1 has at least.
/// Source: <https://platform.claude.com/docs/en/about-claude/models/overview>.
const CLAUDE_WINDOW: u32 = 200_000;
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

/// How many tokens a model's prompt and reply may have together; 128,000 where that is unknown.
/// Source: <https://platform.openai.com/docs/models>, as tiktoken-rs lists it.
pub fn context_window(model: &str) -> u32 {
    known_context_window(model).unwrap_or(UNKNOWN_WINDOW)
}

/// The same, where it is known.
pub fn known_context_window(model: &str) -> Option<u32> {
    if base_name(model).starts_with("claude-") {
        return Some(CLAUDE_WINDOW);
    }
    tiktoken_rs::model::get_context_size(base_name(model)).and_then(|size| u32::try_from(size).ok())
}

fn base_name(model: &str) -> &str {
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
        assert_eq!((context_window("gpt-4"), context_window("llama3.2")), (8192, 128_000));
        assert_eq!(context_window("anthropic/claude-sonnet-5-5"), 200_000);
    }
}
