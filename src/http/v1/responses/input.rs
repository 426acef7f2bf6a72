//! The input of a response: a text, or a list of items, of which the last is answered and the others
//! are what was said before it.

use crate::chat::Earlier;
use crate::domain::message::{Body, Parts};
use crate::domain::{MessageType, Role};
use crate::error::{Error, Result};
use crate::http::v1::items::NewItem;
use crate::json::Object;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The most items, and the most bytes of all of them but the last: they are stored in one step.
const MAX_ITEMS: usize = 500;
const MAX_EARLIER: usize = 8 << 20;

/// What is said.
pub(super) struct Input {
    /// The messages before the last one.
    pub(super) earlier: Vec<Earlier>,
    /// What is to be answered.
    pub(super) last: Body,
}

impl Input {
    /// Reads a text or a list of items; a message's text has at most `limit` bytes.
    pub(super) fn read(raw: &RawValue, limit: usize) -> Result<Self> {
        if let Ok(text) = serde_json::from_str::<String>(raw.get()) {
            let last = Body::parse("input", text, Parts::default(), MessageType::Text, limit)?;
            return Ok(Self { earlier: Vec::new(), last });
        }
        let items: Vec<&RawValue> = serde_json::from_str(raw.get())
            .map_err(|_| Error::invalid("input", "must be a string or a list of items"))?;
        if items.len() > MAX_ITEMS {
            return Err(Error::invalid("input", "must be at most 500 items"));
        }
        let mut earlier = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let read = read(item, limit).map_err(|error| error.at(&format!("input[{index}]")));
            earlier.extend(read?);
        }
        let Some(Earlier { role: Role::User, body: last }) = earlier.pop() else {
            return Err(Error::invalid("input", "must end with a message of the role user"));
        };
        let size = |one: &Earlier| one.body.content.len() + one.body.parts.as_json().len();
        if earlier.iter().map(size).sum::<usize>() > MAX_EARLIER {
            return Err(Error::too_large("input", MAX_EARLIER));
        }
        Ok(Self { earlier, last })
    }
}

/// One item. What a model thought, which clients send back with what it said, is passed over: it is
/// shown to no model.
fn read(item: &RawValue, limit: usize) -> Result<Option<Earlier>> {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type", default)]
        kind: Option<String>,
    }
    let wants = |_| Error::invalid("item", "must be an item, such as {role, content}");
    let Object(Typed { kind }) = serde_json::from_str(item.get()).map_err(wants)?;
    match kind.as_deref() {
        None | Some("message") => {
            let NewItem { role, body } = NewItem::read(item, limit)?;
            Ok(Some(Earlier { role, body }))
        }
        Some("reasoning") => Ok(None),
        Some(_) => Err(Error::invalid("type", "must be message")),
    }
}
