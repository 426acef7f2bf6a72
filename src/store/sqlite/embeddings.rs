//! Embeddings in SQLite: one row per message, under the message's own key.

use super::SqliteStore;
use super::paths::find_message_by_id;
use super::rows::message_key;
use super::session_rows::find_session_key;
use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use crate::store::{EmbeddingStore, MessageEmbedding};
use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

#[async_trait]
impl EmbeddingStore for SqliteStore {
    async fn load_embeddings(
        &self,
        session: &SessionId,
        model: &str,
        messages: &[MessageId],
    ) -> Result<Vec<MessageEmbedding>> {
        let session = session.clone();
        let model = model.to_owned();
        let messages = messages.to_vec();
        self.run_read(move |db| {
            let Some(key) = find_session_key(db, &session)? else { return Ok(Vec::new()) };
            // One cached statement serves any number of messages; a list of ids would be a
            // new one each time.
            let sql = "SELECT e.vectors FROM messages m JOIN embeddings e ON e.key = m.key \
                       WHERE m.session = ?1 AND m.id = ?2 AND e.model = ?3";
            let mut statement = db.prepare_cached(sql)?;
            let mut found = Vec::new();
            for message in messages {
                let key = params![key, message.as_str(), model];
                if let Some(vectors) = statement.query_row(key, |row| row.get(0)).optional()? {
                    found.push(MessageEmbedding { message_id: message, vectors });
                }
            }
            Ok(found)
        })
        .await
    }

    async fn save_embeddings(
        &self,
        session: &SessionId,
        model: &str,
        embeddings: &[MessageEmbedding],
    ) -> Result<()> {
        let session = session.clone();
        let model = model.to_owned();
        let embeddings = embeddings.to_vec();
        self.run_background_write(move |db| {
            let Some(key) = find_session_key(db, &session)? else { return Ok(()) };
            let sql = "INSERT OR REPLACE INTO embeddings VALUES (?1, ?2, ?3)";
            let mut statement = db.prepare_cached(sql)?;
            for MessageEmbedding { message_id, vectors } in embeddings {
                // The message was deleted while its embedding was computed.
                let Some(located) = find_message_by_id(db, key, &message_id)? else { continue };
                statement.execute(params![
                    message_key(key, located.location.seq),
                    model,
                    vectors
                ])?;
            }
            Ok(())
        })
        .await
    }
}
