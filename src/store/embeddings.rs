//! Store operations on embeddings of messages.

use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use async_trait::async_trait;

/// Vectors of a message's passages, in order and all of the same length in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageEmbedding {
    pub message_id: MessageId,
    /// The vectors, concatenated.
    pub vectors: Vec<u8>,
}

/// Embeddings: computed in the background, in batches. They can be computed again, so they are
/// neither migrated nor exported.
#[async_trait]
pub trait EmbeddingStore: Send + Sync {
    /// Loads the embeddings of these messages that a model has produced, in no particular order.
    /// Empty if the session does not exist.
    async fn load_embeddings(
        &self,
        session: &SessionId,
        model: &str,
        messages: &[MessageId],
    ) -> Result<Vec<MessageEmbedding>>;

    /// Saves embeddings produced by a model and replaces existing ones. Skips
    /// messages that are gone.
    async fn save_embeddings(
        &self,
        session: &SessionId,
        model: &str,
        embeddings: &[MessageEmbedding],
    ) -> Result<()>;
}
