//! Recall finds the earlier messages of the path that are relevant to the new one.
//!
//! Ranking is in [`super::rank`], independent of the store, so all stores give the same results.
//! The index of each session's path is cached between turns ([`path_index`], [`index_cache`]). A
//! task of its own builds a missing index: a turn waits briefly and then continues without recall,
//! a preview waits until the index is complete.

mod index_cache;
mod path_index;
mod path_reader;
mod render;
mod semantic;

pub(super) use render::RecalledMessage;

use super::rank::{QuantizedVector, blend_scores, merge_repeats, score_passages};
use crate::cpu_pool::run_cpu;
use crate::domain::model::TokenVocabulary;
use crate::domain::text::truncate_chars;
use crate::domain::{MessageId, Session, SessionId, Timestamp};
use crate::error::{Error, Result};
use crate::fair_pool::inherit_owner;
use crate::provider::embeddings::Embedder;
use crate::store::{HistoryMessage, Store};
use index_cache::{IndexCache, SharedIndex};
use path_index::PathIndex;
use path_reader::PathReader;
use semantic::SemanticIndex;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// Upper bound of the memory that all indexes take together.
const MAX_CACHE_BYTES: usize = 256 << 20;
/// Characters of the new message that are searched for.
const MAX_QUERY_CHARS: usize = 4_000;
/// Larger indexes are searched on a thread for computing; up to here it takes about a millisecond.
const MAX_INLINE_PASSAGES: usize = 2_000;
/// How often a search is tried again that got a thread while another query had the index.
const MAX_LOCK_ATTEMPTS: usize = 4;

pub(super) struct RecallQuery {
    pub(super) session: Session,
    /// The path's last message.
    pub(super) last: MessageId,
    /// The new message.
    pub(super) text: Arc<str>,
    /// The time that the prompt states as the current day.
    pub(super) asked_at: Timestamp,
    /// The newest messages of the path that were already read, newest first.
    pub(super) history: Vec<HistoryMessage>,
    /// Start of the window in tokens of the path. Messages of the window are not recalled.
    pub(super) window_start: u64,
    pub(super) available_tokens: u32,
    pub(super) vocabulary: TokenVocabulary,
}

pub(super) struct RecallEngine {
    store: Arc<dyn Store>,
    cache: IndexCache,
    tasks: TaskTracker,
    /// `None` without an embeddings endpoint: then words alone decide.
    semantic: Option<SemanticIndex>,
}

