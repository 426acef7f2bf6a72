//! What a model's name tells about what it takes. Names may stand behind their vendor, as gateways
//! write them: `anthropic/claude-opus-4.7`, `us.anthropic.claude-sonnet-5`.

/// Most output tokens unless the request says: what Claude 4 and later all take …
const REPLY: u32 = 32_000;
/// … what Claude 3.5 and most other vendors' models take …
const REPLY_OF_OTHERS: u32 = 8_192;
/// … and what the first ones take.
const REPLY_OF_FIRST: u32 = 4_096;
/// The first version whose models decide themselves how long they think.
const THINKING: (u32, u32) = (4, 6);

/// The most output tokens that a model surely takes.
/// Source: <https://platform.claude.com/docs/en/about-claude/models/overview>.
pub(super) fn most_output(model: &str) -> u32 {
    match claude(model) {
        Some(name) if name.starts_with("3-7") => REPLY,
        Some(name) if name.starts_with("3-5") => REPLY_OF_OTHERS,
        Some(name) if name.starts_with(['2', '3']) || name.starts_with("instant") => REPLY_OF_FIRST,
        Some(_) => REPLY,
        None => REPLY_OF_OTHERS,
    }
}

/// Whether a model can be asked to think as hard as it finds right. Those before can only be told how
/// many tokens to think, and want their thoughts back.
/// Source: <https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking>.
pub(super) fn thinks_as_asked(model: &str) -> bool {
    let Some(name) = claude(model) else { return false };
    let mut pieces = name.split(['-', '.']);
    // The first ones' names begin with their version.
    let family = pieces.next().unwrap_or_default();
    if family.parse::<u32>().is_ok() || family == "instant" {
        return false;
    }
    // A date stands where a minor version would.
    let mut number = || pieces.next()?.parse::<u32>().ok().filter(|number| *number < 100);
    number().is_none_or(|major| (major, number().unwrap_or(0)) >= THINKING)
}

/// A Claude's name, without what stands before it.
fn claude(model: &str) -> Option<&str> {
    model.split_once("claude-").map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_most_output_however_a_gateway_writes_them() {
        for (model, most) in [
            ("claude-2.1", 4096),
            ("claude-3-haiku-20240307", 4096),
            ("claude-3-5-sonnet-latest", 8192),
            ("anthropic/claude-3-7-sonnet", 32_000),
            ("anthropic/claude-opus-4.7", 32_000),
            ("us.anthropic.claude-sonnet-4-6-v1:0", 32_000),
            ("glm-5", 8192),
        ] {
            assert_eq!(most_output(model), most, "{model}");
        }
    }

    #[test]
    fn models_from_4_6_on_can_be_asked_to_think() {
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
            assert_eq!(thinks_as_asked(model), thinks, "{model}");
        }
    }
}
