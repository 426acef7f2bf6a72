//! Embeddings in MongoDB: one document per message, written outside of the session's transactions.

use super::MongoStore;
use super::content_keys::ContentKey;
use super::transaction::{TransactionMode, transact};
use super::turn_log::with_timeout;
use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use crate::store::{EmbeddingStore, MessageEmbedding};
use async_trait::async_trait;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct EmbeddingDoc {
    message: String,
    vectors: Binary,
}

fn embedding_key(key: &SessionId, message: &MessageId) -> Document {
    doc! { "session": key.as_str(), "message": message.as_str() }
}

#[async_trait]
impl EmbeddingStore for MongoStore {
    async fn load_embeddings(
        &self,
        session: &SessionId,
        model: &str,
        messages: &[MessageId],
    ) -> Result<Vec<MessageEmbedding>> {
        let Some(ContentKey { key, .. }) = self.find_content_key(session).await? else {
            return Ok(Vec::new());
        };
        let names: Vec<_> = messages.iter().map(|message| embedding_key(&key, message)).collect();
        let pipeline = vec![
            doc! { "$match": { "_id": { "$in": names }, "model": model } },
            doc! { "$project": { "message": 1, "vectors": 1 } },
        ];
        let pipeline = &pipeline;
        let found: Vec<EmbeddingDoc> = transact!(self, TransactionMode::READ, |tx| {
            let collection = tx.collections.embeddings.clone();
            tx.run_pipeline(&collection, pipeline.clone()).await
        })?;
        let embedding = |found: EmbeddingDoc| MessageEmbedding {
            message_id: MessageId::new_unchecked(found.message),
            vectors: found.vectors.bytes,
        };
        Ok(found.into_iter().map(embedding).collect())
    }

    async fn save_embeddings(
        &self,
        session: &SessionId,
        model: &str,
        embeddings: &[MessageEmbedding],
    ) -> Result<()> {
        let collection = &self.collections.embeddings;
        if embeddings.is_empty() {
            return Ok(());
        }
        let Some(ContentKey { key, .. }) = self.find_content_key(session).await? else {
            return Ok(());
        };
        let names: Vec<_> =
            embeddings.iter().map(|one| embedding_key(&key, &one.message_id)).collect();
        let document = |MessageEmbedding { message_id, vectors }: &MessageEmbedding| {
            let (subtype, bytes) = (BinarySubtype::Generic, vectors.clone());
            doc! {
                "_id": embedding_key(&key, message_id),
                "sessionId": key.as_str(),
                "message": message_id.as_str(),
                "model": model,
                "vectors": Binary { subtype, bytes },
            }
        };
        let documents: Vec<_> = embeddings.iter().map(document).collect();
        // Two requests for a whole batch in place of an upsert per message. A crash in between
        // loses embeddings that are computed again when they are missing.
        with_timeout(async { Ok(collection.delete_many(doc! { "_id": { "$in": names } }).await?) })
            .await?;
        with_timeout(async { Ok(collection.insert_many(documents).await?) }).await?;
        // After the write: a deletion that ran before it has not seen the new documents, and no
        // other process would remove them.
        let exists = transact!(self, TransactionMode::READ, |tx| Ok(tx
            .load_session(session)
            .await?
            .is_some()))?;
        if !exists {
            let orphaned = doc! { "sessionId": key.as_str() };
            with_timeout(async { Ok(collection.delete_many(orphaned).await?) }).await?;
        }
        Ok(())
    }
}
