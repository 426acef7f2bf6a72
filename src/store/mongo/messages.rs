//! Messages in MongoDB: posting without a turn, reading, and the history for a prompt.

use super::MongoStore;
use super::documents::{HistoryMessageDoc, LocatedMessageDoc, MessageLocationDoc, to_u32};
use super::message_pages;
use super::paths::NameLookup;
use super::transaction::{MongoTransaction, TransactionMode, transact};
use crate::domain::node::format_chat_id;
use crate::domain::page::MessageView;
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, MessageId, Principal, Role, Session, SessionId};
use crate::error::{Error, Result};
use crate::store::rules::{self, HistoryBudget, HistoryDecision};
use crate::store::transaction::{
    LocatedMessage, MAX_SEARCHED_CHILDREN, MessageLocation, MessageTransaction, SessionRow,
};
use crate::store::{
    HistoryLimits, HistoryMessage, MessagePage, MessageQuery, MessageStore, PostMessage,
    UserMessage,
};
use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;

#[async_trait]
impl MessageStore for MongoStore {
    async fn post_message(
        &self,
        principal: &Principal,
        post: PostMessage,
    ) -> Result<(Message, Session)> {
        let post = &post;
        transact!(self, |tx| rules::post_message(tx, principal, post).await)
    }

    async fn get_message(
        &self,
        principal: &Principal,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Message> {
        transact!(self, TransactionMode::READ, |tx| {
            let row = rules::get_session(tx, principal, session, AccessLevel::Participant).await?;
            let place = tx.find_message(&row, id).await?.ok_or_else(Error::message_not_found)?;
            tx.load_message(&row, place.location).await
        })
    }

    async fn list_siblings(
        &self,
        principal: &Principal,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Vec<MessageId>> {
        transact!(self, TransactionMode::READ, |tx| {
            let row = rules::get_session(tx, principal, session, AccessLevel::Participant).await?;
            let place = tx.find_message(&row, id).await?.ok_or_else(Error::message_not_found)?;
            let stored = tx.load_message_doc(session, place.location).await?;
            let parent = stored.parent.as_ref().map(LocatedMessageDoc::location);
            let siblings = tx.find_children(session, parent).await?;
            Ok(siblings.into_iter().map(|sibling| sibling.id).collect())
        })
    }

    async fn list_messages(
        &self,
        principal: &Principal,
        session: &SessionId,
        query: MessageQuery,
    ) -> Result<MessagePage> {
        let query = &query;
        transact!(self, TransactionMode::READ, |tx| {
            let row = rules::get_session(tx, principal, session, AccessLevel::Participant).await?;
            match query.view {
                MessageView::Path => message_pages::read_path_page(tx, &row, query).await,
                MessageView::All => message_pages::read_all_page(tx, &row, query).await,
            }
        })
    }

    async fn recent_history(
        &self,
        session: &SessionId,
        last: &MessageId,
        limits: HistoryLimits,
    ) -> Result<Vec<HistoryMessage>> {
        transact!(self, TransactionMode::READ, |tx| read_history(tx, session, last, limits).await)
    }
}

impl MessageTransaction for MongoTransaction {
    async fn find_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        self.locate_message(&row.session.id, id).await
    }

    async fn find_message_by_id(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        Ok(self.find_messages_by_name(&row.session.id, id, NameLookup::IdOnly).await?.pop())
    }

    async fn find_newest_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        Ok(self.find_messages_by_name(&row.session.id, id, NameLookup::IdOrClientId).await?.pop())
    }

    async fn read_message(&mut self, row: &SessionRow, at: MessageLocation) -> Result<Message> {
        self.load_message(row, at).await
    }

    async fn read_user_message(
        &mut self,
        row: &SessionRow,
        at: MessageLocation,
    ) -> Result<UserMessage> {
        self.load_message_doc(&row.session.id, at).await?.into_user_message()
    }

    async fn find_first_reply(
        &mut self,
        row: &SessionRow,
        parent: MessageLocation,
    ) -> Result<Option<MessageLocation>> {
        let session = &row.session.id;
        let children = self.find_children(session, Some(parent)).await?;
        for child in children.iter().take(MAX_SEARCHED_CHILDREN as usize) {
            let role = self.load_message_doc(session, child.location).await?.role;
            if role == Role::Assistant.as_str() {
                return Ok(Some(child.location));
            }
        }
        Ok(None)
    }
}

/// Messages read of a node at first. Most prompts need no more of the last node.
const FIRST_READ_MESSAGES: i64 = 96;

/// A node with all or only the last of its messages; `count` is the number of all.
#[derive(Debug, Deserialize)]
struct NodeTailDoc {
    number: i64,
    prev: MessageLocationDoc,
    count: i64,
    messages: Vec<HistoryMessageDoc>,
}

