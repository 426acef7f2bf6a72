//! What is asked of a store about embeddings: vectors of what messages mean.

use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use async_trait::async_trait;

/// The vectors of a message's passages, in their order, each as many bytes as the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageEmbedding {
    /// The message.
    pub message_id: MessageId,
    /// All of them, one behind the other.
    pub vectors: Vec<u8>,
}

/// Embeddings: made beside the turns, a batch at a time. They can be made anew, so they do not move
/// from store to store and are not exported.
#[async_trait]
pub trait EmbeddingStore: Send + Sync {
    /// Those of these messages that a model has made, in no order; of a session that does not exist,
    /// none.
    async fn load_embeddings(
        &self,
        session: &SessionId,
        model: &str,
        messages: &[MessageId],
    ) -> Result<Vec<MessageEmbedding>>;

    /// Keeps what a model has made; what is there of these messages makes way. Messages that are
    /// gone are passed over.
    async fn save_embeddings(
        &self,
        session: &SessionId,
        model: &str,
        embeddings: &[MessageEmbedding],
    ) -> Result<()>;
}
