//! What a message of OpenAI's says: a text, or a list of texts and pictures.

use crate::domain::image::parse_image;
use crate::domain::message::MessageParts;
use crate::error::{Error, Result};
use crate::json::StrictObject;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// What a model said instead of an answer: a text by another name, in every dialect.
const REFUSAL_PART: &str = "refusal";

/// A text, and what is none.
#[derive(Default)]
pub(super) struct MessageContent {
    pub(super) text: String,
    pub(super) parts: MessageParts,
}

impl MessageContent {
    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.text.trim().is_empty() && self.parts.is_empty()
    }

    /// Reads content whose texts and pictures go by these names. `None` if it is something else.
    /// Errors: a picture that lies where no model can reach it; files of OpenAI's are not here.
    pub(super) fn parse(raw: &RawValue, texts: &[&str], picture: &str) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct ContentPartInput {
            #[serde(rename = "type")]
            kind: String,
            #[serde(default, alias = "refusal")]
            text: Option<String>,
        }
        if let Ok(text) = serde_json::from_str(raw.get()) {
            return Ok(Some(Self { text, parts: MessageParts::default() }));
        }
        let Ok(all) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else { return Ok(None) };
        let (mut said, mut pictures) = (Vec::new(), Vec::new());
        for (index, part) in all.into_iter().enumerate() {
            match serde_json::from_str(part.get()) {
                Ok(StrictObject(ContentPartInput { kind, text: Some(text) }))
                    if kind == REFUSAL_PART || texts.contains(&&*kind) =>
                {
                    said.push(text);
                }
                Ok(StrictObject(ContentPartInput { kind, .. })) if kind == picture => {
                    check_image_url(index, part)?;
                    pictures.push(part);
                }
                _ => return Ok(None),
            }
        }
        let parts = to_raw_value(&pictures).map_err(Error::internal)?;
        Ok(Some(Self { text: said.join("\n"), parts: MessageParts::parse("content", &parts)? }))
    }
}

fn check_image_url(index: usize, part: &RawValue) -> Result<()> {
    let part: Value = serde_json::from_str(part.get()).map_err(Error::internal)?;
    if parse_image(&part).is_some() {
        return Ok(());
    }
    let field = format!("content[{index}].image_url");
    Err(Error::invalid_field(field, "must be the URL of a picture: https, http, or data:image/"))
}
