//! Settings about models: context windows and the prompt cache key.

/// Whether requests carry a prompt cache key, a hash of the session id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptCacheKeyMode {
    /// To OpenAI only.
    Auto,
    Always,
    Never,
}

pub(super) const CACHE_KEY_MODES: &[(&str, PromptCacheKeyMode)] = &[
    ("auto", PromptCacheKeyMode::Auto),
    ("always", PromptCacheKeyMode::Always),
    ("never", PromptCacheKeyMode::Never),
];

/// Smallest accepted context window. System prompt, message and reply must fit.
const MIN_CONTEXT_WINDOW: u32 = 256;

pub(super) fn parse_context_window(text: &str) -> Result<u32, String> {
    let tokens = text.parse().ok().filter(|tokens| *tokens >= MIN_CONTEXT_WINDOW);
    tokens.ok_or_else(|| "must be a whole number of tokens, at least 256".to_owned())
}

/// Parses `MODEL=TOKENS`, where the tokens may end in `k` (thousands) or `m` (millions).
pub(super) fn parse_model_window(text: &str) -> Result<(String, u32), String> {
    let invalid = || {
        "must be MODEL=TOKENS, comma-separated, such as llama3.2=131072,my-model=32k, each at least 256".to_owned()
    };
    let (model, tokens) = text.rsplit_once('=').ok_or_else(invalid)?;
    let digits = tokens.trim().to_ascii_lowercase();
    let (digits, unit) = match digits.strip_suffix(['k', 'm']) {
        // Powers of ten, as vendors give context windows.
        Some(rest) if digits.ends_with('k') => (rest, 1_000),
        Some(rest) => (rest, 1_000_000),
        None => (digits.as_str(), 1),
    };
    let tokens = digits.parse().ok().and_then(|number: u32| number.checked_mul(unit));
    match (model.trim(), tokens.filter(|tokens| *tokens >= MIN_CONTEXT_WINDOW)) {
        (model, Some(tokens)) if !model.is_empty() => Ok((model.to_owned(), tokens)),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_windows_parse_with_k_and_m_suffixes() {
        let read = |text| parse_model_window(text).ok();
        let window = |model: &str, tokens| Some((model.to_owned(), tokens));
        assert_eq!(read("llama3.2=131072"), window("llama3.2", 131_072));
        assert_eq!(read(" my-model = 32k"), window("my-model", 32_000));
        assert_eq!(read("a=b:1b=1M"), window("a=b:1b", 1_000_000));
        for wrong in
            ["llama3.2", "=32k", "m=", "m=k", "m=-1", "m=255", "m=32kk", "m=5000m", "m=1e5", ""]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
