//! What messages mean, as vectors: made by an embeddings endpoint beside the turns, a batch at a
//! time, and kept in the store. A crash loses at most a batch, and whoever recalls in the session
//! next goes on. Vectors of another model are made anew, and so are those of another length.
//!
//! A turn waits a moment for the vector of its own message and for no other; where it does not come,
//! words decide alone.

use super::path_index::PathIndex;
use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use crate::memory::rank::QuantizedVector;
use crate::provider::embeddings::Embedder;
use crate::store::{MessageEmbedding, Store};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

/// How long a turn waits for the vector of its message.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_millis(250);
/// As many passages are sent to the endpoint at once.
const BATCH_PASSAGES: usize = 64;
/// As many messages are looked up in the store at once.
const LOOKUP_PAGE_SIZE: usize = 1000;
/// Endpoints take no more of a text than about this many characters.
const MAX_TEXT_CHARS: usize = 2000;

/// Makes vectors and finds them again.
pub(super) struct SemanticIndex {
    embedder: Arc<dyn Embedder>,
    store: Arc<dyn Store>,
    /// The sessions whose messages are being sent to the endpoint.
    in_progress: Mutex<HashSet<SessionId>>,
}

/// The right to send a session's messages, until it is dropped.
struct EmbeddingGuard<'a>(&'a SemanticIndex, SessionId);

impl Drop for EmbeddingGuard<'_> {
    fn drop(&mut self) {
        self.0.in_progress.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl SemanticIndex {
    pub(super) fn new(embedder: Arc<dyn Embedder>, store: Arc<dyn Store>) -> Self {
        Self { embedder, store, in_progress: Mutex::default() }
    }

    /// The vector of a message that is asked; `None` if the endpoint fails or takes too long.
    pub(super) async fn embed_query(
        &self,
        text: &str,
        patience: Duration,
    ) -> Option<QuantizedVector> {
        let text = [crate::domain::text::truncate_chars(text, MAX_TEXT_CHARS).to_owned()];
        match timeout(patience, self.embedder.embed(&text)).await {
            Ok(Ok(vectors)) => vectors.first().map(|vector| QuantizedVector::quantize(vector)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "words alone decide what is recalled");
                None
            }
            Err(_) => {
                tracing::debug!("words alone decide what is recalled: no vector came in time");
                None
            }
        }
    }

    /// Reads the vectors that the store has and memory has not.
    pub(super) async fn load_vectors(
        &self,
        session: &SessionId,
        kept: &mut PathIndex,
    ) -> Result<()> {
        let missing = kept.missing_vectors(usize::MAX);
        for page in missing.chunks(LOOKUP_PAGE_SIZE) {
            let found = self.store.load_embeddings(session, self.embedder.model(), page).await?;
            for embedding in found {
                kept.add_vectors(&embedding);
            }
        }
        Ok(())
    }

    /// Has the endpoint make the vectors that are missing, unless somebody is at it. Works with the
    /// session's place only between batches.
    pub(super) async fn embed_missing(
        &self,
        session: &SessionId,
        place: &AsyncMutex<Option<PathIndex>>,
    ) -> Result<()> {
        let is_first =
            self.in_progress.lock().unwrap_or_else(PoisonError::into_inner).insert(session.clone());
        if !is_first {
            return Ok(());
        }
        let _permit = EmbeddingGuard(self, session.clone());
        loop {
            let batch = match place.lock().await.as_ref() {
                Some(kept) => kept.passage_texts(
                    &kept.missing_vectors(BATCH_PASSAGES),
                    BATCH_PASSAGES,
                    MAX_TEXT_CHARS,
                ),
                None => return Ok(()),
            };
            if batch.is_empty() {
                return Ok(());
            }
            let texts: Vec<String> = batch.iter().flat_map(|(_, texts)| texts.clone()).collect();
            let mut vectors = Vec::with_capacity(texts.len());
            // A very long message has more passages than a batch.
            for texts in texts.chunks(BATCH_PASSAGES) {
                vectors.extend(self.embedder.embed(texts).await?);
            }
            let embeddings = build_embeddings(&batch, &vectors);
            self.store.save_embeddings(session, self.embedder.model(), &embeddings).await?;
            let mut place = place.lock().await;
            let Some(kept) = place.as_mut() else { return Ok(()) };
            let learned = embeddings.iter().filter(|embedding| kept.add_vectors(embedding)).count();
            if learned == 0 {
                // The path was switched meanwhile; its new messages come with the next turn.
                return Ok(());
            }
        }
    }
}

