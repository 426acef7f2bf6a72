//! The tree of a session's messages: its head moved, one of its paths copied, its nodes read, and
//! how far each user has read.

use super::append::{append, save};
use super::posts::ensure_idle;
use super::sessions::get;
use crate::domain::node::{ChatNode, NodeMessage, format_chat_id};
use crate::domain::principal::AccessLevel;
use crate::domain::title::SessionTitle;
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::{Error, Result};
use crate::store::work::{Location, NodeLine, Place, SessionRow, Work};
use crate::store::{NewMessage, NewSession, NodePage, Seen};
use std::collections::HashSet;

/// A page of nodes ends early once their texts have this many bytes.
const MAX_PAGE: usize = 8 << 20;

/// Makes the newest leaf below a message the head.
pub(in crate::store) async fn move_head(
    work: &mut impl Work,
    who: &Principal,
    id: &SessionId,
    message: &MessageId,
    now: Timestamp,
) -> Result<Session> {
    let mut row = get(work, who, id, AccessLevel::Participant).await?;
    let named = work.locate(&row, message).await?.ok_or_else(Error::message_not_found)?;
    ensure_idle(&row)?;
    let leaf = newest_below(&work.nodes(&row).await?, named.at);
    if row.head != Some(leaf) {
        row.session.head_id = Some(work.question(&row, leaf).await?.id);
        row.head = Some(leaf);
        save(work, &mut row, now).await?;
    }
    Ok(row.with_nodes())
}

/// Makes the message that the head stands under the head, if `head` is it and no root.
pub(in crate::store) async fn step_back(
    work: &mut impl Work,
    who: &Principal,
    id: &SessionId,
    head: &MessageId,
    now: Timestamp,
) -> Result<Option<Session>> {
    let mut row = get(work, who, id, AccessLevel::Participant).await?;
    let named = work.locate(&row, head).await?.ok_or_else(Error::message_not_found)?;
    ensure_idle(&row)?;
    let parent = match work.message(&row, named.at).await?.parent_id {
        Some(parent) if row.head == Some(named.at) => work.locate(&row, &parent).await?,
        _ => None,
    };
    let Some(parent) = parent else { return Ok(None) };
    row.session.head_id = Some(parent.id);
    row.head = Some(parent.at);
    save(work, &mut row, now).await?;
    Ok(Some(row.with_nodes()))
}

/// The newest message among `top` and all that stands below it. It is a leaf: whatever stood below
/// it would be newer.
fn newest_below(nodes: &[NodeLine], top: Location) -> Location {
    let mut newest = top;
    let mut below = HashSet::from([top.node]);
    // A node follows one of a smaller number, so its own place is known when it is looked at.
    for node in nodes {
        let is_below = node.number == top.node
            || node.prev.is_some_and(|prev| {
                below.contains(&prev.node) && (prev.node != top.node || prev.seq >= top.seq)
            });
        if is_below {
            below.insert(node.number);
        }
        if is_below && node.last_seq > newest.seq {
            newest = Location { node: node.number, seq: node.last_seq };
        }
    }
    newest
}

/// Copies the path that ends with a message into a new session of the caller's.
pub(in crate::store) async fn fork(
    work: &mut impl Work,
    who: &Principal,
    id: &SessionId,
    message: &MessageId,
    now: Timestamp,
) -> Result<Session> {
    let source = get(work, who, id, AccessLevel::Participant).await?;
    let last = work.locate(&source, message).await?.ok_or_else(Error::message_not_found)?;
    let path = path_to(&work.nodes(&source).await?, last.at);
    let new = copy_of(&source.session, who);
    let mut row = work.insert_session(&who.user, &SessionId::generate(), &new, now).await?;
    let mut parent: Option<Place> = None;
    for up_to in path {
        for (_, message) in work.run(&source, up_to).await? {
            let at = append(work, &mut row, &message, parent.as_ref()).await?;
            parent = Some(Place { id: message.id, at });
        }
    }
    save(work, &mut row, now).await?;
    Ok(row.with_nodes())
}

/// The last message of each node's part of the path that ends at `last`, oldest first.
fn path_to(nodes: &[NodeLine], last: Location) -> Vec<Location> {
    let previous = |at: &Location| nodes.get(at.node as usize - 1).and_then(|node| node.prev);
    let mut path: Vec<_> = std::iter::successors(Some(last), previous).collect();
    path.reverse();
    path
}

/// What a fork takes along beside the messages: all that shapes the conversation. Its participants
/// and its status it does not, and its project only if that is the caller's.
fn copy_of(source: &Session, who: &Principal) -> NewSession {
    NewSession {
        id: None,
        title: SessionTitle { text: source.title.clone(), source: source.title_source },
        project_id: source.project_id.clone().filter(|_| source.owner == who.user),
        participants: Vec::new(),
        meta: source.meta.clone(),
        user_meta: source.user_meta.clone(),
        theme: source.theme.clone(),
        settings: source.settings.clone(),
    }
}

/// Moves a user's read mark forward.
pub(in crate::store) async fn mark_seen(
    work: &mut impl Work,
    who: &Principal,
    id: &SessionId,
    up_to: &MessageId,
) -> Result<Seen> {
    let mut row = get(work, who, id, AccessLevel::Participant).await?;
    let named = work.locate(&row, up_to).await?.ok_or_else(Error::message_not_found)?;
    let mark = row.read_marks.entry(who.user.to_string()).or_default();
    let has_moved = named.at.seq > *mark;
    if has_moved {
        *mark = named.at.seq;
        work.save_read_marks(&row).await?;
    }
    Ok(Seen { up_to: named.id, has_moved })
}

/// The session's nodes from the number `first` on.
pub(in crate::store) async fn nodes(
    work: &mut impl Work,
    who: &Principal,
    id: &SessionId,
    first: u32,
    limit: u32,
) -> Result<NodePage> {
    let row = get(work, who, id, AccessLevel::Participant).await?;
    let lines = work.nodes(&row).await?;
    let (mut page, mut bytes) = (NodePage::default(), 0);
    for line in lines.iter().filter(|line| line.number >= first) {
        if page.nodes.len() == limit as usize || bytes >= MAX_PAGE {
            page.next = Some(line.number);
            break;
        }
        let last = Location { node: line.number, seq: line.last_seq };
        let node = node(&row, line.number, work.run(&row, last).await?);
        bytes += node.messages.iter().map(|message| message.text.len()).sum::<usize>();
        page.nodes.push(node);
    }
    Ok(page)
}

fn node(row: &SessionRow, number: u32, run: Vec<(Location, NewMessage)>) -> ChatNode {
    let message = |(at, message): (Location, NewMessage)| NodeMessage {
        seen: row.is_seen(at.seq, &message.sender_id),
        id: message.id,
        sender_id: message.sender_id,
        text: message.body.content,
        timestamp: message.created_at.as_seconds(),
        kind: message.body.kind,
    };
    let messages: Vec<_> = run.into_iter().map(message).collect();
    ChatNode {
        chat_id: format_chat_id(&row.session.id, number),
        created_at: messages.first().map_or(0, |first| first.timestamp),
        messages,
    }
}
