//! The tree of a session's messages: its head moved, one of its paths copied.

use super::append::{append, save};
use super::posts::ensure_idle;
use super::sessions::get;
use crate::domain::principal::Access;
use crate::domain::title::Title;
use crate::domain::{MessageId, Principal, Session, SessionId, Timestamp};
use crate::error::{Error, Result};
use crate::store::NewSession;
use crate::store::work::{Location, NodeLine, Place, Work};
use std::collections::HashSet;

/// Makes the newest leaf below a message the head.
pub(in crate::store) async fn move_head(
    work: &mut impl Work,
    who: &Principal,
    id: &SessionId,
    message: &MessageId,
    now: Timestamp,
) -> Result<Session> {
    let mut row = get(work, who, id, Access::Participate).await?;
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
    let source = get(work, who, id, Access::Participate).await?;
    let last = work.locate(&source, message).await?.ok_or_else(Error::message_not_found)?;
    let path = path_to(&work.nodes(&source).await?, last.at);
    let new = copy_of(&source.session, who);
    let mut row = work.insert_session(&who.user, &SessionId::generate(), &new, now).await?;
    let mut parent: Option<Place> = None;
    for up_to in path {
        for message in work.run(&source, up_to).await? {
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
        title: Title { text: source.title.clone(), source: source.title_source },
        project_id: source.project_id.clone().filter(|_| source.owner == who.user),
        participants: Vec::new(),
        meta: source.meta.clone(),
        user_meta: source.user_meta.clone(),
        theme: source.theme.clone(),
        settings: source.settings.clone(),
    }
}
