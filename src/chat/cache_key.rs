//! The name by which a provider's cache knows a session's prompts.

use crate::domain::SessionId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// How many bytes of the hash go into it: enough that no two sessions share one.
const KEY_BYTES: usize = 16;

/// The same for all turns of a session, at every instance and after every restart, so that they come
/// to the cache that holds their beginning. A hash: clients choose sessions' ids, and what those say
/// is no business of the provider's.
pub(super) fn derive_cache_key(session: &SessionId) -> String {
    let hash = Sha256::digest(format!("echoic session {session}"));
    URL_SAFE_NO_PAD.encode(&hash[..KEY_BYTES])
}
