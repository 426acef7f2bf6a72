//! Context windows: tokens that a model's prompt and reply may have together. A window that the
//! operator configures overrides the built-in table.

use crate::domain::model::{self, base_name};
use std::collections::HashMap;

/// Context window of unknown models, in tokens.
const DEFAULT_CONTEXT_WINDOW: u32 = 128_000;

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

pub(super) fn known_or_default(model: &str) -> u32 {
    model::context_window(model).unwrap_or(DEFAULT_CONTEXT_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

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