impl RecallEngine {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let cache = IndexCache::new(MAX_CACHE_BYTES);
        Self { store, cache, tasks: TaskTracker::new(), semantic: None }
    }

    /// Adds semantic ranking by embeddings.
    pub(super) fn with_embedder(self, embedder: Arc<dyn Embedder>) -> Self {
        let semantic = Some(SemanticIndex::new(embedder, self.store.clone()));
        Self { semantic, ..self }
    }

    /// Finds relevant messages, in the order of the path, within `query.available_tokens`. `None`
    /// if that takes longer than `max_wait`, to which the time for embedding the query is added.
    pub(super) async fn search(
        self: &Arc<Self>,
        query: RecallQuery,
        max_wait: Option<Duration>,
    ) -> Result<Option<Vec<RecalledMessage>>> {
        let engine = self.clone();
        let waits = max_wait.is_none();
        // A task of its own outlives the timeout, so an index that takes long to build is there for
        // the next turn.
        let task =
            self.tasks.spawn(inherit_owner(async move { engine.search_path(query, waits).await }));
        let Some(max_wait) = max_wait else {
            return task.await.map_err(Error::internal)?.map(Some);
        };
        // The query is embedded over the network, which takes longer than searching in memory.
        let embedding =
            if self.semantic.is_some() { semantic::QUERY_TIMEOUT } else { Duration::ZERO };
        match timeout(max_wait + embedding, task).await {
            Ok(found) => found.map_err(Error::internal)?.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Ids of the messages of the path ending with `last` whose end lies within `path_tokens`,
    /// oldest first. Reads the path, not the cache.
    pub(super) async fn message_ids(
        &self,
        session: &Session,
        last: &MessageId,
        path_tokens: Range<u64>,
    ) -> Result<Vec<MessageId>> {
        self.read_path(session).message_ids(last, path_tokens).await
    }

    /// Drops the index of a deleted session.
    pub(super) fn forget_session(&self, session: &SessionId) {
        self.cache.remove_session(session);
    }

    /// Number of cached sessions, and their approximate size in bytes.
    pub(super) fn cache_stats(&self) -> (usize, usize) {
        self.cache.stats()
    }

    /// Searches the path. With `waits`, missing embeddings are computed first.
    async fn search_path(
        self: &Arc<Self>,
        query: RecallQuery,
        waits: bool,
    ) -> Result<Vec<RecalledMessage>> {
        let (vector, refreshed) =
            tokio::join!(self.embed_query(&query.text, waits), self.refresh_index(&query, waits));
        refreshed?;
        let entry = self.cache.entry(&query.session.id);
        let passages = entry.lock().await.as_ref().map_or(0, PathIndex::passage_count);
        if passages <= MAX_INLINE_PASSAGES {
            let mut index = entry.lock().await;
            return Ok(self.select_messages(index.as_mut(), &query, vector.as_ref()));
        }
        // While the search waits for a thread, the index may be evicted: the memory of the indexes
        // does not grow with the number of waiting searches.
        let weak = Arc::downgrade(&entry);
        drop(entry);
        let engine = self.clone();
        let query = Arc::new(query);
        for _ in 0..MAX_LOCK_ATTEMPTS {
            let Some(entry) = weak.upgrade() else { break };
            drop(entry.lock().await);
            drop(entry);
            let (engine, query, vector) = (engine.clone(), query.clone(), vector.clone());
            let weak = weak.clone();
            let select = move || {
                let entry: Arc<SharedIndex> = weak.upgrade()?;
                let mut index = entry.try_lock().ok()?;
                Some(engine.select_messages(index.as_mut(), &query, vector.as_ref()))
            };
            if let Some(selected) = run_cpu(select).await? {
                return Ok(selected);
            }
        }
        Ok(Vec::new())
    }

    /// Searches an index, and renders what is found.
    fn select_messages(
        &self,
        index: Option<&mut PathIndex>,
        query: &RecallQuery,
        vector: Option<&QuantizedVector>,
    ) -> Vec<RecalledMessage> {
        // The lock was released after the refresh, so a query on another branch may have moved the
        // index to that branch. Recall nothing then, rather than messages of another branch.
        let Some(index) = index.filter(|index| index.ends_at(&query.last)) else {
            return Vec::new();
        };
        let similarities = vector.map_or_else(Vec::new, |vector| index.similarities(vector));
        let ranked = rank_passages(index, &query.text, &similarities, query.window_start);
        let recalled = render::select_within_budget(
            index,
            &ranked,
            query.asked_at,
            query.available_tokens,
            query.vocabulary,
        );
        self.cache.record_size(&query.session.id, index.memory_bytes());
        recalled
    }

    fn read_path<'a>(&'a self, session: &'a Session) -> PathReader<'a> {
        PathReader { store: &*self.store, session, cache: &self.cache }
    }

    /// The vector of the new message; `None` without an endpoint, or if it fails or is too slow.
    async fn embed_query(&self, text: &str, waits: bool) -> Option<QuantizedVector> {
        let timeout = if waits { Duration::from_secs(60) } else { semantic::QUERY_TIMEOUT };
        self.semantic.as_ref()?.embed_query(text, timeout).await
    }

    /// Updates the session's index to the path of the query and starts embedding new messages.
    async fn refresh_index(self: &Arc<Self>, query: &RecallQuery, waits: bool) -> Result<()> {
        let RecallQuery { session, last, history, .. } = query;
        let entry = self.cache.entry(&session.id);
        {
            // Held across reads from the store: two refreshes of one session would read the same
            // messages and overwrite each other's index. Other sessions have locks of their own.
            let mut cached = entry.lock().await;
            // Taken out, so that a failure or a cancelled task leaves an empty entry, which the
            // next query rebuilds, and never a half-updated index.
            let index = cached.take().unwrap_or_default();
            let reader = self.read_path(session);
            let refreshed = reader.extend_index(index, last, history.clone()).await;
            let mut index = match refreshed {
                Ok(index) => index,
                Err(error) => {
                    self.cache.remove_session(&session.id);
                    return Err(error);
                }
            };
            if let Some(semantic) = &self.semantic {
                semantic.load_vectors(&session.id, &mut index).await?;
            }
            self.cache.record_size(&session.id, index.memory_bytes());
            *cached = Some(index);
        }
        let engine = self.clone();
        let id = session.id.clone();
        // Embedding takes long, and must not keep the index from being evicted.
        let index: Weak<SharedIndex> = Arc::downgrade(&entry);
        drop(entry);
        let embed = async move {
            let Some(semantic) = &engine.semantic else { return };
            if let Err(error) = semantic.embed_missing(&id, &index).await {
                tracing::warn!(session.id = %id, error = %error.chain(), "embedding messages failed");
            }
        };
        match (self.semantic.is_some(), waits) {
            (false, _) => {}
            (true, true) => embed.await,
            (true, false) => drop(self.tasks.spawn(embed)),
        }
        Ok(())
    }
}

/// Passages that end before `window_start` and have a score, best first, without repetitions.
fn rank_passages(
    path: &PathIndex,
    text: &str,
    similarities: &[Option<f32>],
    window_start: u64,
) -> Vec<(u32, f32)> {
    let messages = path.count_before(window_start);
    let mut scores = score_passages(&path.index, truncate_chars(text, MAX_QUERY_CHARS));
    blend_scores(&mut scores, similarities);
    let passages = path.index.passages().iter().zip(scores).enumerate();
    let mut ranked: Vec<(u32, f32)> = passages
        .filter(|(_, (passage, score))| passage.message_index < messages && *score > 0.0)
        .map(|(at, (_, score))| (u32::try_from(at).unwrap_or(u32::MAX), score))
        .collect();
    // Ties go to the older passage, so the order is the same on every instance.
    ranked.sort_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then(a.cmp(b)));
    let window = path.index.message_passages(messages).start..path.index.passages().len();
    merge_repeats(&path.index, &ranked, window)
}
