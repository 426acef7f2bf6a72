//! Tokens that images take of a context window, by the rules that vendors publish
//! ([`ImageTokenRule`]).
//!
//! The tokens depend on width and height. A `data:` URL contains both in its first bytes. The size
//! of a linked image is unknown, so it is budgeted at the most that the model uses for one. No
//! message is rejected for more than the least that its images take.

use super::token_ratio::TokenRatio;
use crate::domain::image::MessageImage;
use crate::domain::model::{self, ImageTokenRule};
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// Lengths of base64 that are searched for an image's size, in this order: usually the size is in
/// the first bytes, but photographs may have large metadata before it.
const HEAD_LENGTHS: [usize; 2] = [4 << 10, 512 << 10];
/// Some clients omit the padding, and a truncated head has none.
const BASE64_LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Lower and upper bound of a number of tokens; equal if it is known exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TokenRange {
    pub(super) min: u32,
    pub(super) max: u32,
}

/// Counts the images in prompts to a model, in counted tokens.
#[derive(Debug, Clone, Copy)]
pub struct ImageTokenCounter {
    rule: ImageTokenRule,
    token_ratio: TokenRatio,
}

impl ImageTokenCounter {
    /// `None` if the model accepts no images.
    pub(super) fn for_model(model: &str, token_ratio: TokenRatio) -> Option<Self> {
        model::image_token_rule(model).map(|rule| Self { rule, token_ratio })
    }

    /// Tokens of these images together.
    pub(super) fn count_images(self, images: &[MessageImage]) -> TokenRange {
        // Vendor rules give the model's own tokens; budgets are in counted ones.
        let counted = |own| self.token_ratio.to_counted_tokens_ceil(own);
        images.iter().fold(TokenRange::default(), |sum, image| {
            let own = self.rule.count_image(image);
            TokenRange {
                min: sum.min.saturating_add(counted(own.min)),
                max: sum.max.saturating_add(counted(own.max)),
            }
        })
    }

    /// Upper bound of the tokens of `count` images of any size.
    pub(super) fn max_tokens(self, count: u32) -> u32 {
        self.token_ratio.to_counted_tokens_ceil(self.rule.max_image_tokens()).saturating_mul(count)
    }
}

impl ImageTokenRule {
    fn count_image(self, image: &MessageImage) -> TokenRange {
        let is_low = image.detail.as_deref() == Some("low");
        match (self, read_image_size(&image.url)) {
            (Self::Tiles { base, .. }, _) if is_low => TokenRange { min: base, max: base },
            (Self::Unknown, size) => {
                let max = size.map_or(self.max_image_tokens(), |(width, height)| {
                    self.count_for_size(width, height, false)
                });
                // Few vendors scale images down to fewer tokens than this.
                TokenRange { min: 64, max }
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

    fn max_image_tokens(self) -> u32 {
        match self {
            Self::Tiles { .. } => self.count_for_size(2048, 768, false),
            Self::Patches { hundredths } => (1536 * hundredths).div_ceil(100),
            Self::Pixels { max_tokens, .. } => max_tokens,
            Self::Unknown => 4 * 1601,
        }
    }

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
            Self::Pixels { max_side, max_tokens } => {
                let scale = (f64::from(max_side) / longer).min(1.0);
                ((longer * scale * shorter * scale / 750.0).ceil() as u32).min(max_tokens)
            }
            Self::Unknown => {
                1601 * count_parts(longer / 560.0).min(2) * count_parts(shorter / 560.0).min(2)
            }
        }
    }
}

/// Patches of an image whose sides are this many patches long. An image of more than 1,536 patches
/// is scaled down so that whole patches fill it in one direction.
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

/// Rounds up to whole parts, at least one; tolerates rounding errors of the scaling.
fn count_parts(parts: f64) -> u32 {
    (parts - 1e-6).ceil().max(1.0) as u32
}

/// Width and height of an image in a `data:` URL.
fn read_image_size(url: &str) -> Option<(u32, u32)> {
    let (_, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
    HEAD_LENGTHS.into_iter().find_map(|head| {
        // Both lengths are multiples of four characters, which decode to three bytes each.
        let head = data.as_bytes().get(..head).unwrap_or(data.as_bytes());
        let bytes = BASE64_LENIENT.decode(head).ok()?;
        let size = imagesize::blob_size(&bytes).ok()?;
        Some((u32::try_from(size.width).ok()?, u32::try_from(size.height).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a PNG of this size, which is all that is read.
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
        let counter = ImageTokenCounter::for_model(model, TokenRatio::IDENTITY).unwrap();
        let TokenRange { min, max } = counter.count_images(std::slice::from_ref(image));
        assert!(min <= max && max <= counter.max_tokens(1), "{model}");
        (min, max)
    }

    #[test]
    fn image_tokens_follow_vendor_rules() {
        for (model, width, height, tokens) in [
            // Examples of OpenAI's guide.
            ("gpt-4o", 1024, 1024, 765),
            ("gpt-4o", 2048, 4096, 1105),
            ("gpt-4.1-mini", 1024, 1024, 1659),
            ("gpt-4.1-mini", 1800, 2400, 2353),
            // As billed to users.
            ("openai/gpt-4o-mini-2024-07-18", 128, 64, 8500),
            ("gpt-4.1", 64, 64, 255),
            ("gpt-5", 64, 64, 210),
            ("o3", 128, 64, 225),
            ("o4-mini", 64, 64, 7),
            // Examples of Anthropic's guide.
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
        let linked = image_at("https://e.com/a.png", None);
        assert_eq!(count_range("gpt-4o", &linked), (255, 1445));
        assert_eq!(count_range("gpt-4o-mini", &linked), (8500, 48_169));
        assert_eq!(count_range("gpt-4.1-nano", &linked), (3, 3779));
        assert_eq!(count_range("claude-opus-4-7", &linked), (1, 4784));
        assert_eq!(count_range("llava", &linked), (64, 6404));
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