/// Each message's vectors, out of those of all of them.
fn build_embeddings(
    batch: &[(MessageId, Vec<String>)],
    vectors: &[Vec<f32>],
) -> Vec<MessageEmbedding> {
    let mut rest = vectors;
    let of_message = |(message, texts): &(MessageId, Vec<String>)| {
        let (own, behind) = rest.split_at(texts.len().min(rest.len()));
        rest = behind;
        let bytes =
            own.iter().flat_map(|vector| QuantizedVector::quantize(vector).as_bytes().to_vec());
        MessageEmbedding { message_id: message.clone(), vectors: bytes.collect() }
    };
    batch.iter().map(of_message).collect()
}

impl PathIndex {
    /// The messages of which a passage has no vector, the newest first, at most so many.
    pub(super) fn missing_vectors(&self, most: usize) -> Vec<MessageId> {
        let (mut missing, mut last) = (Vec::new(), None);
        for (at, passage) in self.index.passages().iter().enumerate().rev() {
            let has_vector = self.vectors.get(at).is_some_and(Option::is_some);
            if has_vector || last == Some(passage.message_index) {
                continue;
            }
            if missing.len() == most {
                break;
            }
            last = Some(passage.message_index);
            missing.push(self.messages[passage.message_index as usize].id.clone());
        }
        missing
    }

    /// The texts of messages, passage by passage, of as many messages as make about so many passages.
    fn passage_texts(
        &self,
        messages: &[MessageId],
        most: usize,
        longest: usize,
    ) -> Vec<(MessageId, Vec<String>)> {
        let (mut texts, mut count) = (Vec::new(), 0);
        for id in messages {
            let passages = self.message_passages(id);
            let of = |at: usize| {
                let line = self.render_line(&[u32::try_from(at).unwrap_or(u32::MAX)]);
                crate::domain::text::truncate_chars(line.trim_end(), longest).to_owned()
            };
            let own: Vec<String> = passages.map(of).collect();
            count += own.len();
            texts.push((id.clone(), own));
            if count >= most {
                break;
            }
        }
        texts
    }

    /// Takes in the vectors of a message, if it is on the path and there is one for each passage.
    pub(super) fn add_vectors(&mut self, embedding: &MessageEmbedding) -> bool {
        let passages = self.message_passages(&embedding.message_id);
        let bytes = &embedding.vectors;
        if passages.is_empty() || bytes.is_empty() || !bytes.len().is_multiple_of(passages.len()) {
            return false;
        }
        let length = bytes.len() / passages.len();
        if self.vector_length.is_some_and(|known| known != length) {
            return false;
        }
        self.vectors.resize(self.index.passages().len(), None);
        for (at, vector) in passages.zip(bytes.chunks(length)) {
            self.vectors[at] = Some(QuantizedVector::from_bytes(vector));
        }
        true
    }

    /// How near each passage is to a vector; empty if most of them have none. Vectors of another
    /// length are forgotten, and no more of them are taken in.
    pub(super) fn similarities(&mut self, asked: &QuantizedVector) -> Vec<Option<f32>> {
        self.vectors.resize(self.index.passages().len(), None);
        self.vector_length = Some(asked.as_bytes().len());
        for vector in &mut self.vectors {
            if vector.as_ref().is_some_and(|vector| asked.cosine_similarity(vector).is_none()) {
                *vector = None;
            }
        }
        let near: Vec<_> = self
            .vectors
            .iter()
            .map(|vector| vector.as_ref().and_then(|vector| asked.cosine_similarity(vector)))
            .collect();
        let known = near.iter().flatten().count();
        if known * 2 > near.len() { near } else { Vec::new() }
    }
}
