//! What a model's name tells about what it takes. Names may stand behind their vendor, as gateways
//! write them: `anthropic/claude-opus-4.7`, `us.anthropic.claude-sonnet-5`.

/// Most output tokens unless the request says: what Claude 4 and later all take …
const MAX_OUTPUT_TOKENS: u32 = 32_000;
/// … what Claude 3.5 and most other vendors' models take …
const OTHER_MAX_OUTPUT_TOKENS: u32 = 8_192;
/// … and what the first ones take.
const EARLY_MAX_OUTPUT_TOKENS: u32 = 4_096;
/// The first version whose models decide themselves how long they think.
const FIRST_ADAPTIVE_THINKING: (u32, u32) = (4, 6);

/// The most output tokens that a model surely takes.
/// Source: <https://platform.claude.com/docs/en/about-claude/models/overview>.
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

/// Whether a model can be asked to think as hard as it finds right. Those before can only be told how
/// many tokens to think, and want their thoughts back.
/// Source: <https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking>.
pub(super) fn supports_adaptive_thinking(model: &str) -> bool {
    let Some(name) = claude_name(model) else { return false };
    let mut pieces = name.split(['-', '.']);
    // The first ones' names begin with their version.
    let family = pieces.next().unwrap_or_default();
    if family.parse::<u32>().is_ok() || family == "instant" {
        return false;
    }
    // A date stands where a minor version would.
    let mut number = || pieces.next()?.parse::<u32>().ok().filter(|number| *number < 100);
    number().is_none_or(|major| (major, number().unwrap_or(0)) >= FIRST_ADAPTIVE_THINKING)
}

/// A Claude's name, without what stands before it.
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
