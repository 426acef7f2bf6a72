//! Embeddings of messages: computed in the background by an embeddings endpoint, in batches, and
//! saved in the store. A crash loses at most one batch; the session's next query continues. Vectors
//! of another model or length are computed again.
//!
//! A turn waits briefly for the vector of its own message only. If that fails or times out, words
//! alone decide what is recalled.

use super::index_cache::SharedIndex;
use super::path_index::PathIndex;
use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use crate::memory::rank::QuantizedVector;
use crate::provider::ProviderError;
use crate::provider::embeddings::Embedder;
use crate::store::{MessageEmbedding, Store};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::timeout;

/// How long a turn waits for the vector of its message.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_millis(250);
/// Passages per request to the endpoint, unless it accepts fewer.
const BATCH_PASSAGES: usize = 64;
/// Messages per lookup in the store.
const LOOKUP_PAGE_SIZE: usize = 1000;
/// Texts are cut at this length, because endpoints limit the tokens of a text.
const MAX_TEXT_CHARS: usize = 2000;
/// How often a text that the endpoint refuses is cut in half before it goes without a vector.
const MAX_TEXT_CUTS: usize = 3;
/// A text that every endpoint accepts.
const PROBE_TEXT: &str = "hello";

pub(super) struct SemanticIndex {
    embedder: Arc<dyn Embedder>,
    store: Arc<dyn Store>,
    /// Sessions whose messages are being embedded.
    in_progress: Mutex<HashSet<SessionId>>,
    /// Passages per request that the endpoint accepts, as far as known.
    batch_size: AtomicUsize,
}

/// Marks a session as being embedded until it is dropped.
struct EmbeddingGuard<'a>(&'a SemanticIndex, SessionId);

impl Drop for EmbeddingGuard<'_> {
    fn drop(&mut self) {
        // Runs on every way out, also when the task is cancelled, so no session stays marked.
        self.0.in_progress.lock().remove(&self.1);
    }
}

impl SemanticIndex {
    pub(super) fn new(embedder: Arc<dyn Embedder>, store: Arc<dyn Store>) -> Self {
        let batch_size = AtomicUsize::new(BATCH_PASSAGES);
        Self { embedder, store, in_progress: Mutex::default(), batch_size }
    }

