//! The key under which the content of a session is stored: its nodes, summaries and embeddings.
//!
//! Usually it is the session's id. A session has a key of its own, `contentKey` in its document, if
//! it was published from a draft, or if its id belonged to a session whose content is still being
//! deleted. Such a key has a character that no session id has.
//!
//! Other content (words, responses, turn logs, queued turns, idempotency records) is stored under
//! the session's id together with `born`, the revision at which the session was created.

use crate::domain::SessionId;
use mongodb::bson::Document;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Field of a session's document.
pub(super) const CONTENT_KEY: &str = "contentKey";
/// Sessions whose content keys an instance remembers.
const MAX_REMEMBERED: usize = 10_000;

/// Where a session's content is stored.
#[derive(Debug, Clone)]
pub(super) struct ContentKey {
    /// The value of `sessionId` in the session's nodes, summaries and embeddings.
    pub(super) key: SessionId,
    /// First revision of the session, the value of `born` in its other content.
    pub(super) created_revision: i64,
}

/// Content keys of sessions that this instance has read. A turn needs the key of a session that its
/// own instance has just loaded, so an outdated key is replaced before it is used.
#[derive(Debug, Clone, Default)]
pub(super) struct ContentKeys(Arc<Mutex<HashMap<SessionId, ContentKey>>>);

impl ContentKey {
    pub(super) fn from_document(id: &SessionId, session: &Document) -> Self {
        let key = session.get_str(CONTENT_KEY).map(SessionId::new_unchecked);
        Self {
            key: key.unwrap_or_else(|_| id.clone()),
            created_revision: session.get_i64("born").unwrap_or_default(),
        }
    }
}

/// A key that no other content has.
pub(super) fn generate_key(session: &SessionId) -> (i64, SessionId) {
    let number = fastrand::i64(..);
    (number, numbered_key(session, number))
}

pub(super) fn numbered_key(session: &SessionId, number: i64) -> SessionId {
    SessionId::new_unchecked(format!("{session}~{number:x}"))
}

impl ContentKeys {
    pub(super) fn get(&self, session: &SessionId) -> Option<ContentKey> {
        self.0.lock().get(session).cloned()
    }

    pub(super) fn remove(&self, session: &SessionId) {
        self.0.lock().remove(session);
    }

    pub(super) fn insert(&self, session: &SessionId, key: ContentKey) {
        let mut keys = self.0.lock();
        if keys.len() >= MAX_REMEMBERED {
            keys.clear();
        }
        keys.insert(session.clone(), key);
    }
}
