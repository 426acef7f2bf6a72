//! Summaries in MongoDB: a document for each, named by its session and its last message.
//!
//! They are written beside the session's steps, for nothing depends on them. One that is written
//! while its session is deleted is taken away by whoever wrote it.

use super::MongoStore;
use super::documents::{MessageLocationDoc, to_i64, to_u32};
use super::transaction::{MongoTransaction, TransactionMode, transact};
use super::turn_log::with_timeout;
use crate::domain::{MessageId, SessionId};
use crate::error::Result;
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
        transact!(self, TransactionMode::READ, |step| find_newest_summary(step, session, up_to)
            .await)
    }

    async fn save_summary(&self, session: &SessionId, summary: &PathSummary) -> Result<()> {
        let place = transact!(self, TransactionMode::READ, |step| {
            step.load_session(session).await?;
            step.locate_message(session, &summary.last_message).await
        })?;
        let Some(place) = place else { return Ok(()) };
        let name =
            doc! { "_id": { "session": session.as_str(), "last": summary.last_message.as_str() } };
        let text = doc! { "$set": {
            "sessionId": session.as_str(),
            "firstId": summary.first_message.as_str(),
            "lastId": summary.last_message.as_str(),
            "last": { "node": i64::from(place.location.node), "seq": i64::from(place.location.seq) },
            "tokensBefore": to_i64(summary.tokens_before),
            "pathTokens": to_i64(summary.path_tokens),
            "text": &summary.text,
            "model": &summary.model,
        } };
        let table = &self.collections.summaries;
        with_timeout(async { Ok(table.update_one(name.clone(), text).upsert(true).await?) })
            .await?;
        let is_there = transact!(self, TransactionMode::READ, |step| Ok(step
            .load_session(session)
            .await?
            .is_some()))?;
        if !is_there {
            with_timeout(async { Ok(table.delete_one(name).await?) }).await?;
        }
        Ok(())
    }
}

/// The last summary on the way back from a message.
async fn find_newest_summary(
    step: &mut MongoTransaction,
    session: &SessionId,
    up_to: &MessageId,
) -> Result<Option<PathSummary>> {
    let table = step.collections.summaries.clone();
    let exact = doc! { "_id": { "session": session.as_str(), "last": up_to.as_str() } };
    let exact: Option<SummaryDoc> = step.find_one(&table, exact, None).await?;
    if let Some(exact) = exact {
        return Ok(Some(exact.into_summary()));
    }
    let newest_first: Vec<Document> = vec![
        doc! { "$match": { "sessionId": session.as_str() } },
        doc! { "$sort": { "last.seq": -1 } },
    ];
    let all: Vec<SummaryDoc> = step.run_pipeline(&table, newest_first).await?;
    if all.is_empty() {
        return Ok(None);
    }
    step.load_session(session).await?;
    let Some(place) = step.locate_message(session, up_to).await? else { return Ok(None) };
    let lines = step.load_node_headers(session).await?;
    let before: HashMap<u32, Option<MessageLocation>> =
        lines.into_iter().map(|line| (line.number, line.prev)).collect();
    // The path goes through these nodes, up to these messages of them.
    let mut upto: HashMap<u32, u32> = HashMap::new();
    let mut next = Some(place.location);
    while let Some(at) = next {
        upto.insert(at.node, at.seq);
        next = before.get(&at.node).copied().flatten();
    }
    let is_on_path = |last: &MessageLocationDoc| {
        upto.get(&to_u32(last.node)).is_some_and(|upto| to_u32(last.seq) <= *upto)
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
