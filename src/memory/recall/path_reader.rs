//! Reads the messages of a path that its index lacks, and adds them in steps.
//!
//! A turn reads the messages since the last turn. Reading stops at the text that an index has room
//! for. A long path is indexed on the threads for computing, a part at a time, so other users take
//! turns with it, and it ends where its session is deleted.

use super::index_cache::IndexCache;
use super::path_index::{
    IndexedMessage, MAX_INDEX_BYTES, MESSAGE_OVERHEAD_BYTES, PathIndex, PathOverlap,
};
use crate::cpu_pool::run_cpu;
use crate::domain::{MessageId, Role, Session, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{HistoryLimits, HistoryMessage, Store};
use std::ops::Range;

/// Messages per read: small pages first, because usually few messages are new.
const PAGE_SIZES: [u32; 3] = [16, 256, 4096];
/// Tokens per read: about 2 MB of text.
const MAX_PAGE_TOKENS: u32 = 1 << 19;
/// Messages that are read for an index, with their text. Terms take at least as much again.
const MAX_READ_BYTES: usize = MAX_INDEX_BYTES / 2;
/// Paths with more text than this are read one after the other.
const MAX_SMALL_PATH_BYTES: usize = 256 << 10;
/// More new messages, and longer ones, are indexed on a thread for computing.
const MAX_INLINE_MESSAGES: usize = 64;
const MAX_INLINE_BYTES: usize = 32 << 10;

pub(super) struct PathReader<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) session: &'a Session,
    pub(super) cache: &'a IndexCache,
}

