//! Summaries in MongoDB: a document for each, named by its session and its last message.
//!
//! They are written beside the session's steps, for nothing depends on them. One that is written
//! while its session is deleted is taken away by whoever wrote it.

use super::MongoStore;
use super::documents::{LocationDoc, long, number};
use super::log::in_time;
use super::step::{Manner, Step, step};
use crate::domain::{MessageId, SessionId};
use crate::error::Result;
use crate::store::work::Location;
use crate::store::{Summary, SummaryStore};
use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SummaryDoc {
    first_id: String,
    last_id: String,
    last: LocationDoc,
    tokens_before: i64,
    path_tokens: i64,
    text: String,
    model: String,
}

#[async_trait]
impl SummaryStore for MongoStore {
    async fn summary(&self, session: &SessionId, up_to: &MessageId) -> Result<Option<Summary>> {
        step!(self, Manner::LOOK, |step| newest(step, session, up_to).await)
    }

    async fn put_summary(&self, session: &SessionId, summary: &Summary) -> Result<()> {
        let place = step!(self, Manner::LOOK, |step| {
            step.find_session(session).await?;
            step.find_message(session, &summary.last).await
        })?;
        let Some(place) = place else { return Ok(()) };
        let name = doc! { "_id": { "session": session.as_str(), "last": summary.last.as_str() } };
        let text = doc! { "$set": {
            "sessionId": session.as_str(),
            "firstId": summary.first.as_str(),
            "lastId": summary.last.as_str(),
            "last": { "node": i64::from(place.at.node), "seq": i64::from(place.at.seq) },
            "tokensBefore": long(summary.tokens_before),
            "pathTokens": long(summary.path_tokens),
            "text": &summary.text,
            "model": &summary.model,
        } };
        let table = &self.tables.summaries;
        in_time(async { Ok(table.update_one(name.clone(), text).upsert(true).await?) }).await?;
        let is_there =
            step!(self, Manner::LOOK, |step| Ok(step.find_session(session).await?.is_some()))?;
        if !is_there {
            in_time(async { Ok(table.delete_one(name).await?) }).await?;
        }
        Ok(())
    }
}

/// The last summary on the way back from a message.
async fn newest(
    step: &mut Step,
    session: &SessionId,
    up_to: &MessageId,
) -> Result<Option<Summary>> {
    let table = step.tables.summaries.clone();
    let exact = doc! { "_id": { "session": session.as_str(), "last": up_to.as_str() } };
    let exact: Option<SummaryDoc> = step.one(&table, exact, None).await?;
    if let Some(exact) = exact {
        return Ok(Some(exact.summary()));
    }
    let newest_first: Vec<Document> = vec![
        doc! { "$match": { "sessionId": session.as_str() } },
        doc! { "$sort": { "last.seq": -1 } },
    ];
    let all: Vec<SummaryDoc> = step.all(&table, newest_first).await?;
    if all.is_empty() {
        return Ok(None);
    }
    step.find_session(session).await?;
    let Some(place) = step.find_message(session, up_to).await? else { return Ok(None) };
    let lines = step.node_lines(session).await?;
    let before: HashMap<u32, Option<Location>> =
        lines.into_iter().map(|line| (line.number, line.prev)).collect();
    // The path goes through these nodes, up to these messages of them.
    let mut upto: HashMap<u32, u32> = HashMap::new();
    let mut next = Some(place.at);
    while let Some(at) = next {
        upto.insert(at.node, at.seq);
        next = before.get(&at.node).copied().flatten();
    }
    let is_on_path = |last: &LocationDoc| {
        upto.get(&number(last.node)).is_some_and(|upto| number(last.seq) <= *upto)
    };
    let found = all.into_iter().find(|summary| is_on_path(&summary.last));
    Ok(found.map(SummaryDoc::summary))
}

impl SummaryDoc {
    fn summary(self) -> Summary {
        Summary {
            first: MessageId::trusted(self.first_id),
            last: MessageId::trusted(self.last_id),
            tokens_before: self.tokens_before.unsigned_abs(),
            path_tokens: self.path_tokens.unsigned_abs(),
            text: self.text,
            model: self.model,
        }
    }
}
