//! Context windows: tokens that a model's prompt and reply may have together. A window that the
//! operator configures overrides the built-in table.

use super::tokens::{base_name, openai_context_window};
use std::collections::HashMap;

/// Context window of unknown models, in tokens.
const DEFAULT_CONTEXT_WINDOW: u32 = 128_000;

/// Prefixes of model names; a prefix is listed before shorter ones that also match. tiktoken-rs
/// knows OpenAI's other models. Sources: the vendors' model lists and model cards.
const KNOWN_CONTEXT_WINDOWS: &[(&str, u32)] = &[
    ("gpt-4-turbo", 128_000),
    ("claude-", 200_000),
    ("gemini-", 1_048_576),
    ("llama3.", 131_072),
    ("llama-3.", 131_072),
    ("llama3", 8_192),
    ("llama-3", 8_192),
    ("gemma2", 8_192),
    ("gemma-2", 8_192),
    ("mixtral-8x22b", 65_536),
    ("mixtral", 32_768),
];

/// Context windows that the operator configured, by model name.
#[derive(Debug, Clone, Default)]
pub struct ContextWindows {
    configured: HashMap<String, u32>,
}

impl ContextWindows {
    /// If a model is listed twice, its last entry applies.
    pub fn new(windows: impl IntoIterator<Item = (String, u32)>) -> Self {
        Self { configured: windows.into_iter().collect() }
    }

    /// Looks a model up by its full name, then without a `provider/` prefix, then without a `:tag`.
    pub(super) fn configured(&self, model: &str) -> Option<u32> {
        let base = base_name(model);
        let untagged = |name: &'_ str| name.split(':').next().unwrap_or_default().to_owned();
        let find = |name: &str| self.configured.get(name).copied();
        find(model)
            .or_else(|| find(base))
            .or_else(|| find(&untagged(model)))
            .or_else(|| find(&untagged(base)))
    }
}

/// The built-in context window of a model, if the model is known.
pub(super) fn known_context_window(model: &str) -> Option<u32> {
    let name = base_name(model).to_ascii_lowercase();
    let name = name.strip_prefix("meta-").unwrap_or(&name);
    let known = KNOWN_CONTEXT_WINDOWS.iter().find(|(prefix, _)| name.starts_with(prefix));
    known.map(|(_, tokens)| *tokens).or_else(|| openai_context_window(name))
}

pub(super) fn known_or_default(model: &str) -> u32 {
    known_context_window(model).unwrap_or(DEFAULT_CONTEXT_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_matched_by_name_prefix() {
        for (model, window) in [
            ("gpt-4", 8_192),
            ("gpt-4-turbo", 128_000),
            ("openai/gpt-4.1-mini", 1_047_576),
            ("anthropic/claude-sonnet-4", 200_000),
            ("llama3.2:3b", 131_072),
            ("llama3:8b", 8_192),
            ("meta-llama/Meta-Llama-3-8B-Instruct", 8_192),
            ("meta-llama/Llama-3.3-70B-Instruct", 131_072),
            ("mixtral-8x7b-32768", 32_768),
        ] {
            assert_eq!(known_context_window(model), Some(window), "{model}");
        }
        assert_eq!(
            (known_context_window("my-model"), known_or_default("my-model")),
            (None, 128_000)
        );
        for (place, (name, _)) in KNOWN_CONTEXT_WINDOWS.iter().enumerate() {
            let hidden =
                KNOWN_CONTEXT_WINDOWS[..place].iter().find(|(before, _)| name.starts_with(before));
            assert_eq!(hidden, None, "{name} is never reached");
        }
    }

    #[test]
    fn configured_names_may_omit_provider_and_tag() {
        let windows = [("llama3.2", 1), ("llama3.2:1b", 2), ("groq/llama3.2", 3), ("big", 4)];
        let windows = ContextWindows::new(windows.map(|(name, tokens)| (name.to_owned(), tokens)));
        for (model, tokens) in [
            ("llama3.2", Some(1)),
            ("llama3.2:3b", Some(1)),
            ("llama3.2:1b", Some(2)),
            ("groq/llama3.2", Some(3)),
            ("groq/llama3.2:3b", Some(3)),
            ("other/llama3.2:1b", Some(2)),
            ("openrouter/x/big", Some(4)),
            ("bigger", None),
        ] {
            assert_eq!(windows.configured(model), tokens, "{model}");
        }
    }
}
