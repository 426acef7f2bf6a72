//! Known properties of model families, in one table, read by all code that treats models
//! differently.
//!
//! A property that a row does not state is unknown; the functions below say what to assume then.
//! Parameters that only some servers accept depend on the endpoint, not the model; each provider's
//! `request.rs` handles them.

use ImageTokenRule::{Patches, Pixels, Tiles, Unknown};
use TokenVocabulary::{Cl100k, O200k};

/// A vocabulary in which tokens are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVocabulary {
    /// o200k_base, of GPT-4o and later; also the estimate for models of other vendors.
    O200k,
    /// cl100k_base, of GPT-4 and GPT-3.5.
    Cl100k,
}

impl TokenVocabulary {
    /// The vocabulary in which a model's prompts are counted, exactly or as an estimate.
    pub fn for_model(model: &str) -> Self {
        vocabulary(model).unwrap_or(O200k)
    }
}

/// Rule by which a vendor counts images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageTokenRule {
    /// A base, and an amount for each tile of 512 pixels after scaling the image into a square of
    /// 2,048 pixels and its shorter side to 768. Low detail takes the base alone.
    Tiles { base: u32, tile: u32 },
    /// `hundredths` / 100 tokens for each patch of 32 pixels after scaling the image to at most
    /// 1,536 patches. Low detail scales it into a square of 512 pixels.
    Patches { hundredths: u32 },
    /// One token for each 750 pixels after scaling the longer side to `max_side`, at most
    /// `max_tokens`.
    Pixels { max_side: u32, max_tokens: u32 },
    /// Unpublished. Counted like Llama 3.2 Vision, which takes more than most others: 1,601 tokens
    /// for each of at most four tiles of 560 pixels. Source:
    /// <https://docs.together.ai/docs/vision-overview>.
    Unknown,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
struct ModelFamily {
    /// See [`matches_pattern`]. Without `provider/`, in lower case; of Claude without dots.
    pattern: &'static str,
    context_window: Option<u32>,
    vocabulary: Option<TokenVocabulary>,
    /// `None` if the models reject images.
    images: Option<ImageTokenRule>,
    max_output_tokens: Option<u32>,
    thinks_adaptively: bool,
}

/// A row with no known properties.
const fn family(pattern: &'static str) -> ModelFamily {
    ModelFamily {
        pattern,
        context_window: None,
        vocabulary: None,
        images: Some(Unknown),
        max_output_tokens: None,
        thinks_adaptively: false,
    }
}

impl ModelFamily {
    const fn window(self, tokens: u32) -> Self {
        Self { context_window: Some(tokens), ..self }
    }

    const fn counted_in(self, vocabulary: TokenVocabulary) -> Self {
        Self { vocabulary: Some(vocabulary), ..self }
    }

    const fn images(self, rule: ImageTokenRule) -> Self {
        Self { images: Some(rule), ..self }
    }

    const fn text_only(self) -> Self {
        Self { images: None, ..self }
    }

    const fn thinks_adaptively(self) -> Self {
        Self { thinks_adaptively: true, ..self }
    }
}

const fn claude(
    pattern: &'static str,
    images: ImageTokenRule,
    max_output_tokens: u32,
) -> ModelFamily {
    let family = family(pattern).window(200_000).images(images);
    ModelFamily { max_output_tokens: Some(max_output_tokens), ..family }
}

const GPT_4_TILES: ImageTokenRule = Tiles { base: 85, tile: 170 };
const GPT_5_TILES: ImageTokenRule = Tiles { base: 70, tile: 140 };
const O_SERIES_TILES: ImageTokenRule = Tiles { base: 75, tile: 150 };
/// Up to Opus 4.6, Sonnet 4 and Haiku 4.
const LOW_RESOLUTION: ImageTokenRule = Pixels { max_side: 1568, max_tokens: 1600 };
const HIGH_RESOLUTION: ImageTokenRule = Pixels { max_side: 2576, max_tokens: 4784 };

