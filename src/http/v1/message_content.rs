//! Message content in OpenAI's format: a string, or a list of text and image parts.

use crate::domain::image::parse_image;
use crate::domain::message::MessageParts;
use crate::error::{Error, Result};
use crate::json::StrictObject;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// A text part in all formats: the model's refusal, which clients send back as part of the history.
const REFUSAL_PART: &str = "refusal";

/// Text and image parts of a message.
#[derive(Default)]
pub(super) struct MessageContent {
    pub(super) text: String,
    pub(super) parts: MessageParts,
}

impl MessageContent {
    pub(super) fn is_empty(&self) -> bool {
        self.text.trim().is_empty() && self.parts.is_empty()
    }

    /// Parses content whose parts have the given types. `None` if it has any other form. Errors: an
    /// image that is not given by URL, such as an uploaded file of OpenAI's.
    pub(super) fn parse(
        raw: &RawValue,
        text_types: &[&str],
        image_type: &str,
    ) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct ContentPartInput {
            #[serde(rename = "type")]
            kind: String,
            // A refusal part has its text in a field of its own.
            #[serde(default, alias = "refusal")]
            text: Option<String>,
        }
        if let Ok(text) = serde_json::from_str(raw.get()) {
            return Ok(Some(Self { text, parts: MessageParts::default() }));
        }
        let Ok(all) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else { return Ok(None) };
        let mut texts = Vec::new();
        let mut images = Vec::new();
        for (index, part) in all.into_iter().enumerate() {
            match serde_json::from_str(part.get()) {
                Ok(StrictObject(ContentPartInput { kind, text: Some(text) }))
                    if kind == REFUSAL_PART || text_types.contains(&&*kind) =>
                {
                    texts.push(text);
                }
                Ok(StrictObject(ContentPartInput { kind, .. })) if kind == image_type => {
                    check_image_url(index, part)?;
                    images.push(part);
                }
                // An unknown part is refused rather than dropped: the model would not see it.
                _ => return Ok(None),
            }
        }
        let parts = to_raw_value(&images).map_err(Error::internal)?;
        Ok(Some(Self { text: texts.join("\n"), parts: MessageParts::parse("content", &parts)? }))
    }
}

fn check_image_url(index: usize, part: &RawValue) -> Result<()> {
    let part: Value = serde_json::from_str(part.get()).map_err(Error::internal)?;
    if parse_image(&part).is_some() {
        return Ok(());
    }
    let field = format!("content[{index}].image_url");
    Err(Error::invalid_field(field, "must be an image URL: https, http or data:image/"))
}
