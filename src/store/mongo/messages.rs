//! Messages in MongoDB: posted without a model, and read.

use super::MongoStore;
use super::documents::{LocationDoc, RememberedDoc, number};
use super::pages;
use super::step::{Manner, Step, step};
use crate::domain::node::format_chat_id;
use crate::domain::page::MessageView;
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, MessageId, Principal, Session, SessionId};
use crate::error::{Error, Result};
use crate::store::work::Work;
use crate::store::{
    MessagePage, MessageQuery, MessageStore, PostMessage, Remembered, TailBounds, rules,
};
use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;

#[async_trait]
impl MessageStore for MongoStore {
    async fn post_message(&self, who: &Principal, post: PostMessage) -> Result<(Message, Session)> {
        let post = &post;
        step!(self, |step| rules::post_message(step, who, post).await)
    }

    async fn message(
        &self,
        who: &Principal,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Message> {
        step!(self, Manner::LOOK, |step| {
            let row = rules::get(step, who, session, AccessLevel::Participant).await?;
            let place = step.locate(&row, id).await?.ok_or_else(Error::message_not_found)?;
            step.read_message(&row, place.at).await
        })
    }

    async fn messages(
        &self,
        who: &Principal,
        session: &SessionId,
        query: MessageQuery,
    ) -> Result<MessagePage> {
        let query = &query;
        step!(self, Manner::LOOK, |step| {
            let row = rules::get(step, who, session, AccessLevel::Participant).await?;
            match query.view {
                MessageView::Path => pages::path(step, &row, query).await,
                MessageView::All => pages::whole(step, &row, query).await,
            }
        })
    }

    async fn tail(
        &self,
        session: &SessionId,
        last: &MessageId,
        bounds: TailBounds,
    ) -> Result<Vec<Remembered>> {
        step!(self, Manner::LOOK, |step| tail(step, session, last, bounds).await)
    }
}

/// As many of a node's last messages are read at first: what most windows hold.
const WINDOW: i64 = 96;

/// A node, or its end, as memory reads it.
#[derive(Debug, Deserialize)]
struct TailDoc {
    number: i64,
    prev: LocationDoc,
    count: i64,
    messages: Vec<RememberedDoc>,
}

/// The node that the filter finds: its last messages, or all. Parts are large, so they come only
/// where somebody looks at them.
async fn tail_of(
    step: &mut Step,
    filter: Document,
    most: Option<i64>,
    bounds: TailBounds,
) -> Result<Option<TailDoc>> {
    let messages = match most {
        Some(most) => Bson::from(doc! { "$slice": ["$messages", -most] }),
        None => Bson::from("$messages"),
    };
    let mut pipeline = vec![
        doc! { "$match": filter },
        doc! { "$project": { "number": 1, "prev": 1, "count": 1, "messages": messages } },
    ];
    if bounds.parts == 0 {
        pipeline.push(doc! { "$project": { "messages.parts": 0 } });
    }
    let nodes = step.tables.nodes.clone();
    let mut found: Vec<TailDoc> = step.all(&nodes, pipeline).await?;
    Ok(found.pop())
}

/// Reads node by node, the last one first: what is read does not depend on what lies before.
async fn tail(
    step: &mut Step,
    session: &SessionId,
    last: &MessageId,
    bounds: TailBounds,
) -> Result<Vec<Remembered>> {
    let own = doc! { "sessionId": session.as_str(), "messages.id": last.as_str() };
    let mut node = match tail_of(step, own, Some(WINDOW), bounds).await? {
        Some(node) => node,
        None => {
            // By another name, or committed and not yet carried out: looking at the session does it.
            step.find_session(session).await?.ok_or_else(Error::session_not_found)?;
            let place = step.find_message(session, last).await?;
            let at = place.ok_or_else(Error::message_not_found)?.at;
            let holder = doc! { "_id": format_chat_id(session, at.node) };
            tail_of(step, holder, None, bounds).await?.ok_or_else(Error::message_not_found)?
        }
    };
    let is_last = |message: &RememberedDoc| message.is(last);
    let mut upto = match node.messages.iter().find(|message| is_last(message)) {
        Some(message) => number(message.seq),
        // It lies before what was read of its node.
        None => {
            let holder = doc! { "_id": format_chat_id(session, number(node.number)) };
            node =
                tail_of(step, holder, None, bounds).await?.ok_or_else(Error::message_not_found)?;
            let found = node.messages.iter().find(|message| is_last(message));
            number(found.ok_or_else(Error::message_not_found)?.seq)
        }
    };
    let mut found = Vec::new();
    let (mut room, mut parts_room) = (bounds.tokens, bounds.parts);
    loop {
        let is_whole = node.messages.len() as i64 >= node.count;
        let first = node.messages.first().map_or(0, |message| number(message.seq));
        for mut message in node.messages.into_iter().rev() {
            if number(message.seq) > upto {
                continue;
            }
            let parts = message.keep_parts(parts_room);
            if message.content.is_empty() && parts == 0 {
                continue;
            }
            let size = message.tokens().saturating_add(bounds.overhead);
            if found.len() == bounds.messages as usize || size > room {
                return Ok(found);
            }
            room -= size;
            parts_room -= parts;
            found.push(message.remembered()?);
        }
        let (next, most) = if is_whole {
            let Some(previous) = node.prev.location() else { return Ok(found) };
            upto = previous.seq;
            (previous.node, Some(WINDOW))
        } else {
            upto = upto.min(first - 1);
            (number(node.number), None)
        };
        let next = doc! { "_id": format_chat_id(session, next) };
        node = tail_of(step, next, most, bounds).await?.ok_or_else(Error::message_not_found)?;
    }
}
