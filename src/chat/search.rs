//! Search in messages and titles, as the caller may read them now.

use super::ChatService;
use crate::domain::principal::AccessLevel;
use crate::domain::search::{SearchCursor, SearchMatch, SearchQuery, SearchSnippet, build_snippet};
use crate::domain::{MessageId, Principal, Role, Session, SessionId, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use futures::{StreamExt, TryStreamExt, stream};

const MAX_CONCURRENT_READS: usize = 8;
/// Limits the work of one request; the cursor continues after it.
const MAX_SEARCH_ROUNDS: usize = 8;

/// A search hit with the data to show it.
#[derive(Debug)]
pub struct ResolvedSearchHit {
    pub session_id: SessionId,
    pub title: String,
    /// The message and its role; `None` if the title matched.
    pub message: Option<(MessageId, Role)>,
    pub snippet: SearchSnippet,
    /// Time of the message, or of the creation of the session for a title.
    pub created_at: Timestamp,
}

impl ChatService {
    /// Messages and titles that contain all terms, newest first, and the cursor of the next page.
    pub async fn search_messages(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<(Vec<ResolvedSearchHit>, Option<SearchCursor>)> {
        // Not every match of pairs is a hit, so a page reads on until it is full.
        let has_unproven = query.terms.iter().any(|term| term.unproven_run().is_some());
        let max_rounds = if has_unproven { MAX_SEARCH_ROUNDS } else { 1 };
        let mut query = query.clone();
        let mut hits = Vec::new();
        for _ in 0..max_rounds {
            let (found, next) = self.search_page(principal, &query).await?;
            query.limit =
                query.limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            hits.extend(found);
            query.after = next;
            if query.limit == 0 || query.after.is_none() {
                break;
            }
        }
        Ok((hits, query.after))
    }

    /// The hits among the next matches of the index, at most as many as the limit.
    async fn search_page(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<(Vec<ResolvedSearchHit>, Option<SearchCursor>)> {
        let mut matches = self.store.search_messages(principal, query).await?;
        // Titles have no role, so a filter by role excludes them.
        if query.role.is_none() {
            matches.extend(self.store.search_titles(principal, query).await?);
        }
        matches.sort_by(|one, other| other.cursor.cmp(&one.cursor));
        let has_more = matches.len() > query.limit as usize;
        matches.truncate(query.limit as usize);
        // From the unresolved matches: a hit that is gone must not end the list.
        let next = matches.last().filter(|_| has_more).map(|last| last.cursor.clone());
        let hits = stream::iter(
            matches.into_iter().map(|found| self.resolve_hit(principal, query, found)),
        );
        let hits: Vec<_> = hits.buffered(MAX_CONCURRENT_READS).try_collect().await?;
        Ok((hits.into_iter().flatten().collect(), next))
    }

    /// Loads a hit as the caller may read it; `None` if it is gone, no longer accessible, or does
    /// not have the characters of a term next to each other.
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
                return Ok((session, None, snippet));
            };
            let message = self.store.get_message(principal, &id, &message).await?;
            let snippet = build_snippet(&message.content, &query.terms);
            Ok((session, Some((message.id, message.role)), snippet))
        };
        match read.await {
            Ok((session, message, snippet)) => Ok(snippet.map(|snippet| {
                ResolvedSearchHit::new(session, message, snippet, found.cursor.at_millis)
            })),
            Err(Error {
                kind: ErrorKind::SessionNotFound | ErrorKind::MessageNotFound, ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
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