    /// The vector of a query; `None` if the endpoint fails or takes longer than `max_wait`.
    pub(super) async fn embed_query(
        &self,
        text: &str,
        max_wait: Duration,
    ) -> Option<QuantizedVector> {
        let text = [crate::domain::text::truncate_chars(text, MAX_TEXT_CHARS).to_owned()];
        match timeout(max_wait, self.embedder.embed(&text)).await {
            Ok(Ok(vectors)) => {
                let vector = QuantizedVector::quantize(vectors.first()?);
                Some(vector).filter(|vector| !vector.is_zero())
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "embedding failed; using keyword recall only");
                None
            }
            Err(_) => {
                tracing::debug!("embedding timed out; using keyword recall only");
                None
            }
        }
    }

    /// Loads stored vectors that the index lacks.
    pub(super) async fn load_vectors(
        &self,
        session: &SessionId,
        index: &mut PathIndex,
    ) -> Result<()> {
        let missing = index.missing_vectors(usize::MAX);
        for page in missing.chunks(LOOKUP_PAGE_SIZE) {
            let found = self.store.load_embeddings(session, self.embedder.model(), page).await?;
            index.add_vectors(&found);
            if index.is_full_of_vectors() {
                break;
            }
        }
        Ok(())
    }

    /// Embeds passages that have no vector, batch by batch. Returns at once if another task is
    /// doing so for this session. Locks the entry only between batches, so queries do not wait for
    /// the endpoint.
    pub(super) async fn embed_missing(
        &self,
        session: &SessionId,
        shared: &Weak<SharedIndex>,
    ) -> Result<()> {
        let is_first = self.in_progress.lock().insert(session.clone());
        if !is_first {
            return Ok(());
        }
        let _guard = EmbeddingGuard(self, session.clone());
        loop {
            let Some(entry) = shared.upgrade() else { return Ok(()) };
            let batch = match entry.lock().await.as_ref() {
                Some(index) => index.passage_texts(BATCH_PASSAGES, MAX_TEXT_CHARS),
                None => return Ok(()),
            };
            drop(entry);
            if batch.is_empty() {
                return Ok(());
            }
            let texts: Vec<String> = batch.iter().flat_map(|(_, texts)| texts.clone()).collect();
            let vectors = self.embed_all(&texts).await?;
            let embeddings = build_embeddings(&batch, &vectors);
            // Saved before they are used: what a query has ranked by is never computed twice.
            self.store.save_embeddings(session, self.embedder.model(), &embeddings).await?;
            let Some(entry) = shared.upgrade() else { return Ok(()) };
            let mut cached = entry.lock().await;
            let Some(index) = cached.as_mut() else { return Ok(()) };
            if index.add_vectors(&embeddings) == 0 {
                // The index was switched to another branch meanwhile, or the vectors have another
                // length than the query's. Going on could repeat the same batch forever; the next
                // query starts again.
                return Ok(());
            }
        }
    }

    /// Embeds texts in requests of the size that the endpoint accepts. Endpoints have limits that
    /// they do not publish, so a refused request is halved, and the accepted size remembered. A
    /// single text that is refused gets a vector of zeros, so that it does not stop all others.
    async fn embed_all(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let remembered = self.batch_size.load(Ordering::Relaxed);
        let mut size = remembered;
        let mut vector_length = None;
        let mut vectors: Vec<Vec<f32>> = Vec::with_capacity(texts.len());
        while let Some(rest) = texts.get(vectors.len()..).filter(|rest| !rest.is_empty()) {
            let batch = &rest[..rest.len().min(size)];
            let refusal = match self.embedder.embed(batch).await {
                Ok(embedded) => {
                    vectors.extend(embedded);
                    self.batch_size.store(size, Ordering::Relaxed);
                    continue;
                }
                Err(error) if error.may_be_too_long => error,
                Err(error) => return Err(error.into()),
            };
            let length = match vectors.first().map(Vec::len).or(vector_length) {
                Some(length) => length,
                None => self.probe_vector_length(refusal.clone()).await?,
            };
            vector_length = Some(length);
            if let [text] = batch {
                vectors.push(self.embed_shortened(text, refusal, length).await?);
                // This text was at fault, not the number of texts in the requests before.
                size = remembered;
            } else {
                size = batch.len() / 2;
                tracing::info!(error = %refusal, texts = batch.len(), "embedding request refused, retrying with half the texts");
            }
        }
        Ok(vectors)
    }

    /// The length of the endpoint's vectors. Fails with `refusal` if the endpoint refuses even a
    /// single word: then the size of the request was not the reason, and halving it would only
    /// multiply the requests, for example if the model does not exist.
    async fn probe_vector_length(&self, refusal: ProviderError) -> Result<usize> {
        match self.embedder.embed(&[PROBE_TEXT.to_owned()]).await {
            Ok(vectors) => Ok(vectors.first().map_or(0, Vec::len)),
            Err(_) => Err(refusal.into()),
        }
    }

    /// The vector of the beginning of a text that was refused as a whole; zeros if its beginning is
    /// refused, too.
    async fn embed_shortened(
        &self,
        text: &str,
        mut refusal: ProviderError,
        vector_length: usize,
    ) -> Result<Vec<f32>> {
        let mut chars = text.chars().count();
        for _ in 0..MAX_TEXT_CUTS {
            chars /= 2;
            let beginning = crate::domain::text::truncate_chars(text, chars);
            if beginning.is_empty() {
                break;
            }
            match self.embedder.embed(&[beginning.to_owned()]).await {
                Ok(mut vectors) => return Ok(vectors.pop().unwrap_or_default()),
                Err(error) if error.may_be_too_long => refusal = error,
                Err(error) => return Err(error.into()),
            }
        }
        tracing::warn!(error = %refusal, "embedding of a passage refused, only its words are searched");
        Ok(vec![0.0; vector_length])
    }
}

/// Assigns the vectors, which are in the order of all texts, to their messages.
fn build_embeddings(
    batch: &[(MessageId, Vec<String>)],
    vectors: &[Vec<f32>],
) -> Vec<MessageEmbedding> {
    let mut rest = vectors;
    let of_message = |(message, texts): &(MessageId, Vec<String>)| {
        let (own, others) = rest.split_at(texts.len().min(rest.len()));
        rest = others;
        let bytes =
            own.iter().flat_map(|vector| QuantizedVector::quantize(vector).as_bytes().to_vec());
        MessageEmbedding { message_id: message.clone(), vectors: bytes.collect() }
    };
    batch.iter().map(of_message).collect()
}

