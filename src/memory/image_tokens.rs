//! What pictures take of a context window, by the rules that vendors publish, and which models take
//! none.
//!
//! A picture counts by its width and height. A `data:` URL tells them in its first bytes; what lies
//! behind an address nobody knows, so it counts as the largest that its model looks at. That is for
//! budgeting alone: no message is refused for more than its pictures surely take.

use super::token_ratio::TokenRatio;
use super::tokens::base_name;
use crate::domain::image::MessageImage;
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// Beginnings of the names of models that refuse pictures. Others are believed to take them.
const TEXT_ONLY_MODELS: &[&str] = &[
    "gpt-3.5",
    "gpt-4-0314",
    "gpt-4-0613",
    "gpt-4-1106",
    "gpt-4-0125",
    "gpt-4-32k",
    "o1-mini",
    "o1-preview",
    "o3-mini",
    "deepseek-chat",
    "deepseek-reasoner",
];

/// Beginnings of the names of OpenAI's models, each before those that it begins with.
/// Source: <https://platform.openai.com/docs/guides/images-vision#calculating-costs>.
const OPENAI_RULES: &[(&str, ImageTokenRule)] = &[
    ("gpt-4.1-mini", ImageTokenRule::Patches { hundredths: 162 }),
    ("gpt-4.1-nano", ImageTokenRule::Patches { hundredths: 246 }),
    ("gpt-5-mini", ImageTokenRule::Patches { hundredths: 162 }),
    ("gpt-5-nano", ImageTokenRule::Patches { hundredths: 246 }),
    ("o4-mini", ImageTokenRule::Patches { hundredths: 172 }),
    ("gpt-4o-mini", ImageTokenRule::Tiles { base: 2833, tile: 5667 }),
    ("gpt-4", ImageTokenRule::Tiles { base: 85, tile: 170 }),
    ("chatgpt-4o", ImageTokenRule::Tiles { base: 85, tile: 170 }),
    ("gpt-5", ImageTokenRule::Tiles { base: 70, tile: 140 }),
    ("o1", ImageTokenRule::Tiles { base: 75, tile: 150 }),
    ("o3", ImageTokenRule::Tiles { base: 75, tile: 150 }),
];

/// Beginnings of the names of Claudes that look at less than those from Opus 4.7 on.
/// Source: <https://platform.claude.com/docs/en/build-with-claude/vision>.
const LOW_RESOLUTION_CLAUDES: &[&str] = &[
    "2", "3", "instant", "opus-4-0", "opus-4-1", "opus-4-2", "opus-4-5", "opus-4-6", "sonnet-4",
    "haiku-4",
];

/// What of a picture's base64 is looked at for its size: mostly it stands in the first bytes, but
/// photographs may say much before it.
const HEAD_LENGTHS: [usize; 2] = [4 << 10, 512 << 10];
/// Some clients leave out the padding, and a head has none.
const BASE64_LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How a model counts pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImageTokenRule {
    /// A base, and so much for each tile of 512 pixels, once the picture is scaled down into a square
    /// of 2,048 and its shorter side to 768. A look from afar is the base alone.
    Tiles { base: u32, tile: u32 },
    /// So many hundredths for each patch of 32 pixels, once the picture is scaled down to 1,536 of
    /// them; from afar, into a square of 512.
    Patches { hundredths: u32 },
    /// One for each 750 pixels, once its longer side is scaled down to this and it takes no more than
    /// that.
    Pixels { max_side: u32, max_tokens: u32 },
    /// Nobody says. It counts as with Llama 3.2 Vision, which takes more than most others: 1,601 for
    /// each of at most four tiles of 560 pixels.
    /// Source: <https://docs.together.ai/docs/vision-overview>.
    Unknown,
}

/// What pictures take, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TokenRange {
    /// Surely.
    pub(super) min: u32,
    /// At the most; the same where all is known.
    pub(super) max: u32,
}

/// How pictures count in prompts to a model, in counted tokens.
#[derive(Debug, Clone, Copy)]
pub struct ImageTokenCounter {
    rule: ImageTokenRule,
    token_ratio: TokenRatio,
}

impl ImageTokenCounter {
    /// `None` if the model takes no pictures.
    pub(super) fn for_model(model: &str, correction: TokenRatio) -> Option<Self> {
        ImageTokenRule::for_model(model)
            .map(|vision| Self { rule: vision, token_ratio: correction })
    }

    /// What these pictures take together.
    pub(super) fn count_images(self, images: &[MessageImage]) -> TokenRange {
        let counted = |own| self.token_ratio.to_counted_tokens_ceil(own);
        images.iter().fold(TokenRange::default(), |sum, image| {
            let own = self.rule.count_image(image);
            TokenRange {
                min: sum.min.saturating_add(counted(own.min)),
                max: sum.max.saturating_add(counted(own.max)),
            }
        })
    }

