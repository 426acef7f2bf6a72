//! Pages of messages, along the active path or over all branches.

use super::documents::{MessageDoc, MessageLocationDoc, to_u32};
use super::transaction::MongoTransaction;
use crate::domain::MessageId;
use crate::domain::node::format_chat_id;
use crate::domain::page::MessageSlice;
use crate::error::{Error, Result};
use crate::store::rules::{MessagePageBuilder, anchor_off_path};
use crate::store::transaction::{MessageLocation, SessionRow, describe_siblings};
use crate::store::{MessagePage, MessageQuery};
use futures::StreamExt;
use mongodb::bson::doc;
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Debug, Deserialize)]
struct NodeWithMessagesDoc {
    number: i64,
    prev: MessageLocationDoc,
    messages: Vec<MessageDoc>,
}

/// A node's link to the node before it.
#[derive(Debug, Deserialize)]
struct NodeLinkDoc {
    number: i64,
    prev: MessageLocationDoc,
}

/// Builds the page from messages that are in reading order, oldest first, each with the number of
/// its node.
async fn build_page(
    page: MessagePageBuilder<(u32, MessageDoc)>,
    tx: &mut MongoTransaction,
    row: &SessionRow,
    query: &MessageQuery,
) -> Result<MessagePage> {
    let (found, has_more) = page.finish();
    let siblings = match query.with_siblings {
        true => tx.find_siblings(&row.session.id, &found).await?,
        false => HashMap::new(),
    };
    let messages = found.into_iter().map(|(_, stored)| {
        let parent = stored.parent.as_ref().map_or(0, |parent| parent.location().seq);
        let mut message = stored.into_message(row)?;
        if let Some(siblings) = siblings.get(&parent) {
            describe_siblings(&mut message, siblings);
        }
        Ok(message)
    });
    let messages = messages.collect::<Result<_>>()?;
    Ok(MessagePage { messages, has_more })
}

fn push_message(
    page: &mut MessagePageBuilder<(u32, MessageDoc)>,
    node: u32,
    message: MessageDoc,
) -> bool {
    let bytes = message.byte_size();
    page.push((node, message), bytes)
}

/// Reads a page of the active path.
pub(super) async fn read_path_page(
    tx: &mut MongoTransaction,
    row: &SessionRow,
    query: &MessageQuery,
) -> Result<MessagePage> {
    let from = match &query.slice {
        MessageSlice::Newest => row.head,
        MessageSlice::Before(id) => {
            let at = find_anchor(tx, row, id).await?;
            Some(MessageLocation { seq: at.seq - 1, ..at })
        }
        MessageSlice::After(id) => {
            let at = find_anchor(tx, row, id).await?;
            return read_path_page_after(tx, row, query, at).await;
        }
    };
    let mut page = MessagePageBuilder::new(query);
    // From the head backward: newest pages, the common case, read one or two nodes.
    let mut next = from;
    'path: while let Some(at) = next {
        let node = read_node(tx, row, at.node).await?;
        for message in
            node.messages.into_iter().rev().filter(|message| to_u32(message.seq) <= at.seq)
        {
            if !push_message(&mut page, at.node, message) {
                break 'path;
            }
        }
        next = node.prev.location();
    }
    build_page(page.reversed(), tx, row, query).await
}

/// Reads the page of the active path that follows a message.
async fn read_path_page_after(
    tx: &mut MongoTransaction,
    row: &SessionRow,
    query: &MessageQuery,
    anchor: MessageLocation,
) -> Result<MessagePage> {
    let Some(chain) = find_path_nodes(tx, row, anchor).await? else {
        return Err(anchor_off_path());
    };
    let mut page = MessagePageBuilder::new(query);
    'path: for last in chain.into_iter().rev() {
        let node = read_node(tx, row, last.node).await?;
        let on_path = |seq: u32| seq > anchor.seq && seq <= last.seq;
        for message in node.messages.into_iter().filter(|message| on_path(to_u32(message.seq))) {
            if !push_message(&mut page, last.node, message) {
                break 'path;
            }
        }
    }
    build_page(page, tx, row, query).await
}