/// All families. The first row that matches applies, so special ones precede general ones.
///
/// Sources: the vendors' model lists and model cards, and
///
/// - OpenAI: <https://platform.openai.com/docs/models>, for images
///   <https://platform.openai.com/docs/guides/images-vision#calculating-costs>, for vocabularies
///   <https://github.com/openai/tiktoken/blob/main/tiktoken/model.py>;
/// - Anthropic: <https://platform.claude.com/docs/en/about-claude/models/overview>, for images
///   <https://platform.claude.com/docs/en/build-with-claude/vision>, for thinking
///   <https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking>.
const FAMILIES: &[ModelFamily] = &[
    // OpenAI.
    family("gpt-6*").window(1_050_000),
    family("gpt-5.4-mini*").window(400_000).counted_in(O200k).images(GPT_5_TILES),
    family("gpt-5.4-nano*").window(400_000).counted_in(O200k).images(GPT_5_TILES),
    family("gpt-5.4*").window(1_050_000).counted_in(O200k).images(GPT_5_TILES),
    family("gpt-5.3-codex-spark*").window(128_000).counted_in(O200k).images(GPT_5_TILES),
    family("gpt-5-mini*").window(400_000).counted_in(O200k).images(Patches { hundredths: 162 }),
    family("gpt-5-nano*").window(400_000).counted_in(O200k).images(Patches { hundredths: 246 }),
    family("gpt-5*").window(400_000).counted_in(O200k).images(GPT_5_TILES),
    family("codex-mini*").window(200_000).counted_in(O200k),
    family("gpt-oss-*").window(131_072).counted_in(O200k),
    // Servers that run it under a name of their own, such as `gpt-oss:20b`, may frame it
    // differently.
    family("gpt-oss*").window(131_072),
    family("o1-mini*").window(128_000).counted_in(O200k).text_only(),
    family("o1-preview*").window(128_000).counted_in(O200k).text_only(),
    family("o1*").window(200_000).counted_in(O200k).images(O_SERIES_TILES),
    family("o3-mini*").window(200_000).counted_in(O200k).text_only(),
    family("o3*").window(200_000).counted_in(O200k).images(O_SERIES_TILES),
    family("o4-mini*").window(200_000).counted_in(O200k).images(Patches { hundredths: 172 }),
    family("o4*").window(200_000),
    family("gpt-4.1-mini*").window(1_047_576).counted_in(O200k).images(Patches { hundredths: 162 }),
    family("gpt-4.1-nano*").window(1_047_576).counted_in(O200k).images(Patches { hundredths: 246 }),
    family("gpt-4.1*").window(1_047_576).counted_in(O200k).images(GPT_4_TILES),
    family("gpt-4o-mini*")
        .window(128_000)
        .counted_in(O200k)
        .images(Tiles { base: 2833, tile: 5667 }),
    family("gpt-4o*").window(128_000).counted_in(O200k).images(GPT_4_TILES),
    family("chatgpt-4o*").window(128_000).counted_in(O200k).images(GPT_4_TILES),
    family("gpt-4.5*").window(128_000).counted_in(O200k).images(GPT_4_TILES),
    family("gpt-4-turbo*").window(128_000).counted_in(Cl100k).images(GPT_4_TILES),
    family("gpt-4-0125*").window(128_000).counted_in(Cl100k).text_only(),
    family("gpt-4-1106*").window(128_000).counted_in(Cl100k).text_only(),
    family("gpt-4-32k*").window(32_768).counted_in(Cl100k).text_only(),
    family("gpt-4-0314*").window(8_192).counted_in(Cl100k).text_only(),
    family("gpt-4-0613*").window(8_192).counted_in(Cl100k).text_only(),
    family("gpt-4").window(8_192).counted_in(Cl100k).text_only(),
    family("gpt-4*").window(8_192).counted_in(Cl100k).images(GPT_4_TILES),
    family("gpt-3.5*").window(16_385).counted_in(Cl100k).text_only(),
    // Azure's name of it.
    family("gpt-35-turbo*").window(16_385).counted_in(Cl100k),
    family("davinci-002").window(2_049).counted_in(Cl100k),
    family("babbage-002").window(2_049).counted_in(Cl100k),
    family("text-embedding-ada-002").window(8_192).counted_in(Cl100k),
    // Anthropic. The first models have the version before the size.
    claude("claude-instant*", LOW_RESOLUTION, 4_096),
    claude("claude-2*", LOW_RESOLUTION, 4_096),
    claude("claude-3-5*", LOW_RESOLUTION, 8_192),
    claude("claude-3-7*", LOW_RESOLUTION, 32_000),
    claude("claude-3*", LOW_RESOLUTION, 4_096),
    claude("claude-opus-4-0*", LOW_RESOLUTION, 32_000),
    claude("claude-opus-4-1*", LOW_RESOLUTION, 32_000),
    // Opus 4.0 by its date.
    claude("claude-opus-4-2*", LOW_RESOLUTION, 32_000),
    claude("claude-opus-4-5*", LOW_RESOLUTION, 32_000),
    claude("claude-opus-4-6*", LOW_RESOLUTION, 32_000).thinks_adaptively(),
    // Names that Anthropic does not list: images count at the upper bound.
    claude("claude-4*", HIGH_RESOLUTION, 32_000),
    claude("claude-opus-4", HIGH_RESOLUTION, 32_000),
    claude("claude-sonnet-4-6*", LOW_RESOLUTION, 32_000).thinks_adaptively(),
    claude("claude-sonnet-4*", LOW_RESOLUTION, 32_000),
    claude("claude-haiku-4*", LOW_RESOLUTION, 32_000),
    claude("claude-*", HIGH_RESOLUTION, 32_000).thinks_adaptively(),
    // DeepSeek.
    family("deepseek-chat*").text_only(),
    family("deepseek-reasoner*").text_only(),
    // Google.
    family("gemini-*").window(1_048_576),
    family("gemma2*").window(8_192),
    family("gemma-2*").window(8_192),
    // Meta.
    family("llama3.*").window(131_072),
    family("llama-3.*").window(131_072),
    family("llama3*").window(8_192),
    family("llama-3*").window(8_192),
    // Mistral.
    family("mixtral-8x22b*").window(65_536),
    family("mixtral*").window(32_768),
];