    /// What so many pictures take at the most, whatever they are.
    pub(super) fn max_tokens(self, count: u32) -> u32 {
        self.token_ratio.to_counted_tokens_ceil(self.rule.max_image_tokens()).saturating_mul(count)
    }
}

impl ImageTokenRule {
    fn for_model(model: &str) -> Option<Self> {
        let name = base_name(model);
        if name == "gpt-4" || TEXT_ONLY_MODELS.iter().any(|beginning| name.starts_with(beginning)) {
            return None;
        }
        if let Some((_, claude)) = name.split_once("claude-") {
            let version = claude.replace('.', "-");
            let sees_less =
                LOW_RESOLUTION_CLAUDES.iter().any(|beginning| version.starts_with(beginning));
            return Some(match sees_less {
                true => Self::Pixels { max_side: 1568, max_tokens: 1600 },
                false => Self::Pixels { max_side: 2576, max_tokens: 4784 },
            });
        }
        let known = OPENAI_RULES.iter().find(|(beginning, _)| name.starts_with(beginning));
        Some(known.map_or(Self::Unknown, |(_, vision)| *vision))
    }

    fn count_image(self, image: &MessageImage) -> TokenRange {
        let is_low = image.detail.as_deref() == Some("low");
        match (self, read_image_size(&image.url)) {
            (Self::Tiles { base, .. }, _) if is_low => TokenRange { min: base, max: base },
            (Self::Unknown, size) => {
                let most = size.map_or(self.max_image_tokens(), |(width, height)| {
                    self.count_for_size(width, height, false)
                });
                // Few vendors scale a picture down to less.
                TokenRange { min: 64, max: most }
            }
            (_, Some((width, height))) => {
                let tokens = self.count_for_size(width, height, is_low);
                TokenRange { min: tokens, max: tokens }
            }
            (_, None) => {
                TokenRange { min: self.count_for_size(1, 1, is_low), max: self.max_image_tokens() }
            }
        }
    }

    /// Of any picture.
    fn max_image_tokens(self) -> u32 {
        match self {
            Self::Tiles { .. } => self.count_for_size(2048, 768, false),
            Self::Patches { hundredths } => (1536 * hundredths).div_ceil(100),
            Self::Pixels { max_tokens: most, .. } => most,
            Self::Unknown => 4 * 1601,
        }
    }

    /// Of a picture of so many pixels.
    fn count_for_size(self, width: u32, height: u32, is_low: bool) -> u32 {
        let (width, height) = (f64::from(width.max(1)), f64::from(height.max(1)));
        let (longer, shorter) = (width.max(height), width.min(height));
        match self {
            Self::Tiles { base, tile } => {
                let scale = (2048.0 / longer).min(1.0);
                let scale = scale * (768.0 / (shorter * scale)).min(1.0);
                base + tile
                    * count_parts(longer * scale / 512.0)
                    * count_parts(shorter * scale / 512.0)
            }
            Self::Patches { hundredths } => {
                let scale = if is_low { (512.0 / longer).min(1.0) } else { 1.0 };
                (count_patches(longer * scale / 32.0, shorter * scale / 32.0) * hundredths)
                    .div_ceil(100)
            }
            Self::Pixels { max_side: longest, max_tokens: most } => {
                let scale = (f64::from(longest) / longer).min(1.0);
                ((longer * scale * shorter * scale / 750.0).ceil() as u32).min(most)
            }
            Self::Unknown => {
                1601 * count_parts(longer / 560.0).min(2) * count_parts(shorter / 560.0).min(2)
            }
        }
    }
}

/// How many patches a picture of so many by so many takes: at most 1,536, to which it is scaled down
/// so that they fill it in one direction.
fn count_patches(longer: f64, shorter: f64) -> u32 {
    const MAX_PATCHES: f64 = 1536.0;
    let all = count_parts(longer).saturating_mul(count_parts(shorter));
    if f64::from(all) <= MAX_PATCHES {
        return all;
    }
    let scale = (MAX_PATCHES / (longer * shorter)).sqrt();
    let filled = |side: f64| (side * scale).floor().max(1.0) / (side * scale);
    let scale = scale * filled(longer).min(filled(shorter));
    (count_parts(longer * scale) * count_parts(shorter * scale)).min(MAX_PATCHES as u32)
}

/// How many whole pieces it takes, a rounding error aside.
fn count_parts(parts: f64) -> u32 {
    (parts - 1e-6).ceil().max(1.0) as u32
}

