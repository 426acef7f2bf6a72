//! The tree of a session's messages in MongoDB, node by node.

use super::MongoStore;
use super::documents::{LocationDoc, MessageDoc, ReadMark, document, number};
use super::step::{Manner, Step, step};
use crate::domain::node::format_chat_id;
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::{Error, Result};
use crate::store::work::{Location, NodeLine, SessionRow};
use crate::store::{NewMessage, NodePage, Seen, TreeStore, rules};
use async_trait::async_trait;
use mongodb::bson::doc;
use serde::Deserialize;

#[async_trait]
impl TreeStore for MongoStore {
    async fn move_head(
        &self,
        who: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        step!(self, |step| rules::move_head(step, who, session, message, now).await)
    }

    async fn step_back(
        &self,
        who: &Principal,
        session: &SessionId,
        head: &MessageId,
        now: Timestamp,
    ) -> Result<Option<Session>> {
        step!(self, |step| rules::step_back(step, who, session, head, now).await)
    }

    async fn fork(
        &self,
        who: &Principal,
        session: &SessionId,
        message: &MessageId,
        now: Timestamp,
    ) -> Result<Session> {
        step!(self, Manner::LONG_STEP, |step| {
            rules::fork(step, who, session, message, now).await
        })
    }

    async fn mark_seen(
        &self,
        who: &Principal,
        session: &SessionId,
        up_to: &MessageId,
    ) -> Result<Seen> {
        step!(self, |step| rules::mark_seen(step, who, session, up_to).await)
    }

    async fn nodes(
        &self,
        who: &Principal,
        session: &SessionId,
        first: u32,
        limit: u32,
    ) -> Result<NodePage> {
        step!(self, Manner::LOOK, |step| rules::nodes(step, who, session, first, limit).await)
    }
}

/// A node without its messages.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LineDoc {
    number: i64,
    prev: LocationDoc,
    last_seq: i64,
}

/// A node's messages.
#[derive(Debug, Deserialize)]
struct RunDoc {
    messages: Vec<MessageDoc>,
}

impl Step {
    /// The session's nodes without their messages, by number.
    pub(super) async fn node_lines(&mut self, session: &SessionId) -> Result<Vec<NodeLine>> {
        let pipeline = vec![
            doc! { "$match": { "sessionId": session.as_str() } },
            doc! { "$project": { "number": 1, "prev": 1, "lastSeq": 1 } },
            doc! { "$sort": { "number": 1 } },
        ];
        let nodes = self.tables.nodes.clone();
        let found: Vec<LineDoc> = self.all(&nodes, pipeline).await?;
        let line = |line: LineDoc| NodeLine {
            number: number(line.number),
            prev: line.prev.location(),
            last_seq: number(line.last_seq),
        };
        Ok(found.into_iter().map(line).collect())
    }

    /// The messages of one node up to a place in it, oldest first.
    pub(super) async fn node_run(
        &mut self,
        row: &SessionRow,
        up_to: Location,
    ) -> Result<Vec<(Location, NewMessage)>> {
        let nodes = self.tables.nodes.clone();
        let filter = doc! { "_id": format_chat_id(&row.session.id, up_to.node) };
        let found: Option<RunDoc> = self.one(&nodes, filter, Some(doc! { "messages": 1 })).await?;
        // Between two reads somebody may have deleted it all.
        let node = found.ok_or_else(Error::session_not_found)?;
        let messages = node.messages.into_iter();
        messages
            .map(|message| (Location { seq: number(message.seq), ..up_to }, message))
            .take_while(|(at, _)| at.seq <= up_to.seq)
            .map(|(at, message)| Ok((at, message.into_stored(row)?)))
            .collect()
    }

    /// Writes back how far each user has read.
    pub(super) fn mark_read(&mut self, row: &SessionRow) -> Result<()> {
        let mark = |(user_id, seq): (&String, &u32)| {
            document(&ReadMark { user_id: user_id.clone(), seq: (*seq).into() })
        };
        let marks = row.read_marks.iter().map(mark).collect::<Result<Vec<_>>>()?;
        self.set(doc! { "readMarks": marks });
        Ok(())
    }
}
