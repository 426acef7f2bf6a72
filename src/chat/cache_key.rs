//! The key under which a provider caches a session's prompts.

use crate::domain::SessionId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Hash bytes in the key: 128 bits, so keys of different sessions do not collide.
const KEY_BYTES: usize = 16;

/// Equal for all turns of a session, on every instance and across restarts, so that each turn
/// reaches the cache holding the session's prompt prefix.
///
/// The session id is hashed because clients choose ids, and an id may contain information that the
/// provider should not see.
pub(super) fn derive_cache_key(session: &SessionId) -> String {
    let hash = Sha256::digest(format!("echoic session {session}"));
    URL_SAFE_NO_PAD.encode(&hash[..KEY_BYTES])
}