/// Width and height of a picture that lies in its own URL.
fn read_image_size(url: &str) -> Option<(u32, u32)> {
    let (_, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
    HEAD_LENGTHS.into_iter().find_map(|head| {
        // Four characters are three bytes.
        let head = data.as_bytes().get(..head).unwrap_or(data.as_bytes());
        let bytes = BASE64_LENIENT.decode(head).ok()?;
        let size = imagesize::blob_size(&bytes).ok()?;
        Some((u32::try_from(size.width).ok()?, u32::try_from(size.height).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of a picture of so many pixels, which is all that is read of it.
    fn png_image(width: u32, height: u32) -> MessageImage {
        let mut head = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        head.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
        head.extend(*b"\x08\x06\0\0\0");
        image_at(&format!("data:image/png;base64,{}", BASE64_LENIENT.encode(head)), None)
    }

    fn image_at(url: &str, detail: Option<&str>) -> MessageImage {
        MessageImage { url: url.into(), detail: detail.map(str::to_owned) }
    }

    fn count_range(model: &str, image: &MessageImage) -> (u32, u32) {
        let sight = ImageTokenCounter::for_model(model, TokenRatio::IDENTITY).unwrap();
        let TokenRange { min: least, max: most } = sight.count_images(std::slice::from_ref(image));
        assert!(least <= most && most <= sight.max_tokens(1), "{model}");
        (least, most)
    }

    #[test]
    fn text_only_models_are_known_by_name() {
        for model in ["gpt-3.5-turbo", "gpt-4", "openai/gpt-4-0613", "o3-mini", "deepseek-chat"] {
            assert_eq!(ImageTokenRule::for_model(model), None, "{model}");
        }
        for model in ["gpt-4o", "gpt-4-turbo", "gpt-4.1-mini", "gpt-5-mini", "o3", "llava"] {
            assert!(ImageTokenRule::for_model(model).is_some(), "{model}");
        }
    }

    #[test]
    fn image_tokens_follow_vendor_rules() {
        for (model, width, height, tokens) in [
            // The examples of OpenAI's guide.
            ("gpt-4o", 1024, 1024, 765),
            ("gpt-4o", 2048, 4096, 1105),
            ("gpt-4.1-mini", 1024, 1024, 1659),
            ("gpt-4.1-mini", 1800, 2400, 2353),
            // What its users were billed.
            ("openai/gpt-4o-mini-2024-07-18", 128, 64, 8500),
            ("gpt-4.1", 64, 64, 255),
            ("gpt-5", 64, 64, 210),
            ("o3", 128, 64, 225),
            ("o4-mini", 64, 64, 7),
            // The examples of Anthropic's guide.
            ("claude-sonnet-4-5", 200, 200, 54),
            ("claude-3-5-sonnet-latest", 1000, 1000, 1334),
            ("anthropic/claude-sonnet-4.6", 4000, 4000, 1600),
            ("us.anthropic.claude-opus-4-7", 4000, 4000, 4784),
        ] {
            assert_eq!(count_range(model, &png_image(width, height)), (tokens, tokens), "{model}");
        }
        assert_eq!(count_range("llava", &png_image(64, 64)), (64, 1601));
        assert_eq!(count_range("llava", &png_image(9000, 9000)), (64, 6404));
    }

    #[test]
    fn low_detail_takes_fewer_tokens() {
        let low = |image: MessageImage| MessageImage { detail: Some("low".to_owned()), ..image };
        assert_eq!(count_range("gpt-4o", &low(png_image(2048, 2048))), (85, 85));
        assert_eq!(
            count_range("gpt-4o-mini", &low(image_at("https://e.com/a", None))),
            (2833, 2833)
        );
        assert_eq!(count_range("gpt-4.1-mini", &low(png_image(2048, 2048))), (415, 415));
    }

    #[test]
    fn linked_images_count_as_a_range() {
        let there = image_at("https://e.com/a.png", None);
        assert_eq!(count_range("gpt-4o", &there), (255, 1445));
        assert_eq!(count_range("gpt-4o-mini", &there), (8500, 48_169));
        assert_eq!(count_range("gpt-4.1-nano", &there), (3, 3779));
        assert_eq!(count_range("claude-opus-4-7", &there), (1, 4784));
        assert_eq!(count_range("llava", &there), (64, 6404));
        for broken in ["data:image/png;base64,AAAA", "data:image/png;base64,?", "data:image/png,x"]
        {
            assert_eq!(count_range("gpt-4o", &image_at(broken, None)), (255, 1445), "{broken}");
        }
    }

    #[test]
    fn jpeg_size_is_found_after_large_metadata() {
        let mut jpeg = b"\xff\xd8".to_vec();
        for _ in 0..3 {
            jpeg.extend(b"\xff\xe1\xff\xff");
            jpeg.extend([b'x'; 0xfffd]);
        }
        jpeg.extend(b"\xff\xc0\x00\x11\x08\x04\x00\x04\x00\x03");
        jpeg.extend([0; 64]);
        let jpeg = format!("data:image/jpeg;base64,{}", BASE64_LENIENT.encode(jpeg));
        assert_eq!(count_range("gpt-4o", &image_at(&jpeg, None)), (765, 765));
    }
}
