//! `encrypted_content` of reasoning items: the data that a provider wants back with its calls, for
//! clients that keep the state of a conversation themselves.
//!
//! The content is opaque to clients but not secret: vendors sign or encrypt their data themselves.
//! It is not trusted either. It names the endpoint and the model that the data is from, and no
//! other gets it. Content of another server is ignored.

use crate::domain::Message;
use crate::domain::message::CallOrigin;
use crate::domain::tool;
use crate::error::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// A name in `include` of a request.
pub(super) const INCLUDE_NAME: &str = "reasoning.encrypted_content";
/// The field of a reasoning item with the content.
pub(super) const ENCRYPTED_CONTENT: &str = "encrypted_content";
/// Begins our content and names its version.
const PREFIX: &str = "echoic.v1.";
/// Size of a content of ours. Parsed values may take many times the memory.
const MAX_CONTENT_BYTES: usize = 1 << 20;

/// The origin of a call in encrypted content, with our id of the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IdentifiedOrigin {
    pub(super) call_id: String,
    pub(super) origin: CallOrigin,
}

/// `None` if the provider gave no data that it wants back, or more than a client could send back.
pub(super) fn encode_origins(origins: Vec<(String, CallOrigin)>) -> Option<String> {
    let has_data = origins.iter().any(|(_, origin)| origin.opaque_data.is_some());
    let origins = origins.into_iter().map(|(call_id, origin)| IdentifiedOrigin { call_id, origin });
    let json = serde_json::to_vec(&origins.collect::<Vec<_>>()).ok().filter(|_| has_data)?;
    let content = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json));
    (content.len() <= MAX_CONTENT_BYTES).then_some(content)
}

/// The encrypted content of a stored reply.
pub(super) fn encode_reply_origins(reply: &Message) -> Option<String> {
    let calls = tool::parse_calls(&reply.parts).into_iter();
    encode_origins(calls.filter_map(|call| Some((call.id, call.origin?))).collect())
}

/// Empty for content of another server. Errors: `payload_too_large` for content of ours.
pub(super) fn decode_origins(content: &str) -> Result<Vec<IdentifiedOrigin>> {
    let Some(encoded) = content.strip_prefix(PREFIX) else { return Ok(Vec::new()) };
    if content.len() > MAX_CONTENT_BYTES {
        return Err(Error::too_large(ENCRYPTED_CONTENT, MAX_CONTENT_BYTES));
    }
    let json = URL_SAFE_NO_PAD.decode(encoded).unwrap_or_default();
    Ok(serde_json::from_slice(&json).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn origins_round_trip_and_foreign_content_is_ignored() {
        let origin = |opaque_data| CallOrigin {
            provider: "openai:e.com/v1".to_owned(),
            model: "m".to_owned(),
            call_id: Some("a".to_owned()),
            opaque_data,
        };
        let data = origin(Some(json!({"extra_content": {"x": "c2ln+/=="}})));
        let content = encode_origins(vec![("id".to_owned(), data.clone())]).unwrap();
        let identified = IdentifiedOrigin { call_id: "id".to_owned(), origin: data };
        assert_eq!(decode_origins(&content).unwrap(), [identified]);
        assert_eq!(encode_origins(vec![("id".to_owned(), origin(None))]), None);
        for foreign in
            ["", "gAAAAABo", "echoic.v1.", "echoic.v1.%%", "echoic.v2.e30", "echoic.v1.e30"]
        {
            assert_eq!(decode_origins(foreign).unwrap(), [], "{foreign}");
        }
        // More than could be sent back is not sent.
        let data = origin(Some(json!({"extra_content": "x".repeat(MAX_CONTENT_BYTES)})));
        assert_eq!(encode_origins(vec![("id".to_owned(), data)]), None);
    }
}
