//! Searching: the words of messages kept in the background, and found.
//!
//! A session says durably how far its words are kept, so this goes on where it was cut off. No turn
//! waits for it: what it writes gives way to everything else.

use super::ChatService;
use crate::domain::principal::AccessLevel;
use crate::domain::search::{
    SearchCursor, SearchMatch, SearchQuery, SearchSnippet, build_snippet, extract_index_words,
};
use crate::domain::{MessageId, Principal, Role, Session, SessionId, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{IndexBacklog, MessageWords, SessionWords};
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often to look for words to keep: what is found is this much behind, and the time it takes.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often deleted words are let go of, which may write the whole index anew, in small steps …
const MERGE_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// … and for how long between two looks, so that new words do not wait.
const MERGE_SLICE: Duration = Duration::from_millis(200);
/// How long the server's end waits for that.
const FINAL_MERGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages whose words are written in one step, so that no step is long.
const MESSAGES_PER_WRITE: usize = 128;
/// Findings that are read at once.
const MAX_CONCURRENT_READS: usize = 8;

/// A finding as it is shown.
#[derive(Debug)]
pub struct ResolvedSearchHit {
    /// The session.
    pub session_id: SessionId,
    /// Its title.
    pub title: String,
    /// The message and who speaks; `None` if the title was found.
    pub message: Option<(MessageId, Role)>,
    /// Where the words stand.
    pub snippet: SearchSnippet,
    /// When the message was written, or the session created.
    pub created_at: Timestamp,
}

impl ChatService {
    /// What holds all terms, the newest first, and where the list goes on if it does.
    pub async fn search_messages(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<(Vec<ResolvedSearchHit>, Option<SearchCursor>)> {
        let mut matches = self.store.search_messages(principal, query).await?;
        if query.role.is_none() {
            matches.extend(self.store.search_titles(principal, query).await?);
        }
        matches.sort_by(|one, other| other.cursor.cmp(&one.cursor));
        let has_more = matches.len() > query.limit as usize;
        matches.truncate(query.limit as usize);
        let next = matches.last().filter(|_| has_more).map(|last| last.cursor.clone());
        let hits = stream::iter(
            matches.into_iter().map(|found| self.resolve_hit(principal, query, found)),
        );
        let hits: Vec<_> = hits.buffered(MAX_CONCURRENT_READS).try_collect().await?;
        Ok((hits.into_iter().flatten().collect(), next))
    }

    /// What was found; `None` if it is gone meanwhile, or no more to be seen.
    async fn resolve_hit(
        &self,
        principal: &Principal,
        query: &SearchQuery,
        found: SearchMatch,
    ) -> Result<Option<ResolvedSearchHit>> {
        let id = SessionId::new_unchecked(found.cursor.session);
        let read = async {
            let session = self.store.get_session(principal, &id, AccessLevel::Participant).await?;
            let Some(message) = found.message else {
                let snippet = build_snippet(&session.title, &query.terms);
                return Ok(ResolvedSearchHit::new(session, None, snippet, found.cursor.at_millis));
            };
            let message = self.store.get_message(principal, &id, &message).await?;
            let snippet = build_snippet(&message.content, &query.terms);
            Ok(ResolvedSearchHit::new(
                session,
                Some((message.id, message.role)),
                snippet,
                found.cursor.at_millis,
            ))
        };
        match read.await {
            Ok(hit) => Ok(Some(hit)),
            Err(Error {
                kind: ErrorKind::SessionNotFound | ErrorKind::MessageNotFound, ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps the words of messages, and lets go of those of deleted ones, until told to stop.
    pub async fn run_indexer(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        let mut is_merging = false;
        let mut merge_checked_at = Instant::now();
        loop {
            let polled = async {
                ticks.tick().await;
                while self.index_next_batch().await? {}
                Ok::<_, Error>(())
            };
            let polled = tokio::select! {
                () = stop.cancelled() => break,
                polled = polled => polled,
            };
            match polled {
                Ok(()) => is_failing = false,
                // Said once: the next look comes soon.
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(error = %error.chain(), "words for searching cannot be kept");
                }
                Err(_) => {}
            }
            if !is_merging && merge_checked_at.elapsed() >= MERGE_INTERVAL {
                is_merging = self.needs_index_merge.swap(false, Ordering::Relaxed);
                merge_checked_at = Instant::now();
                is_merging = is_merging && self.merge_index(true, MERGE_SLICE).await;
            } else if is_merging {
                is_merging = self.merge_index(false, MERGE_SLICE).await;
            }
        }
        if is_merging || self.needs_index_merge.load(Ordering::Relaxed) {
            self.merge_index(true, FINAL_MERGE_TIMEOUT).await;
        }
    }

    /// Lets go of the words of deleted messages, for no longer than this. Whether there is more to do,
    /// which goes on where it was left.
    async fn merge_index(&self, is_begin: bool, max_time: Duration) -> bool {
        let started_at = Instant::now();
        let mut is_begin = is_begin;
        loop {
            match self.store.merge_index(is_begin).await {
                Ok(true) if started_at.elapsed() < max_time => is_begin = false,
                Ok(has_more) => return has_more,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "deleted words stay in the index for now");
                    self.needs_index_merge.store(true, Ordering::Relaxed);
                    return false;
                }
            }
        }
    }

    /// Keeps the words of some messages. Whether there were any.
    pub async fn index_next_batch(&self) -> Result<bool> {
        let mut has_indexed = false;
        let mut batch = Vec::new();
        let mut batch_messages = 0;
        for backlog in self.store.list_index_backlog().await? {
            let words = match self.read_unindexed_words(&backlog).await {
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

    /// The words of a session's next messages, as many as are read at once.
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
        tokio::task::spawn_blocking(words).await.map_err(Error::internal)
    }
}

/// Cut so that each is a step at the most; one without messages stays one.
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

impl ResolvedSearchHit {
    fn new(
        session: Session,
        message: Option<(MessageId, Role)>,
        snippet: SearchSnippet,
        at: i64,
    ) -> Self {
        let created_at = Timestamp::from_millis(at);
        Self { session_id: session.id, title: session.title, message, snippet, created_at }
    }
}
