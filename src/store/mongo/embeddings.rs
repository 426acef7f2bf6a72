//! Embeddings in MongoDB: a document for each message, written beside the session's steps.

use super::MongoStore;
use super::log::in_time;
use super::step::{Manner, step};
use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use crate::store::{Embedding, EmbeddingStore};
use async_trait::async_trait;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct EmbeddingDoc {
    message: String,
    vectors: Binary,
}

fn name(session: &SessionId, message: &MessageId) -> Document {
    doc! { "session": session.as_str(), "message": message.as_str() }
}

#[async_trait]
impl EmbeddingStore for MongoStore {
    async fn embeddings(
        &self,
        session: &SessionId,
        model: &str,
        messages: &[MessageId],
    ) -> Result<Vec<Embedding>> {
        let names: Vec<_> = messages.iter().map(|message| name(session, message)).collect();
        let pipeline = vec![
            doc! { "$match": { "_id": { "$in": names }, "model": model } },
            doc! { "$project": { "message": 1, "vectors": 1 } },
        ];
        let pipeline = &pipeline;
        let found: Vec<EmbeddingDoc> = step!(self, Manner::LOOK, |step| {
            let table = step.tables.embeddings.clone();
            step.all(&table, pipeline.clone()).await
        })?;
        let embedding = |found: EmbeddingDoc| Embedding {
            message: MessageId::trusted(found.message),
            vectors: found.vectors.bytes,
        };
        Ok(found.into_iter().map(embedding).collect())
    }

    async fn put_embeddings(
        &self,
        session: &SessionId,
        model: &str,
        embeddings: &[Embedding],
    ) -> Result<()> {
        let table = &self.tables.embeddings;
        if embeddings.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = embeddings.iter().map(|one| name(session, &one.message)).collect();
        let document = |Embedding { message, vectors }: &Embedding| {
            let (subtype, bytes) = (BinarySubtype::Generic, vectors.clone());
            doc! {
                "_id": name(session, message),
                "sessionId": session.as_str(),
                "message": message.as_str(),
                "model": model,
                "vectors": Binary { subtype, bytes },
            }
        };
        let documents: Vec<_> = embeddings.iter().map(document).collect();
        // Two questions for a whole batch. What is lost between them is made again.
        in_time(async { Ok(table.delete_many(doc! { "_id": { "$in": names } }).await?) }).await?;
        in_time(async { Ok(table.insert_many(documents).await?) }).await?;
        // Nobody would delete what is written for a session that was deleted meanwhile.
        let is_there =
            step!(self, Manner::LOOK, |step| Ok(step.find_session(session).await?.is_some()))?;
        if !is_there {
            let gone = doc! { "sessionId": session.as_str() };
            in_time(async { Ok(table.delete_many(gone).await?) }).await?;
        }
        Ok(())
    }
}
