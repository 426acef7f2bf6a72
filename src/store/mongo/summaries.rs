//! Summaries in MongoDB: one document each, identified by its session and its last message.
//!
//! They can be made again, so they are written outside of the session's transactions. A writer
//! checks afterwards that the session still exists and otherwise deletes what it wrote.

use super::MongoStore;
use super::documents::{MessageLocationDoc, to_u32};
use super::transaction::{MongoTransaction, TransactionMode, transact};
use super::turn_log::with_timeout;
use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use crate::store::stored_values::to_i64;
use crate::store::transaction::MessageLocation;
use crate::store::{PathSummary, SummaryStore};
use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SummaryDoc {
    first_id: String,
    last_id: String,
    last: MessageLocationDoc,
    tokens_before: i64,
    path_tokens: i64,
    text: String,
    model: String,
}

#[async_trait]
impl SummaryStore for MongoStore {
    async fn find_summary(
        &self,
        session: &SessionId,
        up_to: &MessageId,
    ) -> Result<Option<PathSummary>> {
        transact!(self, TransactionMode::READ, |tx| find_newest_summary(tx, session, up_to).await)
    }

    async fn save_summary(&self, session: &SessionId, summary: &PathSummary) -> Result<()> {
        let place = transact!(self, TransactionMode::READ, |tx| {
            tx.load_session(session).await?;
            let place = tx.locate_message(session, &summary.last_message).await?;
            Ok(place.map(|place| (tx.content_key(session), place)))
        })?;
        let Some((key, place)) = place else { return Ok(()) };
        let name =
            doc! { "_id": { "session": key.as_str(), "last": summary.last_message.as_str() } };
        let text = doc! { "$set": {
            "sessionId": key.as_str(),
            "firstId": summary.first_message.as_str(),
            "lastId": summary.last_message.as_str(),
            "last": { "node": i64::from(place.location.node), "seq": i64::from(place.location.seq) },
            "tokensBefore": to_i64(summary.tokens_before),
            "pathTokens": to_i64(summary.path_tokens),
            "text": &summary.text,
            "model": &summary.model,
        } };
        let collection = &self.collections.summaries;
        with_timeout(async { Ok(collection.update_one(name.clone(), text).upsert(true).await?) })
            .await?;
        // After the write: a deletion that ran before it has not seen the new document.
        let exists = transact!(self, TransactionMode::READ, |tx| Ok(tx
            .load_session(session)
            .await?
            .is_some()))?;
        if !exists {
            with_timeout(async { Ok(collection.delete_one(name).await?) }).await?;
        }
        Ok(())
    }
}

/// Finds the summary closest to a message on its path.
async fn find_newest_summary(
    tx: &mut MongoTransaction,
    session: &SessionId,
    up_to: &MessageId,
) -> Result<Option<PathSummary>> {
    let collection = tx.collections.summaries.clone();
    // The usual case, one read by key: the summary ends at the message itself.
    let Some(key) = tx.find_content_key(session).await? else { return Ok(None) };
    let exact = doc! { "_id": { "session": key.as_str(), "last": up_to.as_str() } };
    let exact: Option<SummaryDoc> = tx.find_one(&collection, exact, None).await?;
    if let Some(exact) = exact {
        return Ok(Some(exact.into_summary()));
    }
    let newest_first: Vec<Document> = vec![
        doc! { "$match": { "sessionId": key.as_str() } },
        doc! { "$sort": { "last.seq": -1 } },
    ];
    let all: Vec<SummaryDoc> = tx.run_pipeline(&collection, newest_first).await?;
    if all.is_empty() {
        return Ok(None);
    }
    tx.load_session(session).await?;
    let Some(place) = tx.locate_message(session, up_to).await? else { return Ok(None) };
    let lines = tx.load_node_headers(session).await?;
    let before: HashMap<u32, Option<MessageLocation>> =
        lines.into_iter().map(|line| (line.number, line.prev)).collect();
    // The nodes of the path, each with its last message on the path. A summary of another branch
    // may end in the same node, but later.
    let mut up_to_seq: HashMap<u32, u32> = HashMap::new();
    let mut next = Some(place.location);
    while let Some(at) = next {
        up_to_seq.insert(at.node, at.seq);
        next = before.get(&at.node).copied().flatten();
    }
    let is_on_path = |last: &MessageLocationDoc| {
        up_to_seq.get(&to_u32(last.node)).is_some_and(|up_to| to_u32(last.seq) <= *up_to)
    };
    let found = all.into_iter().find(|summary| is_on_path(&summary.last));
    Ok(found.map(SummaryDoc::into_summary))
}

impl SummaryDoc {
    fn into_summary(self) -> PathSummary {
        PathSummary {
            first_message: MessageId::new_unchecked(self.first_id),
            last_message: MessageId::new_unchecked(self.last_id),
            tokens_before: self.tokens_before.unsigned_abs(),
            path_tokens: self.path_tokens.unsigned_abs(),
            text: self.text,
            model: self.model,
        }
    }
}