/// Whether the pattern is this name, or a prefix of it followed by `*`.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// Model name without a `provider/` prefix.
pub fn base_name(model: &str) -> &str {
    model.rsplit('/').next().unwrap_or(model)
}

/// Tokens that a model's prompt and reply may have together.
pub fn context_window(model: &str) -> Option<u32> {
    let name = base_name(model).to_ascii_lowercase();
    let name = name.strip_prefix("meta-").unwrap_or(&name);
    find_family(original_name(name))?.context_window
}

/// The vocabulary in which a model's tokens can be counted exactly.
pub fn vocabulary(model: &str) -> Option<TokenVocabulary> {
    find_family(original_name(base_name(model)))?.vocabulary
}

/// The rule by which a model's images count; `None` if the model rejects images. Unknown models are
/// assumed to accept them.
pub fn image_token_rule(model: &str) -> Option<ImageTokenRule> {
    let name = base_name(model);
    let family = match claude_name(name) {
        Some(claude) => find_family(&claude.replace('.', "-")),
        None => find_family(name),
    };
    family.map_or(Some(Unknown), |family| family.images)
}

/// Output tokens that a model is known to accept. Known only of models whose API requires a limit.
pub fn max_output_tokens(model: &str) -> Option<u32> {
    find_family(claude_name(model)?)?.max_output_tokens
}

