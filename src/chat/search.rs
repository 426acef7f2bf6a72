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
        who: &Principal,
        query: &SearchQuery,
    ) -> Result<(Vec<ResolvedSearchHit>, Option<SearchCursor>)> {
        let mut found = self.store.search_messages(who, query).await?;
        if query.role.is_none() {
            found.extend(self.store.search_titles(who, query).await?);
        }
        found.sort_by(|one, other| other.cursor.cmp(&one.cursor));
        let has_more = found.len() > query.limit as usize;
        found.truncate(query.limit as usize);
        let next = found.last().filter(|_| has_more).map(|last| last.cursor.clone());
        let shown =
            stream::iter(found.into_iter().map(|found| self.resolve_hit(who, query, found)));
        let shown: Vec<_> = shown.buffered(MAX_CONCURRENT_READS).try_collect().await?;
        Ok((shown.into_iter().flatten().collect(), next))
    }

    /// What was found; `None` if it is gone meanwhile, or no more to be seen.
    async fn resolve_hit(
        &self,
        who: &Principal,
        query: &SearchQuery,
        found: SearchMatch,
    ) -> Result<Option<ResolvedSearchHit>> {
        let id = SessionId::new_unchecked(found.cursor.session);
        let read = async {
            let session = self.store.get_session(who, &id, AccessLevel::Participant).await?;
            let Some(message) = found.message else {
                let snippet = build_snippet(&session.title, &query.terms);
                return Ok(ResolvedSearchHit::new(session, None, snippet, found.cursor.at_millis));
            };
            let message = self.store.get_message(who, &id, &message).await?;
            let snippet = build_snippet(&message.content, &query.terms);
            Ok(ResolvedSearchHit::new(
                session,
                Some((message.id, message.role)),
                snippet,
                found.cursor.at_millis,
            ))
        };
        match read.await {
            Ok(finding) => Ok(Some(finding)),
            Err(Error {
                kind: ErrorKind::SessionNotFound | ErrorKind::MessageNotFound, ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps the words of messages, and lets go of those of deleted ones, until told to stop.
    pub async fn run_indexer(self: Arc<Self>, stop: CancellationToken) {
        let mut look = interval(POLL_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut fails, mut is_tidying, mut tidied_at) = (false, false, Instant::now());
        loop {
            let looked = async {
                look.tick().await;
                while self.index_next_batch().await? {}
                Ok::<_, Error>(())
            };
            let looked = tokio::select! {
                () = stop.cancelled() => break,
                looked = looked => looked,
            };
            match looked {
                Ok(()) => fails = false,
                // Said once: the next look comes soon.
                Err(error) if !std::mem::replace(&mut fails, true) => {
                    tracing::warn!(error = %error.chain(), "words for searching cannot be kept");
                }
                Err(_) => {}
            }
            if !is_tidying && tidied_at.elapsed() >= MERGE_INTERVAL {
                is_tidying = self.needs_index_merge.swap(false, Ordering::Relaxed);
                tidied_at = Instant::now();
                is_tidying = is_tidying && self.merge_index(true, MERGE_SLICE).await;
            } else if is_tidying {
                is_tidying = self.merge_index(false, MERGE_SLICE).await;
            }
        }
        if is_tidying || self.needs_index_merge.load(Ordering::Relaxed) {
            self.merge_index(true, FINAL_MERGE_TIMEOUT).await;
        }
    }

    /// Lets go of the words of deleted messages, for no longer than this. Whether there is more to do,
    /// which goes on where it was left.
    async fn merge_index(&self, is_begin: bool, patience: Duration) -> bool {
        let begun = Instant::now();
        let mut is_begin = is_begin;
        loop {
            match self.store.merge_index(is_begin).await {
                Ok(true) if begun.elapsed() < patience => is_begin = false,
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
        let (mut has_kept, mut step, mut size) = (false, Vec::new(), 0);
        for unkept in self.store.list_index_backlog().await? {
            let words = match self.read_unindexed_words(&unkept).await {
                Ok(words) => words,
                Err(error) if error.kind == ErrorKind::SessionNotFound => continue,
                Err(error) => return Err(error),
            };
            has_kept |= !words.messages.is_empty();
            for piece in split_into_batches(words) {
                size += piece.messages.len();
                step.push(piece);
                if size >= MESSAGES_PER_WRITE {
                    self.store.index_words(std::mem::take(&mut step)).await?;
                    size = 0;
                }
            }
        }
        if !step.is_empty() {
            self.store.index_words(step).await?;
        }
        Ok(has_kept)
    }

    /// The words of a session's next messages, as many as are read at once.
    async fn read_unindexed_words(&self, unkept: &IndexBacklog) -> Result<SessionWords> {
        let IndexBacklog { session_id, indexed_seq: after } = unkept;
        let after = *after;
        let piece = self.store.read_chunk(&Principal::server(), session_id, after).await?;
        let words = move || {
            let words = piece.messages.into_iter().map(|message| MessageWords {
                words: extract_index_words(&message.content),
                seq: message.seq,
                id: message.id,
                role: message.role,
                created_at: message.created_at,
            });
            SessionWords { messages: words.collect(), session: piece.session, after_seq: after }
        };
        tokio::task::spawn_blocking(words).await.map_err(Error::internal)
    }
}

/// Cut so that each is a step at the most; one without messages stays one.
fn split_into_batches(words: SessionWords) -> Vec<SessionWords> {
    let SessionWords { session, after_seq: mut after, mut messages } = words;
    let mut pieces = Vec::new();
    loop {
        let rest = messages.split_off(messages.len().min(MESSAGES_PER_WRITE));
        let last = messages.last().map_or(after, |message| message.seq);
        pieces.push(SessionWords { session: session.clone(), after_seq: after, messages });
        if rest.is_empty() {
            return pieces;
        }
        (after, messages) = (last, rest);
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
