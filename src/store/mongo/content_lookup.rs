//! Finds the content keys of sessions.

use super::MongoStore;
use super::content_keys::{CONTENT_KEY, ContentKey};
use super::transaction::{LoadedSession, MongoTransaction};
use super::turn_log::with_timeout;
use crate::domain::SessionId;
use crate::error::Result;
use mongodb::bson::doc;

impl MongoStore {
    /// The content key of a session; `None` if there is no such session.
    pub(super) async fn find_content_key(&self, session: &SessionId) -> Result<Option<ContentKey>> {
        if let Some(known) = self.content_keys.get(session) {
            return Ok(Some(known));
        }
        let fields = doc! { CONTENT_KEY: 1, "born": 1 };
        let found = self.collections.sessions.find_one(doc! { "_id": session.as_str() });
        let found = with_timeout(async { Ok(found.projection(fields).await?) }).await?;
        let key = found.map(|found| ContentKey::from_document(session, &found));
        if let Some(key) = &key {
            self.content_keys.insert(session, key.clone());
        }
        Ok(key)
    }
}

impl MongoTransaction {
    /// The content key of a session that this transaction has loaded or created.
    pub(super) fn content_key(&self, session: &SessionId) -> SessionId {
        self.used_keys.get(session).map_or_else(|| session.clone(), |used| used.key.clone())
    }

    /// The content key of any session; `None` if there is no such session.
    pub(super) async fn find_content_key(
        &mut self,
        session: &SessionId,
    ) -> Result<Option<SessionId>> {
        if !self.used_keys.contains_key(session) {
            match self.content_keys.get(session) {
                Some(known) => drop(self.used_keys.insert(session.clone(), known)),
                None if self.load_session(session).await?.is_none() => return Ok(None),
                None => {}
            }
        }
        Ok(Some(self.content_key(session)))
    }

    /// Remembers where a session that was read has its content.
    pub(super) fn record_content_key(&mut self, session: &LoadedSession) {
        let key = ContentKey::from_document(&session.id, &session.document);
        self.content_keys.insert(&session.id, key.clone());
        self.used_keys.insert(session.id.clone(), key);
    }
}
