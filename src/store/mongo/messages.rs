//! Messages in MongoDB: posted without a model, and read.

use super::MongoStore;
use super::documents::{LocationDoc, RememberedDoc, number};
use super::pages;
use super::step::{Step, read, step};
use crate::domain::node::chat_id;
use crate::domain::page::View;
use crate::domain::principal::Access;
use crate::domain::{Message, MessageId, Principal, Session, SessionId};
use crate::error::{Error, Result};
use crate::store::work::Work;
use crate::store::{
    MessagePage, MessageQuery, MessageStore, PostMessage, Remembered, TailBounds, rules,
};
use async_trait::async_trait;
use mongodb::bson::{Document, doc};
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
        read!(self, |step| {
            let row = rules::get(step, who, session, Access::Participate).await?;
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
        read!(self, |step| {
            let row = rules::get(step, who, session, Access::Participate).await?;
            match query.view {
                View::Path => pages::path(step, &row, query).await,
                View::All => pages::whole(step, &row, query).await,
            }
        })
    }

    async fn tail(
        &self,
        session: &SessionId,
        last: &MessageId,
        bounds: TailBounds,
    ) -> Result<Vec<Remembered>> {
        read!(self, |step| tail(step, session, last, bounds).await)
    }
}

/// A node as memory reads it.
#[derive(Debug, Deserialize)]
struct TailDoc {
    prev: LocationDoc,
    messages: Vec<RememberedDoc>,
}

/// What memory reads of a node; parts are large, so only where somebody looks at them.
fn tail_fields(bounds: TailBounds) -> Document {
    let mut fields = doc! {
        "prev": 1, "messages.id": 1, "messages.seq": 1, "messages.parent": 1, "messages.role": 1,
        "messages.content": 1, "messages.tokens": 1, "messages.clientMessageId": 1,
    };
    if bounds.parts > 0 {
        fields.insert("messages.parts", 1);
    }
    fields
}

/// Reads node by node, the last one first: what is read does not depend on what lies before.
async fn tail(
    step: &mut Step,
    session: &SessionId,
    last: &MessageId,
    bounds: TailBounds,
) -> Result<Vec<Remembered>> {
    let nodes = step.tables.nodes.clone();
    let own = doc! { "sessionId": session.as_str(), "messages.id": last.as_str() };
    let mut node: TailDoc = match step.one(&nodes, own, Some(tail_fields(bounds))).await? {
        Some(node) => node,
        None => {
            let named =
                doc! { "sessionId": session.as_str(), "messages.clientMessageId": last.as_str() };
            let named = step.one(&nodes, named, Some(tail_fields(bounds))).await?;
            named.ok_or_else(Error::message_not_found)?
        }
    };
    let mut upto = node
        .messages
        .iter()
        .find(|message| message.is(last))
        .map_or(u32::MAX, |message| number(message.seq));
    let mut found = Vec::new();
    let (mut room, mut parts_room) = (bounds.tokens, bounds.parts);
    loop {
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
        let Some(previous) = node.prev.location() else { return Ok(found) };
        upto = previous.seq;
        let filter = doc! { "_id": chat_id(session, previous.node) };
        let before = step.one(&nodes, filter, Some(tail_fields(bounds))).await?;
        node = before.ok_or_else(Error::message_not_found)?;
    }
}
