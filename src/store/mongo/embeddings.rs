//! Embeddings in MongoDB: a document for each message, written beside the session's steps.

use super::MongoStore;
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

fn embedding_key(session: &SessionId, message: &MessageId) -> Document {
    doc! { "session": session.as_str(), "message": message.as_str() }
}

#[async_trait]
impl EmbeddingStore for MongoStore {
    async fn load_embeddings(
        &self,
        session: &SessionId,
        model: &str,
        messages: &[MessageId],
    ) -> Result<Vec<MessageEmbedding>> {
        let names: Vec<_> =
            messages.iter().map(|message| embedding_key(session, message)).collect();
        let pipeline = vec![
            doc! { "$match": { "_id": { "$in": names }, "model": model } },
            doc! { "$project": { "message": 1, "vectors": 1 } },
        ];
        let pipeline = &pipeline;
        let found: Vec<EmbeddingDoc> = transact!(self, TransactionMode::READ, |step| {
            let table = step.collections.embeddings.clone();
            step.run_pipeline(&table, pipeline.clone()).await
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
        let table = &self.collections.embeddings;
        if embeddings.is_empty() {
            return Ok(());
        }
        let names: Vec<_> =
            embeddings.iter().map(|one| embedding_key(session, &one.message_id)).collect();
        let document = |MessageEmbedding { message_id, vectors }: &MessageEmbedding| {
            let (subtype, bytes) = (BinarySubtype::Generic, vectors.clone());
            doc! {
                "_id": embedding_key(session, message_id),
                "sessionId": session.as_str(),
                "message": message_id.as_str(),
                "model": model,
                "vectors": Binary { subtype, bytes },
            }
        };
        let documents: Vec<_> = embeddings.iter().map(document).collect();
        // Two questions for a whole batch. What is lost between them is made again.
        with_timeout(async { Ok(table.delete_many(doc! { "_id": { "$in": names } }).await?) })
            .await?;
        with_timeout(async { Ok(table.insert_many(documents).await?) }).await?;
        // Nobody would delete what is written for a session that was deleted meanwhile.
        let is_there = transact!(self, TransactionMode::READ, |step| Ok(step
            .load_session(session)
            .await?
            .is_some()))?;
        if !is_there {
            let gone = doc! { "sessionId": session.as_str() };
            with_timeout(async { Ok(table.delete_many(gone).await?) }).await?;
        }
        Ok(())
    }
}