impl PathReader<'_> {
    /// Updates an index to the path that ends with `last`. `history` are the newest messages of
    /// that path, newest first, as far as the caller has read them.
    pub(super) async fn extend_index(
        &self,
        index: PathIndex,
        last: &MessageId,
        history: Vec<HistoryMessage>,
    ) -> Result<PathIndex> {
        if index.ends_at(last) {
            return Ok(index);
        }
        let mut newest = history;
        let mut overlap = index.find_overlap(&newest);
        for page_size in PAGE_SIZES {
            if overlap.is_some() {
                break;
            }
            newest = self.read_page(last, page_size).await?;
            overlap = index.find_overlap(&newest);
            if newest.last().is_none_or(|oldest| oldest.parent_id.is_none()) {
                break;
            }
        }
        let mut index = match overlap {
            Some(PathOverlap { kept_messages, new_messages }) => {
                newest.truncate(new_messages);
                self.add_messages(index, kept_messages, newest).await?
            }
            // Nothing in common with the index.
            None => self.index_whole_path(newest).await?,
        };
        index.set_last_message(last.clone());
        Ok(index)
    }

    /// Ids of the messages of the path ending with `last` whose end lies within `path_tokens`,
    /// oldest first, as far as the path can be indexed.
    pub(super) async fn message_ids(
        &self,
        last: &MessageId,
        path_tokens: Range<u64>,
    ) -> Result<Vec<MessageId>> {
        let mut ids = Vec::new();
        let mut bytes = 0;
        let mut next = Some(last.clone());
        while let Some(last) = next.filter(|_| bytes < MAX_READ_BYTES) {
            let page = self.read_page(&last, PAGE_SIZES[PAGE_SIZES.len() - 1]).await?;
            let oldest = page.last();
            next = oldest
                .filter(|oldest| oldest.path_tokens > path_tokens.start)
                .and_then(|oldest| oldest.parent_id.clone());
            bytes += page.len() * MESSAGE_OVERHEAD_BYTES;
            let is_within = |message: &HistoryMessage| {
                message.role != Role::Tool
                    && message.path_tokens > path_tokens.start
                    && message.path_tokens <= path_tokens.end
            };
            ids.extend(page.into_iter().filter(is_within).map(|message| message.id));
        }
        ids.reverse();
        Ok(ids)
    }

    /// Indexes a path of which `newest` are the newest messages.
    async fn index_whole_path(&self, newest: Vec<HistoryMessage>) -> Result<PathIndex> {
        let mut index = PathIndex::default();
        let mut before = newest.last().and_then(|oldest| oldest.parent_id.clone());
        let mut pending = self.prepare_messages(&mut index, newest);
        let mut bytes: usize = pending.iter().map(IndexedMessage::memory_bytes).sum();
        // Bounds the memory of indexes that are being built, which the cache cannot evict.
        let _permit = match before.is_some() || bytes > MAX_SMALL_PATH_BYTES {
            true => Some(self.cache.large_build_permit().await),
            false => None,
        };
        while let Some(last) = before.filter(|_| bytes < MAX_READ_BYTES) {
            let page = self.read_page(&last, PAGE_SIZES[PAGE_SIZES.len() - 1]).await?;
            before = page.last().and_then(|oldest| oldest.parent_id.clone());
            let page = self.prepare_messages(&mut index, page);
            bytes += page.iter().map(IndexedMessage::memory_bytes).sum::<usize>();
            pending.extend(page);
        }
        self.add_pending(index, pending).await
    }

    /// Removes the messages after the first `kept` ones and adds the new ones, newest first.
    async fn add_messages(
        &self,
        mut index: PathIndex,
        kept: usize,
        newest: Vec<HistoryMessage>,
    ) -> Result<PathIndex> {
        let pending = self.prepare_messages(&mut index, newest);
        let bytes: usize = pending.iter().map(IndexedMessage::memory_bytes).sum();
        if pending.len() <= MAX_INLINE_MESSAGES && bytes <= MAX_INLINE_BYTES {
            index.truncate(kept);
        } else {
            index = run_cpu(move || {
                index.truncate(kept);
                index
            })
            .await?;
        }
        self.add_pending(index, pending).await
    }

    async fn add_pending(
        &self,
        mut index: PathIndex,
        mut pending: Vec<IndexedMessage>,
    ) -> Result<PathIndex> {
        let bytes: usize = pending.iter().map(IndexedMessage::memory_bytes).sum();
        if pending.len() <= MAX_INLINE_MESSAGES && bytes <= MAX_INLINE_BYTES {
            index.push_some(&mut pending, MAX_INDEX_BYTES);
        }
        while !pending.is_empty() {
            (index, pending) = run_cpu(move || {
                index.push_some(&mut pending, MAX_INDEX_BYTES);
                (index, pending)
            })
            .await?;
            let waiting = pending.iter().map(IndexedMessage::memory_bytes).sum::<usize>();
            if !self.cache.record_size(&self.session.id, index.memory_bytes() + waiting) {
                return Err(Error::new(ErrorKind::SessionNotFound, "the session was deleted"));
            }
        }
        Ok(index)
    }

    fn prepare_messages(
        &self,
        index: &mut PathIndex,
        messages: Vec<HistoryMessage>,
    ) -> Vec<IndexedMessage> {
        let prepare = |message| index.prepare_message(&self.session.owner, message);
        messages.into_iter().filter_map(prepare).collect()
    }

    /// The newest messages of the path ending with `last`, newest first; empty beyond its root.
    async fn read_page(&self, last: &MessageId, messages: u32) -> Result<Vec<HistoryMessage>> {
        let page = read_tail(self.store, &self.session.id, last, messages, MAX_PAGE_TOKENS).await?;
        if !page.is_empty() {
            return Ok(page);
        }
        // A single message may have more tokens than a page.
        read_tail(self.store, &self.session.id, last, 1, u32::MAX).await
    }
}

async fn read_tail(
    store: &dyn Store,
    session: &SessionId,
    last: &MessageId,
    max_messages: u32,
    max_tokens: u32,
) -> Result<Vec<HistoryMessage>> {
    let limits = HistoryLimits { max_messages, max_tokens, token_overhead: 0, max_part_bytes: 0 };
    store.recent_history(session, last, limits).await
}