impl PathIndex {
    /// Messages with a passage that has no vector, newest first, at most `max_messages`. Empty if
    /// the index has no room for further vectors.
    pub(super) fn missing_vectors(&self, max_messages: usize) -> Vec<MessageId> {
        let missing = self.messages_without_vectors(max_messages);
        missing.into_iter().map(|message| self.messages[message as usize].id.clone()).collect()
    }

    fn messages_without_vectors(&self, max_messages: usize) -> Vec<u32> {
        let mut missing: Vec<u32> = Vec::new();
        if self.is_full_of_vectors() {
            return missing;
        }
        for (at, passage) in self.index.passages().iter().enumerate().rev() {
            let has_vector = self.vectors.get(at).is_some_and(Option::is_some);
            if has_vector || missing.last() == Some(&passage.message_index) {
                continue;
            }
            if missing.len() == max_messages {
                break;
            }
            missing.push(passage.message_index);
        }
        missing
    }

    /// Texts of the passages of the newest messages that have no vector, until there are at least
    /// `min_passages` of them.
    fn passage_texts(
        &self,
        min_passages: usize,
        max_chars: usize,
    ) -> Vec<(MessageId, Vec<String>)> {
        let mut texts = Vec::new();
        let mut count = 0;
        for message in self.messages_without_vectors(min_passages) {
            let text_of = |at: usize| {
                let line = self.render_line(&[u32::try_from(at).unwrap_or(u32::MAX)]);
                crate::domain::text::truncate_chars(line.trim_end(), max_chars).to_owned()
            };
            let own: Vec<String> = self.index.message_passages(message).map(text_of).collect();
            count += own.len();
            texts.push((self.messages[message as usize].id.clone(), own));
            if count >= min_passages {
                break;
            }
        }
        texts
    }

    /// Adds the vectors of messages, and returns how many messages got some. Vectors of a message
    /// are ignored if it is not on the path, or if they do not match its passages or the length of
    /// the query's vectors.
    pub(super) fn add_vectors(&mut self, embeddings: &[MessageEmbedding]) -> usize {
        let mut left: HashMap<&MessageId, &[u8]> = embeddings
            .iter()
            .map(|embedding| (&embedding.message_id, &embedding.vectors[..]))
            .collect();
        let mut added = 0;
        // Once through the messages for all vectors: usually those of the newest ones.
        for message in (0..self.messages.len()).rev() {
            if left.is_empty() {
                break;
            }
            if let Some(bytes) = left.remove(&self.messages[message].id) {
                added += usize::from(self.set_message_vectors(message, bytes));
            }
        }
        added
    }

    fn set_message_vectors(&mut self, message: usize, bytes: &[u8]) -> bool {
        let passages = self.index.message_passages(u32::try_from(message).unwrap_or(u32::MAX));
        if passages.is_empty() || bytes.is_empty() || !bytes.len().is_multiple_of(passages.len()) {
            return false;
        }
        let length = bytes.len() / passages.len();
        if self.vector_length.is_some_and(|known| known != length) || self.is_full_of_vectors() {
            return false;
        }
        for (at, vector) in passages.zip(bytes.chunks(length)) {
            self.set_vector(at, Some(QuantizedVector::from_bytes(vector)));
        }
        true
    }

    /// Cosine similarity of each passage to the query. Empty if most passages have no vector,
    /// because ranking would then favor the few that have one. Vectors of another length than the
    /// query's are dropped: they come from an earlier model of the same name.
    pub(super) fn similarities(&mut self, query: &QuantizedVector) -> Vec<Option<f32>> {
        let length = query.as_bytes().len();
        if self.vector_length != Some(length) {
            self.vector_length = Some(length);
            for at in 0..self.vectors.len() {
                if self.vectors[at].as_ref().is_some_and(|known| known.as_bytes().len() != length) {
                    self.set_vector(at, None);
                }
            }
        }
        let similarity = |at: usize| {
            let vector = self.vectors.get(at)?.as_ref()?;
            query.cosine_similarity(vector)
        };
        let similarities: Vec<_> = (0..self.passage_count()).map(similarity).collect();
        let known = similarities.iter().flatten().count();
        if known * 2 > similarities.len() { similarities } else { Vec::new() }
    }
}
