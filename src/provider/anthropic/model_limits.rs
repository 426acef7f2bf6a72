//! Limits and features of models, recognized by name. Gateways put the vendor before the name:
//! `anthropic/claude-opus-4.7`, `us.anthropic.claude-sonnet-5`.

/// Default of `max_tokens`, which the API requires, for Claude 4 and later.
const MAX_OUTPUT_TOKENS: u32 = 32_000;
/// The same for Claude 3.5 and for other vendors' models.
const OTHER_MAX_OUTPUT_TOKENS: u32 = 8_192;
/// The same for the first Claude models.
const EARLY_MAX_OUTPUT_TOKENS: u32 = 4_096;
/// First version whose models decide themselves how long to think.
const FIRST_ADAPTIVE_THINKING: (u32, u32) = (4, 6);

/// Output tokens that a model accepts for certain. Source:
/// <https://platform.claude.com/docs/en/about-claude/models/overview>.
pub(super) fn max_output_tokens(model: &str) -> u32 {
    match claude_name(model) {
        Some(name) if name.starts_with("3-7") => MAX_OUTPUT_TOKENS,
        Some(name) if name.starts_with("3-5") => OTHER_MAX_OUTPUT_TOKENS,
        Some(name) if name.starts_with(['2', '3']) || name.starts_with("instant") => {
            EARLY_MAX_OUTPUT_TOKENS
        }
        Some(_) => MAX_OUTPUT_TOKENS,
        None => OTHER_MAX_OUTPUT_TOKENS,
    }
}

/// Whether a model supports adaptive thinking. Earlier models take only a number of thinking tokens
/// and expect their reasoning back in the next request. Source:
/// <https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking>.
pub(super) fn supports_adaptive_thinking(model: &str) -> bool {
    let Some(name) = claude_name(model) else { return false };
    let mut pieces = name.split(['-', '.']);
    // Claude 3 and earlier have the version before the family, as in `claude-3-7-sonnet`.
    let family = pieces.next().unwrap_or_default();
    if family.parse::<u32>().is_ok() || family == "instant" {
        return false;
    }
    // `claude-opus-4-20250514` has a date in place of the minor version.
    let mut number = || pieces.next()?.parse::<u32>().ok().filter(|number| *number < 100);
    number().is_none_or(|major| (major, number().unwrap_or(0)) >= FIRST_ADAPTIVE_THINKING)
}

/// Name of a Claude model, without `claude-` and anything before it.
fn claude_name(model: &str) -> Option<&str> {
    model.split_once("claude-").map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_limit_is_found_in_gateway_names() {
        for (model, most) in [
            ("claude-2.1", 4096),
            ("claude-3-haiku-20240307", 4096),
            ("claude-3-5-sonnet-latest", 8192),
            ("anthropic/claude-3-7-sonnet", 32_000),
            ("anthropic/claude-opus-4.7", 32_000),
            ("us.anthropic.claude-sonnet-4-6-v1:0", 32_000),
            ("glm-5", 8192),
        ] {
            assert_eq!(max_output_tokens(model), most, "{model}");
        }
    }

    #[test]
    fn adaptive_thinking_starts_with_4_6() {
        for (model, thinks) in [
            ("claude-opus-4-6", true),
            ("anthropic/claude-sonnet-4.6", true),
            ("claude-opus-5-20260801", true),
            ("claude-fable-5-1", true),
            ("claude-mythos-preview", true),
            ("us.anthropic.claude-opus-4-7", true),
            ("claude-haiku-4-5-20251001", false),
            ("claude-opus-4-20250514", false),
            ("claude-sonnet-4-0", false),
            ("claude-3-7-sonnet-latest", false),
            ("claude-instant-1.2", false),
            ("kimi-k2", false),
        ] {
            assert_eq!(supports_adaptive_thinking(model), thinks, "{model}");
        }
    }
}