/// Finds the nodes of the active path from the head back to the anchor's, each with its last
/// message on the path; `None` if the anchor is not on the path.
///
/// One query suffices: on any path the numbers of nodes grow, so all of them are in the range from
/// the anchor's to the head's.
async fn find_path_nodes(
    tx: &mut MongoTransaction,
    row: &SessionRow,
    anchor: MessageLocation,
) -> Result<Option<Vec<MessageLocation>>> {
    let Some(head) = row.head else { return Ok(None) };
    let nodes = tx.collections.nodes.clone_with_type::<NodeLinkDoc>();
    let key = tx.content_key(&row.session.id);
    let range = doc! { "$gte": i64::from(anchor.node), "$lte": i64::from(head.node) };
    let started = nodes
        .find(doc! { "sessionId": key.as_str(), "number": range })
        .projection(doc! { "number": 1, "prev": 1 })
        .sort(doc! { "sessionId": -1, "number": -1 })
        .session(&mut tx.client_session)
        .await;
    let mut cursor = tx.check_result(started)?;
    let mut links = Vec::new();
    {
        let mut found = cursor.stream(&mut tx.client_session);
        while let Some(link) = found.next().await {
            links.push(link);
        }
    }
    let mut path = vec![head];
    let mut next = head;
    for link in links {
        let link = tx.check_result(link)?;
        // Nodes of other branches are in the range, too.
        if to_u32(link.number) != next.node {
            continue;
        }
        if next.node == anchor.node {
            return Ok((next.seq >= anchor.seq).then_some(path));
        }
        let Some(previous) = link.prev.location() else { return Ok(None) };
        path.push(previous);
        next = previous;
    }
    Ok(None)
}

/// Reads a page over all branches, in the order in which messages were stored. Seqs have no gaps,
/// so the page is a range of them.
pub(super) async fn read_all_page(
    tx: &mut MongoTransaction,
    row: &SessionRow,
    query: &MessageQuery,
) -> Result<MessagePage> {
    let limit = query.limit;
    let count = row.session.messages_count;
    let (first, last, is_newest_first) = match &query.slice {
        MessageSlice::Newest => (count.saturating_sub(limit) + 1, count, true),
        MessageSlice::Before(id) => {
            let at = find_anchor(tx, row, id).await?;
            (at.seq.saturating_sub(limit + 1).max(1), at.seq - 1, true)
        }
        MessageSlice::After(id) => {
            let at = find_anchor(tx, row, id).await?;
            (at.seq + 1, count.min(at.seq.saturating_add(limit + 1)), false)
        }
    };
    // One more than the limit, to know whether there are more.
    let first = if is_newest_first { first.saturating_sub(1).max(1) } else { first };
    let mut found = read_seq_range(tx, row, first, last).await?;
    if is_newest_first {
        found.reverse();
    }
    let mut page = MessagePageBuilder::new(query);
    for (node, message) in found {
        if !push_message(&mut page, node, message) {
            break;
        }
    }
    let page = if is_newest_first { page.reversed() } else { page };
    build_page(page, tx, row, query).await
}

/// Reads the messages of all branches in a range of seqs, in order, with the numbers of their
/// nodes.
pub(super) async fn read_seq_range(
    tx: &mut MongoTransaction,
    row: &SessionRow,
    first: u32,
    last: u32,
) -> Result<Vec<(u32, MessageDoc)>> {
    let filter = doc! {
        "sessionId": tx.content_key(&row.session.id).as_str(),
        "lastSeq": { "$gte": i64::from(first) },
        "firstSeq": { "$lte": i64::from(last) },
    };
    let nodes = tx.collections.nodes.clone();
    let found_nodes: Vec<NodeWithMessagesDoc> =
        tx.run_pipeline(&nodes, vec![doc! { "$match": filter }]).await?;
    let mut found: Vec<(u32, MessageDoc)> = Vec::new();
    for node_doc in found_nodes {
        let node = to_u32(node_doc.number);
        let wanted = |message: &MessageDoc| (first..=last).contains(&to_u32(message.seq));
        found.extend(node_doc.messages.into_iter().filter(wanted).map(|message| (node, message)));
    }
    found.sort_unstable_by_key(|(_, message)| message.seq);
    Ok(found)
}

async fn find_anchor(
    tx: &mut MongoTransaction,
    row: &SessionRow,
    id: &MessageId,
) -> Result<MessageLocation> {
    let found = tx.locate_message(&row.session.id, id).await?;
    Ok(found.ok_or_else(Error::message_not_found)?.location)
}

async fn read_node(
    tx: &mut MongoTransaction,
    row: &SessionRow,
    number: u32,
) -> Result<NodeWithMessagesDoc> {
    let nodes = tx.collections.nodes.clone();
    let filter = doc! { "_id": format_chat_id(&tx.content_key(&row.session.id), number) };
    tx.find_one(&nodes, filter, None).await?.ok_or_else(Error::message_not_found)
}
