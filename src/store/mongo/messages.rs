//! Messages in MongoDB: posted without a model, and read.

use super::MongoStore;
use super::documents::{HistoryMessageDoc, MessageLocationDoc, to_u32};
use super::message_pages;
use super::transaction::{MongoTransaction, TransactionMode, transact};
use crate::domain::node::format_chat_id;
use crate::domain::page::MessageView;
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, MessageId, Principal, Session, SessionId};
use crate::error::{Error, Result};
use crate::store::transaction::StoreTransaction;
use crate::store::{
    HistoryLimits, HistoryMessage, MessagePage, MessageQuery, MessageStore, PostMessage, rules,
};
use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;

#[async_trait]
impl MessageStore for MongoStore {
    async fn post_message(&self, who: &Principal, post: PostMessage) -> Result<(Message, Session)> {
        let post = &post;
        transact!(self, |step| rules::post_message(step, who, post).await)
    }

    async fn get_message(
        &self,
        who: &Principal,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Message> {
        transact!(self, TransactionMode::READ, |step| {
            let row = rules::get_session(step, who, session, AccessLevel::Participant).await?;
            let place = step.find_message(&row, id).await?.ok_or_else(Error::message_not_found)?;
            step.load_message(&row, place.location).await
        })
    }

    async fn list_messages(
        &self,
        who: &Principal,
        session: &SessionId,
        query: MessageQuery,
    ) -> Result<MessagePage> {
        let query = &query;
        transact!(self, TransactionMode::READ, |step| {
            let row = rules::get_session(step, who, session, AccessLevel::Participant).await?;
            match query.view {
                MessageView::Path => message_pages::read_path_page(step, &row, query).await,
                MessageView::All => message_pages::read_all_page(step, &row, query).await,
            }
        })
    }

    async fn recent_history(
        &self,
        session: &SessionId,
        last: &MessageId,
        bounds: HistoryLimits,
    ) -> Result<Vec<HistoryMessage>> {
        transact!(self, TransactionMode::READ, |step| read_history(step, session, last, bounds)
            .await)
    }
}

/// As many of a node's last messages are read at first: what most windows hold.
const FIRST_READ_MESSAGES: i64 = 96;

/// A node, or its end, as memory reads it.
#[derive(Debug, Deserialize)]
struct NodeTailDoc {
    number: i64,
    prev: MessageLocationDoc,
    count: i64,
    messages: Vec<HistoryMessageDoc>,
}

/// The node that the filter finds: its last messages, or all. Parts are large, so they come only
/// where somebody looks at them.
async fn read_node_tail(
    step: &mut MongoTransaction,
    filter: Document,
    most: Option<i64>,
    bounds: HistoryLimits,
) -> Result<Option<NodeTailDoc>> {
    let messages = match most {
        Some(most) => Bson::from(doc! { "$slice": ["$messages", -most] }),
        None => Bson::from("$messages"),
    };
    let mut pipeline = vec![
        doc! { "$match": filter },
        doc! { "$project": { "number": 1, "prev": 1, "count": 1, "messages": messages } },
    ];
    if bounds.max_part_bytes == 0 {
        pipeline.push(doc! { "$project": { "messages.parts": 0 } });
    }
    let nodes = step.collections.nodes.clone();
    let mut found: Vec<NodeTailDoc> = step.run_pipeline(&nodes, pipeline).await?;
    Ok(found.pop())
}

/// Reads node by node, the last one first: what is read does not depend on what lies before.
async fn read_history(
    step: &mut MongoTransaction,
    session: &SessionId,
    last: &MessageId,
    bounds: HistoryLimits,
) -> Result<Vec<HistoryMessage>> {
    let own = doc! { "sessionId": session.as_str(), "messages.id": last.as_str() };
    let mut node = match read_node_tail(step, own, Some(FIRST_READ_MESSAGES), bounds).await? {
        Some(node) => node,
        None => {
            // By another name, or committed and not yet carried out: looking at the session does it.
            step.load_session(session).await?.ok_or_else(Error::session_not_found)?;
            let place = step.locate_message(session, last).await?;
            let at = place.ok_or_else(Error::message_not_found)?.location;
            let holder = doc! { "_id": format_chat_id(session, at.node) };
            read_node_tail(step, holder, None, bounds)
                .await?
                .ok_or_else(Error::message_not_found)?
        }
    };
    let is_last = |message: &HistoryMessageDoc| message.has_id(last);
    let mut upto = match node.messages.iter().find(|message| is_last(message)) {
        Some(message) => to_u32(message.seq),
        // It lies before what was read of its node.
        None => {
            let holder = doc! { "_id": format_chat_id(session, to_u32(node.number)) };
            node = read_node_tail(step, holder, None, bounds)
                .await?
                .ok_or_else(Error::message_not_found)?;
            let found = node.messages.iter().find(|message| is_last(message));
            to_u32(found.ok_or_else(Error::message_not_found)?.seq)
        }
    };
    let mut found = Vec::new();
    let (mut room, mut parts_room) = (bounds.max_tokens, bounds.max_part_bytes);
    loop {
        let is_whole = node.messages.len() as i64 >= node.count;
        let first = node.messages.first().map_or(0, |message| to_u32(message.seq));
        for mut message in node.messages.into_iter().rev() {
            if to_u32(message.seq) > upto {
                continue;
            }
            let parts = message.retain_parts(parts_room);
            if message.content.is_empty() && parts == 0 {
                continue;
            }
            let size = message.tokens().saturating_add(bounds.token_overhead);
            if found.len() == bounds.max_messages as usize || size > room {
                return Ok(found);
            }
            room -= size;
            parts_room -= parts;
            found.push(message.into_history_message()?);
        }
        let (next, most) = if is_whole {
            let Some(previous) = node.prev.location() else { return Ok(found) };
            upto = previous.seq;
            (previous.node, Some(FIRST_READ_MESSAGES))
        } else {
            upto = upto.min(first - 1);
            (to_u32(node.number), None)
        };
        let next = doc! { "_id": format_chat_id(session, next) };
        node =
            read_node_tail(step, next, most, bounds).await?.ok_or_else(Error::message_not_found)?;
    }
}
