//! Recall: which earlier messages of the path belong to the new one.
//!
//! The ranking is in [`super::rank`], above the store, so that stores cannot differ. Each session's
//! path is kept in memory between turns ([`path_index`]), bounded ([`index_cache`]). Where it is not, it is read
//! anew by a task of its own: a turn waits a moment for it and then goes on without, a preview waits
//! until it is there.

mod index_cache;
mod path_index;
mod render;
mod semantic;

pub(super) use render::RecalledMessage;

use super::rank::{QuantizedVector, blend_scores, score_passages};
use super::tokens::TokenVocabulary;
use crate::domain::text::truncate_chars;
use crate::domain::{MessageId, Session, SessionId, Timestamp};
use crate::error::{Error, Result};
use crate::provider::embeddings::Embedder;
use crate::store::{HistoryMessage, Store};
use index_cache::IndexCache;
use path_index::PathIndex;
use semantic::SemanticIndex;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// What all paths together may take, in bytes.
const MAX_CACHE_BYTES: usize = 256 << 20;
/// As much of a message is looked at to find what belongs to it, in characters.
const MAX_QUERY_CHARS: usize = 4_000;

/// What is asked.
pub(super) struct RecallQuery {
    pub(super) session: Session,
    /// The path's last message.
    pub(super) last: MessageId,
    /// The new message.
    pub(super) text: Arc<str>,
    /// The time.
    pub(super) asked_at: Timestamp,
    /// The newest messages of the path, as far as they were read, newest first.
    pub(super) history: Vec<HistoryMessage>,
    /// Where the messages begin that stand verbatim in the prompt, in tokens of the path.
    pub(super) window_start: u64,
    pub(super) available_tokens: u32,
    pub(super) vocabulary: TokenVocabulary,
}

/// Recalls.
pub(super) struct RecallEngine {
    store: Arc<dyn Store>,
    cache: IndexCache,
    tasks: TaskTracker,
    /// What messages mean, where an endpoint tells.
    semantic: Option<SemanticIndex>,
}