/// Whether a model can decide itself how long to think. Earlier Claude models take only a number of
/// thinking tokens and expect their reasoning back in the next request.
pub fn thinks_adaptively(model: &str) -> bool {
    let family = claude_name(model).and_then(|claude| find_family(&claude.replace('.', "-")));
    family.is_some_and(|family| family.thinks_adaptively)
}

fn find_family(name: &str) -> Option<&'static ModelFamily> {
    FAMILIES.iter().find(|family| matches_pattern(family.pattern, name))
}

/// Name of the model that a fine-tuned OpenAI model is based on: `ft:gpt-4o:team:name:id`.
fn original_name(name: &str) -> &str {
    match name.strip_prefix("ft:") {
        Some(tuned) => tuned.split(':').next().unwrap_or(tuned),
        None => name,
    }
}

/// Name of a Claude model. Gateways put more before it: `us.anthropic.claude-sonnet-5`.
fn claude_name(model: &str) -> Option<&str> {
    model.find("claude-").map(|start| &model[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_window_is_found_by_name() {
        for (model, window) in [
            ("gpt-4", Some(8_192)),
            ("gpt-4-turbo", Some(128_000)),
            ("openai/gpt-4.1-mini", Some(1_047_576)),
            ("ft:gpt-4o-2024-08-06:team::id", Some(128_000)),
            ("anthropic/claude-sonnet-4", Some(200_000)),
            ("llama3.2:3b", Some(131_072)),
            ("llama3:8b", Some(8_192)),
            ("meta-llama/Meta-Llama-3-8B-Instruct", Some(8_192)),
            ("meta-llama/Llama-3.3-70B-Instruct", Some(131_072)),
            ("mixtral-8x7b-32768", Some(32_768)),
            ("my-model", None),
        ] {
            assert_eq!(context_window(model), window, "{model}");
        }
    }

    #[test]
    fn vocabulary_is_known_of_openai_models_only() {
        for (model, known) in [
            ("openai/gpt-4o", Some(O200k)),
            ("gpt-5-mini", Some(O200k)),
            ("gpt-oss-20b", Some(O200k)),
            ("gpt-4", Some(Cl100k)),
            ("gpt-3.5-turbo", Some(Cl100k)),
            ("ft:gpt-3.5-turbo:team", Some(Cl100k)),
            ("llama3.2", None),
            ("claude-sonnet-5", None),
            ("demo", None),
        ] {
            assert_eq!(vocabulary(model), known, "{model}");
        }
    }

    #[test]
    fn text_only_models_are_known_by_name() {
        for model in ["gpt-3.5-turbo", "gpt-4", "openai/gpt-4-0613", "o3-mini", "deepseek-chat"] {
            assert_eq!(image_token_rule(model), None, "{model}");
        }
        for model in ["gpt-4o", "gpt-4-turbo", "gpt-4.1-mini", "gpt-5-mini", "o3", "llava"] {
            assert!(image_token_rule(model).is_some(), "{model}");
        }
    }

    #[test]
    fn output_limit_is_found_in_gateway_names() {
        for (model, most) in [
            ("claude-2.1", Some(4096)),
            ("claude-3-haiku-20240307", Some(4096)),
            ("claude-3-5-sonnet-latest", Some(8192)),
            ("anthropic/claude-3-7-sonnet", Some(32_000)),
            ("anthropic/claude-opus-4.7", Some(32_000)),
            ("us.anthropic.claude-sonnet-4-6-v1:0", Some(32_000)),
            ("glm-5", None),
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
            assert_eq!(thinks_adaptively(model), thinks, "{model}");
        }
    }

    #[test]
    fn every_row_is_reached() {
        for (place, row) in FAMILIES.iter().enumerate() {
            // Compared with its `*`, which no name contains, so that `gpt-4` may precede `gpt-4*`.
            let covers = |other: &&ModelFamily| matches_pattern(other.pattern, row.pattern);
            let hidden = FAMILIES[..place].iter().find(covers);
            assert!(hidden.is_none(), "{} is never reached", row.pattern);
        }
    }
}