/// Reads a node with its last `limit` messages, or all. Parts may be large, so they are left out
/// unless the limits ask for them.
async fn read_node_tail(
    tx: &mut MongoTransaction,
    filter: Document,
    limit: Option<i64>,
    limits: HistoryLimits,
) -> Result<Option<NodeTailDoc>> {
    let messages = match limit {
        Some(limit) => Bson::from(doc! { "$slice": ["$messages", -limit] }),
        None => Bson::from("$messages"),
    };
    let mut pipeline = vec![
        doc! { "$match": filter },
        doc! { "$project": { "number": 1, "prev": 1, "count": 1, "messages": messages } },
    ];
    if limits.max_part_bytes == 0 {
        pipeline.push(doc! { "$project": { "messages.parts": 0 } });
    }
    let nodes = tx.collections.nodes.clone();
    let mut found: Vec<NodeTailDoc> = tx.run_pipeline(&nodes, pipeline).await?;
    Ok(found.pop())
}

/// Reads the path backward, node by node, until a limit is reached. The cost depends on the size of
/// the history that fits, not on the size of the session.
async fn read_history(
    tx: &mut MongoTransaction,
    session: &SessionId,
    last: &MessageId,
    limits: HistoryLimits,
) -> Result<Vec<HistoryMessage>> {
    let (mut node, mut up_to_seq) = read_last_node(tx, session, last, limits).await?;
    let mut budget = HistoryBudget::new(limits);
    let mut found = Vec::new();
    loop {
        let is_whole = node.messages.len() as i64 >= node.count;
        let first = node.messages.first().map_or(0, |message| to_u32(message.seq));
        let on_path = node.messages.into_iter().rev();
        for message in on_path.filter(|message| to_u32(message.seq) <= up_to_seq) {
            let part_bytes = message.needed_part_bytes()?;
            match budget.admit(&message.content, part_bytes, message.tokens()) {
                HistoryDecision::Skip => {}
                HistoryDecision::End => return Ok(found),
                HistoryDecision::Include { with_parts } => {
                    found.push(message.into_history_message(with_parts)?);
                }
            }
        }
        // Continue with the rest of this node or, if it was read completely, with the one before
        // it.
        let (next, limit) = if is_whole {
            let Some(previous) = node.prev.location() else { return Ok(found) };
            up_to_seq = previous.seq;
            (previous.node, Some(FIRST_READ_MESSAGES))
        } else {
            up_to_seq = up_to_seq.min(first - 1);
            (to_u32(node.number), None)
        };
        node = get_node_tail(tx, session, next, limit, limits).await?;
    }
}

/// Reads the end of the node that contains the last message of the history. Returns it with the seq
/// of that message.
async fn read_last_node(
    tx: &mut MongoTransaction,
    session: &SessionId,
    last: &MessageId,
    limits: HistoryLimits,
) -> Result<(NodeTailDoc, u32)> {
    // The usual case is one query: the message is found by its id, and with it the end of its node.
    let key = tx.find_content_key(session).await?.ok_or_else(Error::session_not_found)?;
    let by_id = doc! { "sessionId": key.as_str(), "messages.id": last.as_str() };
    let node = match read_node_tail(tx, by_id, Some(FIRST_READ_MESSAGES), limits).await? {
        Some(node) => node,
        None => {
            // The id is a client id, or the message is committed but its `pending` is not applied
            // yet; loading the session applies it.
            tx.load_session(session).await?.ok_or_else(Error::session_not_found)?;
            let place = tx.locate_message(session, last).await?;
            let at = place.ok_or_else(Error::message_not_found)?.location;
            get_node_tail(tx, session, at.node, None, limits).await?
        }
    };
    let seq_of_last = |node: &NodeTailDoc| {
        let found = node.messages.iter().find(|message| message.has_id(last));
        found.map(|message| to_u32(message.seq))
    };
    if let Some(seq) = seq_of_last(&node) {
        return Ok((node, seq));
    }
    // The message is further up in its node than what was read. Read the whole node.
    let node = get_node_tail(tx, session, to_u32(node.number), None, limits).await?;
    let seq = seq_of_last(&node).ok_or_else(Error::message_not_found)?;
    Ok((node, seq))
}

/// Reads the end of a node by its number.
async fn get_node_tail(
    tx: &mut MongoTransaction,
    session: &SessionId,
    number: u32,
    limit: Option<i64>,
    limits: HistoryLimits,
) -> Result<NodeTailDoc> {
    let by_number = doc! { "_id": format_chat_id(&tx.content_key(session), number) };
    read_node_tail(tx, by_number, limit, limits).await?.ok_or_else(Error::message_not_found)
}