impl RecallEngine {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let (shelf, tasks) = (IndexCache::new(MAX_CACHE_BYTES), TaskTracker::new());
        Self { store, cache: shelf, tasks, semantic: None }
    }

    /// The same, with an endpoint that makes vectors of texts.
    pub(super) fn with_embedder(self, embedder: Arc<dyn Embedder>) -> Self {
        let meaning = Some(SemanticIndex::new(embedder, self.store.clone()));
        Self { semantic: meaning, ..self }
    }

    /// The messages that belong to the new one, in the path's order, within the room. `None` if that
    /// cannot be told within `patience`; what is read meanwhile is kept for the next time.
    pub(super) async fn search(
        self: &Arc<Self>,
        asked: RecallQuery,
        patience: Option<Duration>,
    ) -> Result<Option<Vec<RecalledMessage>>> {
        let recall = self.clone();
        let is_patient = patience.is_none();
        let task = self.tasks.spawn(async move { recall.search_path(asked, is_patient).await });
        // The vector of the message comes over the network.
        let more = if self.semantic.is_some() { semantic::QUERY_TIMEOUT } else { Duration::ZERO };
        let patience = patience.map(|patience| patience + more);
        let found = match patience {
            None => task.await,
            Some(patience) => match timeout(patience, task).await {
                Ok(found) => found,
                Err(_) => return Ok(None),
            },
        };
        found.map_err(Error::internal)?.map(Some)
    }

    /// The messages of the path that ends with `last` that end within these tokens of it, oldest
    /// first. Reads what is not kept.
    pub(super) async fn message_ids(
        &self,
        session: &Session,
        last: &MessageId,
        tokens: Range<u64>,
    ) -> Result<Vec<MessageId>> {
        let kept = PathIndex::default().extend_to(&*self.store, session, last, Vec::new()).await?;
        let within = kept.count_before(tokens.start)..kept.count_before(tokens.end);
        let within = within.start as usize..within.end as usize;
        Ok(kept.messages[within].iter().map(|message| message.id.clone()).collect())
    }

    /// Forgets a session that was deleted.
    pub(super) fn forget_session(&self, session: &SessionId) {
        self.cache.remove_session(session);
    }

    /// How many sessions are kept, and about how many bytes they take.
    pub(super) fn cache_stats(&self) -> (usize, usize) {
        self.cache.stats()
    }

    async fn search_path(
        self: &Arc<Self>,
        asked: RecallQuery,
        is_patient: bool,
    ) -> Result<Vec<RecalledMessage>> {
        let (vector, followed) = tokio::join!(
            self.embed_query(&asked.text, is_patient),
            self.refresh_index(&asked, is_patient)
        );
        followed?;
        let RecallQuery {
            session,
            text,
            asked_at: at,
            window_start: before,
            available_tokens: room,
            vocabulary,
            ..
        } = asked;
        let slot = self.cache.entry(&session.id);
        let mut place = slot.lock().await;
        // Somebody who asked about another branch may have been here in between: then that one's
        // messages are kept now, and nothing is recalled rather than something of theirs.
        let Some(kept) = place.as_mut().filter(|kept| kept.ends_at(&asked.last)) else {
            return Ok(Vec::new());
        };
        let near = vector.map_or_else(Vec::new, |vector| kept.similarities(&vector));
        let ranked = rank_passages(kept, &text, &near, before);
        let found = render::select_within_budget(kept, &ranked, at, room, vocabulary);
        self.cache.record_size(&session.id, kept.memory_bytes());
        Ok(found)
    }

    /// The vector of a new message, if there is an endpoint that gives it in time.
    async fn embed_query(&self, text: &str, is_patient: bool) -> Option<QuantizedVector> {
        let patience = if is_patient { Duration::from_secs(60) } else { semantic::QUERY_TIMEOUT };
        self.semantic.as_ref()?.embed_query(text, patience).await
    }

    /// Brings what is kept of the session to the path that is asked about.
    async fn refresh_index(self: &Arc<Self>, asked: &RecallQuery, is_patient: bool) -> Result<()> {
        let RecallQuery { session, last, history: read, .. } = asked;
        let slot = self.cache.entry(&session.id);
        {
            // One at a time works with a session's path; it may have to read all of it first.
            let mut place = slot.lock().await;
            let kept = place.take().unwrap_or_default();
            let mut kept = match kept.extend_to(&*self.store, session, last, read.clone()).await {
                Ok(kept) => kept,
                Err(error) => {
                    self.cache.remove_session(&session.id);
                    return Err(error);
                }
            };
            if let Some(meaning) = &self.semantic {
                meaning.load_vectors(&session.id, &mut kept).await?;
            }
            *place = Some(kept);
        }
        let (recall, id) = (self.clone(), session.id.clone());
        let make = async move {
            let Some(meaning) = &recall.semantic else { return };
            if let Err(error) = meaning.embed_missing(&id, &slot).await {
                tracing::warn!(session.id = %id, error = %error.chain(), "messages could not be embedded");
            }
        };
        match (self.semantic.is_some(), is_patient) {
            (false, _) => {}
            (true, true) => make.await,
            (true, false) => drop(self.tasks.spawn(make)),
        }
        Ok(())
    }
}

/// The passages before a place of the path that belong to a text, the best first.
fn rank_passages(
    kept: &PathIndex,
    text: &str,
    near: &[Option<f32>],
    before: u64,
) -> Vec<(u32, f32)> {
    let messages = kept.count_before(before);
    let mut scores = score_passages(&kept.index, truncate_chars(text, MAX_QUERY_CHARS));
    blend_scores(&mut scores, near);
    let passages = kept.index.passages().iter().zip(scores).enumerate();
    let mut ranked: Vec<(u32, f32)> = passages
        .filter(|(_, (passage, score))| passage.message_index < messages && *score > 0.0)
        .map(|(at, (_, score))| (u32::try_from(at).unwrap_or(u32::MAX), score))
        .collect();
    // Of equals the older one comes first: the order is the same on every instance.
    ranked.sort_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then(a.cmp(b)));
    ranked
}
