//! Full-text search in MongoDB: one document per message, with its words as an indexed list.
//!
//! MongoDB's text index matches whole stemmed words only, so it would find other messages than the
//! other stores do. Here a prefix of a word is a range of the index.
//!
//! Words are indexed in the background. A commit that adds messages sets `unindexed` in the
//! session's document, and `indexedSeq` is the seq up to which its words are indexed. Words of an
//! older version are replaced by [`super::search_rebuild`].

use super::MongoStore;
use super::documents::{IdDoc, to_bson_date, to_u32};
use crate::domain::search::{SearchCursor, SearchMatch, SearchQuery, SearchTerm, WordLookup};
use crate::domain::tokenizer::WORDS_VERSION;
use crate::domain::{MessageId, Principal, Session, SessionId};
use crate::error::Result;
use crate::store::{IndexBacklog, MessageWords, SearchStore, SessionWords};
use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageWordsDoc {
    session_id: String,
    seq: i64,
    message_id: String,
    at: DateTime,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TitleHitDoc {
    #[serde(rename = "_id")]
    id: String,
    created_at: DateTime,
}

#[async_trait]
impl SearchStore for MongoStore {
    async fn list_index_backlog(&self) -> Result<Vec<IndexBacklog>> {
        self.find_backlog(doc! { "unindexed": true, "wordsVersion": not_newer() }).await
    }

    async fn list_outdated_index(&self) -> Result<Vec<SessionId>> {
        self.list_outdated_sessions().await
    }

    async fn index_words(&self, words: Vec<SessionWords>) -> Result<()> {
        for words in words {
            self.replace_words(&words).await?;
            self.record_index_progress(&words.session, words.last_seq()).await?;
        }
        Ok(())
    }

    async fn rebuild_words(&self, words: SessionWords, is_last: bool) -> Result<bool> {
        self.rebuild_session_words(&words, is_last).await
    }

    async fn merge_index(&self, _: bool) -> Result<bool> {
        // Entries of deleted documents leave a MongoDB index at once; there is nothing to merge.
        Ok(false)
    }

    async fn search_messages(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<Vec<SearchMatch>> {
        let user = principal.user.as_str();
        // The index is by owner. The few sessions that others share with the user are added by id.
        let guest = doc! { "participants": user, "userId": { "$ne": user } };
        let guest = self.find_session_ids(guest).await?;
        let mut all = vec![match guest.is_empty() {
            true => doc! { "owner": user },
            false => doc! { "$or": [ { "owner": user }, { "sessionId": { "$in": guest } } ] },
        }];
        all.extend(term_filters(&query.terms, "words"));
        if let Some(project) = &query.project_id {
            let ids = self
                .find_session_ids(doc! { "participants": user, "projectId": project.as_str() })
                .await?;
            all.push(doc! { "sessionId": { "$in": ids } });
        }
        if let Some(session) = &query.session_id {
            all.push(doc! { "sessionId": session.as_str() });
        }
        if let Some(role) = query.role {
            all.push(doc! { "role": role.as_str() });
        }
        all.extend(time_filters(query, "at"));
        if let Some(SearchCursor { at_millis, session, seq }) = &query.after {
            let at = DateTime::from_millis(*at_millis);
            all.push(doc! { "$or": [
                { "at": { "$lt": at } },
                { "at": at, "sessionId": { "$lt": session } },
                { "at": at, "sessionId": session, "seq": { "$lt": i64::from(*seq) } },
            ] });
        }
        let found: Vec<MessageWordsDoc> = self
            .collections
            .words
            .clone_with_type()
            .find(doc! { "$and": all })
            .sort(doc! { "at": -1, "sessionId": -1, "seq": -1 })
            .projection(doc! { "words": 0 })
            // One more than asked for, to know whether there is another page.
            .limit(i64::from(query.limit) + 1)
            .await?
            .try_collect()
            .await?;
        let message = |found: MessageWordsDoc| SearchMatch {
            cursor: SearchCursor {
                at_millis: found.at.timestamp_millis(),
                session: found.session_id,
                seq: to_u32(found.seq),
            },
            message: Some(MessageId::new_unchecked(found.message_id)),
        };
        Ok(found.into_iter().map(message).collect())
    }

    async fn search_titles(
        &self,
        principal: &Principal,
        query: &SearchQuery,
    ) -> Result<Vec<SearchMatch>> {
        let mut all = vec![doc! { "participants": principal.user.as_str() }];
        all.extend(title_filters(&query.terms));
        if let Some(project) = &query.project_id {
            all.push(doc! { "projectId": project.as_str() });
        }
        if let Some(session) = &query.session_id {
            all.push(doc! { "_id": session.as_str() });
        }
        all.extend(time_filters(query, "createdAt"));
        if let Some(SearchCursor { at_millis, session, seq }) = &query.after {
            let at = DateTime::from_millis(*at_millis);
            let beyond = if *seq > 0 { "$lte" } else { "$lt" };
            all.push(doc! { "$or": [
                { "createdAt": { "$lt": at } },
                { "createdAt": at, "_id": { beyond: session } },
            ] });
        }
        let found: Vec<TitleHitDoc> = self
            .collections
            .sessions
            .clone_with_type()
            .find(doc! { "$and": all })
            .sort(doc! { "createdAt": -1, "_id": -1 })
            .projection(doc! { "createdAt": 1 })
            .limit(i64::from(query.limit) + 1)
            .await?
            .try_collect()
            .await?;
        let title = |found: TitleHitDoc| SearchMatch {
            cursor: SearchCursor {
                at_millis: found.created_at.timestamp_millis(),
                session: found.id,
                seq: 0,
            },
            message: None,
        };
        Ok(found.into_iter().map(title).collect())
    }
}

impl MongoStore {
    /// Writes the words of some messages. Two instances may index the same ones. Both write the
    /// same words, so each replaces the whole range.
    pub(super) async fn replace_words(&self, words: &SessionWords) -> Result<()> {
        let SessionWords { session, after_seq, messages } = words;
        let id = session.id.as_str();
        // Of a session that is gone: its words are deleted right after.
        let created_revision =
            self.find_content_key(&session.id).await?.map(|key| key.created_revision);
        let seqs = doc! { "$gt": i64::from(*after_seq), "$lte": i64::from(words.last_seq()) };
        let words = &self.collections.words;
        words.delete_many(doc! { "sessionId": id, "seq": seqs }).await?;
        let to_words_document = |message: &MessageWords| {
            doc! {
                "_id": format!("{id}/{}", message.seq),
                "owner": session.owner.as_str(),
                "sessionId": id,
                "born": created_revision,
                "seq": i64::from(message.seq),
                "messageId": message.id.as_str(),
                "role": message.role.as_str(),
                "at": to_bson_date(message.created_at),
                "words": &message.words,
            }
        };
        if !messages.is_empty() {
            let documents: Vec<_> = messages.iter().map(to_words_document).collect();
            match words.insert_many(documents).ordered(false).await {
                Err(error) if !super::errors::is_duplicate_key(&error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Stores up to which message a session is indexed. If it was deleted in the meantime, its
    /// words are deleted, and a new session with its id is indexed again.
    pub(super) async fn record_index_progress(&self, session: &Session, last: u32) -> Result<()> {
        let sessions = &self.collections.sessions;
        let mut current = same_session(session);
        current.insert("wordsVersion", not_newer());
        // The mark is cleared only if no message has been added since the words were read;
        // otherwise the next round continues from `indexedSeq`.
        let mut complete = current.clone();
        complete.insert("messages", i64::from(last));
        let done =
            doc! { "$set": { "indexedSeq": i64::from(last) }, "$unset": { "unindexed": "" } };
        if sessions.update_one(complete, done).await?.matched_count == 1 {
            return Ok(());
        }
        let progress = doc! { "$max": { "indexedSeq": i64::from(last) } };
        if sessions.update_one(current, progress).await?.matched_count == 1 {
            return Ok(());
        }
        if sessions.find_one(same_session(session)).await?.is_some() {
            return Ok(());
        }
        let id = session.id.as_str();
        self.collections.words.delete_many(doc! { "sessionId": id }).await?;
        let restart = doc! { "$set": { "indexedSeq": 0_i64, "unindexed": true } };
        sessions.update_one(doc! { "_id": id }, restart).await?;
        Ok(())
    }

    async fn find_session_ids(&self, filter: Document) -> Result<Vec<String>> {
        let sessions = self.collections.sessions.clone_with_type::<IdDoc>();
        let found = sessions.find(filter).projection(doc! { "_id": 1 });
        let found: Vec<IdDoc> = found.await?.try_collect().await?;
        Ok(found.into_iter().map(|session| session.id).collect())
    }
}

/// The version of words that this instance may add to. A newer instance indexes the sessions that
/// it has made its own.
fn not_newer() -> Document {
    doc! { "$not": { "$gt": i64::from(WORDS_VERSION) } }
}

/// Matches a session, but not another one that got its id after a deletion.
pub(super) fn same_session(session: &Session) -> Document {
    doc! { "_id": session.id.as_str(), "createdAt": to_bson_date(session.created_at) }
}

/// Matches titles with all terms.
pub(super) fn title_filters(terms: &[SearchTerm]) -> Vec<Document> {
    let mut filters = term_filters(terms, "titleWords");
    // The pairs of a run may also occur in other places of a title.
    let runs = terms.iter().filter_map(SearchTerm::unproven_run);
    filters.extend(runs.map(|run| doc! { "titleKey": { "$regex": run } }));
    filters
}

/// Matches documents whose list of index words in `field` has all terms.
fn term_filters(terms: &[SearchTerm], field: &str) -> Vec<Document> {
    let lookups = terms.iter().flat_map(|term| &term.lookups);
    lookups.map(|lookup| doc! { field: lookup_pattern(lookup) }).collect()
}

/// Folded words contain no character with a meaning in patterns, so none is escaped. MongoDB
/// answers an anchored pattern (`^…`) from the index.
fn lookup_pattern(lookup: &WordLookup) -> Bson {
    match lookup.is_prefix {
        true => doc! { "$regex": format!("^{}", lookup.word) }.into(),
        false => lookup.word.as_str().into(),
    }
}

fn time_filters(query: &SearchQuery, at: &str) -> Vec<Document> {
    let from = query.from.map(|from| doc! { at: { "$gte": to_bson_date(from) } });
    let to = query.to.map(|to| doc! { at: { "$lt": to_bson_date(to) } });
    from.into_iter().chain(to).collect()
}
