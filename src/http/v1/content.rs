//! What a message of OpenAI's says: a text, or a list of texts and pictures.

use crate::domain::message::Parts;
use crate::error::{Error, Result};
use crate::json::Object;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

/// A text, and what is none.
#[derive(Default)]
pub(super) struct Content {
    pub(super) text: String,
    pub(super) parts: Parts,
}

impl Content {
    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.text.trim().is_empty() && self.parts.is_empty()
    }

    /// Reads content whose texts and pictures go by these names. `None` if it is something else.
    pub(super) fn read(raw: &RawValue, texts: &[&str], picture: &str) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Part {
            #[serde(rename = "type")]
            kind: String,
            #[serde(default, alias = "refusal")]
            text: Option<String>,
        }
        if let Ok(text) = serde_json::from_str(raw.get()) {
            return Ok(Some(Self { text, parts: Parts::default() }));
        }
        let Ok(all) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else { return Ok(None) };
        let (mut said, mut pictures) = (Vec::new(), Vec::new());
        for part in all {
            match serde_json::from_str(part.get()) {
                Ok(Object(Part { kind, text: Some(text) })) if texts.contains(&&*kind) => {
                    said.push(text);
                }
                Ok(Object(Part { kind, .. })) if kind == picture => pictures.push(part),
                _ => return Ok(None),
            }
        }
        let parts = to_raw_value(&pictures).map_err(Error::internal)?;
        Ok(Some(Self { text: said.join("\n"), parts: Parts::parse("content", &parts)? }))
    }
}
