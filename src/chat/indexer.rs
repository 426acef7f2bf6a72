//! The background task that maintains the search index.
//!
//! Each session durably records how far it is indexed, so indexing resumes after a restart. Turns
//! never wait for it: index writes yield to all other writes.

use super::ChatService;

use crate::cpu_pool::run_cpu;
use crate::domain::search::extract_index_words;
use crate::domain::{Principal, SessionId};
use crate::error::{ErrorKind, Result};
use crate::store::{IndexBacklog, MessageWords, SessionWords};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// A message can be found this long after it was stored, plus the time to index it.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often the index is merged to remove deleted words. A merge may rewrite the whole index, so
/// it runs in small steps.
const MERGE_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Time that merging may take between two polls, so that new messages are not delayed.
const MERGE_SLICE: Duration = Duration::from_millis(200);
/// How long shutdown spends on a pending merge.
const FINAL_MERGE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long shutdown spends on the content of deleted sessions. The next start goes on with it.
const FINAL_SWEEP_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between checks for sessions with outdated words after the rebuild is done. On MongoDB an
/// instance of an older version may add some during an upgrade, or one may stop in the middle.
const OUTDATED_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Limits the size of one transaction.
const MESSAGES_PER_WRITE: usize = 128;

impl ChatService {
    /// Indexes new messages and removes deleted words until `stop` is cancelled.
    pub async fn run_indexer(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        let mut is_merging = false;
        let mut merge_checked_at = Instant::now();
        let mut check_outdated_at = Instant::now();
        loop {
            let polled = async {
                ticks.tick().await;
                let indexed = self.index_new_messages().await;
                if Instant::now() >= check_outdated_at && !self.reindex_next_batch().await? {
                    check_outdated_at = Instant::now() + OUTDATED_CHECK_INTERVAL;
                }
                indexed
            };
            let polled = tokio::select! {
                () = stop.cancelled() => break,
                polled = polled => polled,
            };
            match polled {
                Ok(()) => is_failing = false,
                // Logged once per outage: the next poll follows soon.
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(error = %error.chain(), "search indexing failed, retrying");
                }
                Err(_) => {}
            }
            if !is_merging && merge_checked_at.elapsed() >= MERGE_INTERVAL {
                // Reset before merging: a deletion during the merge sets it again.
                is_merging = self.needs_index_merge.swap(false, Ordering::Relaxed);
                merge_checked_at = Instant::now();
                is_merging = is_merging && self.merge_index(true, MERGE_SLICE).await;
            } else if is_merging {
                is_merging = self.merge_index(false, MERGE_SLICE).await;
            }
        }
        // Deleted text should not stay in the database file longer than necessary, so a pending
        // sweep and merge are tried again.
        let sweep_ends_at = Instant::now() + FINAL_SWEEP_TIMEOUT;
        while Instant::now() < sweep_ends_at && matches!(self.store.sweep_remains().await, Ok(true))
        {
            self.needs_index_merge.store(true, Ordering::Relaxed);
        }
        if is_merging || self.needs_index_merge.load(Ordering::Relaxed) {
            self.merge_index(true, FINAL_MERGE_TIMEOUT).await;
        }
    }

    /// Runs merge steps for at most `max_time`. Returns whether steps are left; the next call
    /// continues there.
    async fn merge_index(&self, is_begin: bool, max_time: Duration) -> bool {
        let started_at = Instant::now();
        let mut is_begin = is_begin;
        loop {
            match self.store.merge_index(is_begin).await {
                Ok(true) if started_at.elapsed() < max_time => is_begin = false,
                Ok(has_more) => return has_more,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "merging the search index failed, retrying later");
                    self.needs_index_merge.store(true, Ordering::Relaxed);
                    return false;
                }
            }
        }
    }

    /// Indexes the next messages. Returns whether there were any.
    pub async fn index_next_batch(&self) -> Result<bool> {
        let backlog = self.store.list_index_backlog().await?;
        self.index_backlog(&backlog).await
    }

    async fn index_new_messages(&self) -> Result<()> {
        while self.index_next_batch().await? {}
        Ok(())
    }

    /// Indexes some sessions again whose words an older version made. Returns whether there were
    /// any.
    pub async fn reindex_next_batch(&self) -> Result<bool> {
        let outdated = self.store.list_outdated_index().await?;
        let mut done = Ok(());
        for session in &outdated {
            let rebuilt = self.reindex_session(session).await;
            done = done.and(rebuilt);
        }
        if !outdated.is_empty() {
            // The replaced words take space until then.
            self.needs_index_merge.store(true, Ordering::Relaxed);
        }
        done.map(|()| !outdated.is_empty())
    }

    /// Replaces the words of all messages of a session. If this is interrupted, it begins again.
    async fn reindex_session(&self, session_id: &SessionId) -> Result<()> {
        let mut next = IndexBacklog { session_id: session_id.clone(), indexed_seq: 0 };
        loop {
            // New messages do not wait for old ones. Errors are reported by the next poll.
            let _ = self.index_new_messages().await;
            let words = match self.read_unindexed_words(&next).await {
                Err(error) if error.kind == ErrorKind::SessionNotFound => return Ok(()),
                words => words?,
            };
            let messages = words.session.messages_count;
            next.indexed_seq = words.last_seq();
            let is_end = words.messages.is_empty() || next.indexed_seq >= messages;
            for part in split_into_batches(words) {
                let is_last = is_end && part.last_seq() == next.indexed_seq;
                if !self.store.rebuild_words(part, is_last).await? {
                    return Ok(());
                }
            }
            if is_end {
                return Ok(());
            }
        }
    }

    /// Indexes the next messages of some sessions. Returns whether there were any messages.
    async fn index_backlog(&self, backlog: &[IndexBacklog]) -> Result<bool> {
        let failed = match self.index_together(backlog).await {
            Err(error) => error,
            done => return done,
        };
        // One by one, so that a session that cannot be indexed does not stop the others.
        let mut has_indexed = false;
        for session in backlog {
            match self.index_together(std::slice::from_ref(session)).await {
                Ok(has_messages) => has_indexed |= has_messages,
                Err(error) => tracing::debug!(
                    session = %session.session_id, error = %error.chain(), "a session is not indexed"
                ),
            }
        }
        // Reported once the others are indexed.
        if has_indexed { Ok(true) } else { Err(failed) }
    }

    /// Indexes the next messages of some sessions in as few transactions as possible.
    async fn index_together(&self, backlog: &[IndexBacklog]) -> Result<bool> {
        let mut has_indexed = false;
        let mut batch = Vec::new();
        let mut batch_messages = 0;
        for backlog in backlog {
            let words = match self.read_unindexed_words(backlog).await {
                Ok(words) => words,
                Err(error) if error.kind == ErrorKind::SessionNotFound => continue,
                Err(error) => return Err(error),
            };
            has_indexed |= !words.messages.is_empty();
            for part in split_into_batches(words) {
                batch_messages += part.messages.len();
                batch.push(part);
                if batch_messages >= MESSAGES_PER_WRITE {
                    self.store.index_words(std::mem::take(&mut batch)).await?;
                    batch_messages = 0;
                }
            }
        }
        if !batch.is_empty() {
            self.store.index_words(batch).await?;
        }
        Ok(has_indexed)
    }

    /// The index words of the next chunk of a session's messages.
    async fn read_unindexed_words(&self, backlog: &IndexBacklog) -> Result<SessionWords> {
        let IndexBacklog { session_id, indexed_seq: after } = backlog;
        let after = *after;
        let chunk = self.store.read_chunk(&Principal::server(), session_id, after).await?;
        let words = move || {
            let words = chunk.messages.into_iter().map(|message| MessageWords {
                words: extract_index_words(&message.content),
                seq: message.seq,
                id: message.id,
                role: message.role,
                created_at: message.created_at,
            });
            SessionWords { messages: words.collect(), session: chunk.session, after_seq: after }
        };
        // Splitting up to a mebibyte of text takes CPU time.
        run_cpu(words).await
    }
}

/// Splits into batches of at most [`MESSAGES_PER_WRITE`] messages. Returns one empty batch if there
/// are no messages.
fn split_into_batches(words: SessionWords) -> Vec<SessionWords> {
    let SessionWords { session, after_seq: mut after, mut messages } = words;
    let mut batches = Vec::new();
    loop {
        let rest = messages.split_off(messages.len().min(MESSAGES_PER_WRITE));
        let last = messages.last().map_or(after, |message| message.seq);
        batches.push(SessionWords { session: session.clone(), after_seq: after, messages });
        if rest.is_empty() {
            return batches;
        }
        after = last;
        messages = rest;
    }
}
