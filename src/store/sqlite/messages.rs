//! Messages in SQLite: posted without a model, and read.

use super::SqliteStore;
use super::append::{append, name_after, resolve, save_counters};
use super::idempotency;
use super::paths::{add_siblings, locate, walk_back, walk_forward};
use super::rows::{Location, MAX_SEQ, SELECT_MESSAGE, SessionRow, message_key, message_row, word};
use super::sessions::{by_key, get};
use crate::domain::page::{Slice, View};
use crate::domain::principal::Access;
use crate::domain::{Message, MessageId, Principal, Role, Session, SessionId};
use crate::error::{Error, Kind, Result};
use crate::store::{MessagePage, MessageQuery, MessageStore, PostMessage, Remembered, TailBounds};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};
use std::ops::ControlFlow;

/// A page ends early once it holds this many bytes: attachments are large.
const MAX_PAGE: usize = 8 << 20;

#[async_trait]
impl MessageStore for SqliteStore {
    async fn post_message(&self, who: &Principal, post: PostMessage) -> Result<(Message, Session)> {
        let who = who.clone();
        self.write(move |db| post_message(db, &who, &post)).await
    }

    async fn message(
        &self,
        who: &Principal,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Message> {
        let (who, session, id) = (who.clone(), session.clone(), id.clone());
        self.read(move |db| {
            let row = get(db, &who, &session, Access::Participate)?;
            let at = locate(db, row.key, &id)?.ok_or_else(Error::message_not_found)?;
            read_message(db, &row, at.seq)
        })
        .await
    }

    async fn messages(
        &self,
        who: &Principal,
        session: &SessionId,
        query: MessageQuery,
    ) -> Result<MessagePage> {
        let (who, session) = (who.clone(), session.clone());
        self.read(move |db| {
            let row = get(db, &who, &session, Access::Participate)?;
            let mut page = match query.view {
                View::Path => path_page(db, &row, &query)?,
                View::All => whole_page(db, &row, &query)?,
            };
            add_siblings(db, row.key, &mut page.messages)?;
            Ok(page)
        })
        .await
    }

    async fn tail(
        &self,
        session: &SessionId,
        last: &MessageId,
        bounds: TailBounds,
    ) -> Result<Vec<Remembered>> {
        let (session, last) = (session.clone(), last.clone());
        self.read(move |db| tail(db, &session, &last, bounds)).await
    }
}

fn post_message(
    db: &Connection,
    who: &Principal,
    post: &PostMessage,
) -> Result<(Message, Session)> {
    let mut row = get(db, who, &post.session_id, Access::Participate)?;
    let message = &post.message;
    if message.role != Role::User && get(db, who, &post.session_id, Access::Own).is_err() {
        return Err(Error::new(
            Kind::Forbidden,
            "only the session's owner may post in another role than user",
        ));
    }
    if let Some(seq) = known_request(db, who, &row, post)? {
        return first_result(db, row, seq);
    }
    ensure_open(&row)?;
    ensure_idle(&row)?;
    let parent = resolve(db, &row, &post.parent)?;
    let at = append(db, &mut row, message, parent.as_ref())?;
    name_after(db, &mut row, message)?;
    save_counters(db, &mut row, post.now)?;
    if let Some(key) = &post.idempotency {
        idempotency::remember(db, who, key, &row, &message.id, None, post.now)?;
    }
    first_result(db, by_key(db, row.key)?, at.seq)
}

/// Where the message lies that this request stored when it came before.
fn known_request(
    db: &Connection,
    who: &Principal,
    row: &SessionRow,
    post: &PostMessage,
) -> Result<Option<u32>> {
    if let Some(key) = &post.idempotency
        && let Some(known) = idempotency::find(db, who, key, post.now)?
        && known.session == row.key
    {
        return Ok(locate(db, row.key, &known.message_id)?.map(|at| at.seq));
    }
    match &post.message.client_message_id {
        Some(id) => Ok(locate(db, row.key, id)?.map(|at| at.seq)),
        None => Ok(None),
    }
}

fn first_result(db: &Connection, row: SessionRow, seq: u32) -> Result<(Message, Session)> {
    let message = read_message(db, &row, seq)?;
    Ok((message, row.with_nodes()))
}

/// Nothing can be added to a closed session.
pub(super) fn ensure_open(row: &SessionRow) -> Result<()> {
    if row.session.status.is_closed() {
        return Err(Error::new(
            Kind::SessionClosed,
            "the session is closed; set its status to go on",
        ));
    }
    Ok(())
}

/// Invariant: while a turn runs nothing else moves the head.
pub(super) fn ensure_idle(row: &SessionRow) -> Result<()> {
    match &row.session.active_turn {
        None => Ok(()),
        Some(turn) => Err(Error::new(Kind::SessionBusy, "a reply is running in this session")
            .with_details(
                serde_json::json!({ "turnId": turn.turn_id, "messageId": turn.message_id }),
            )),
    }
}

/// One message with its siblings.
pub(super) fn read_message(db: &Connection, row: &SessionRow, seq: u32) -> Result<Message> {
    let mut statement = db.prepare_cached(&format!("{SELECT_MESSAGE} WHERE key = ?1"))?;
    let mut rows = statement.query([message_key(row.key, seq)])?;
    let found = rows.next()?.ok_or_else(Error::message_not_found)?;
    let (mut message, _) = message_row(found, row)?;
    add_siblings(db, row.key, std::slice::from_mut(&mut message))?;
    Ok(message)
}

/// Takes messages until one more than the limit was seen.
struct Page<'a> {
    row: &'a SessionRow,
    limit: usize,
    bytes: usize,
    messages: Vec<Message>,
    has_more: bool,
}

impl<'a> Page<'a> {
    fn new(row: &'a SessionRow, query: &MessageQuery) -> Self {
        Self { row, limit: query.limit as usize, bytes: 0, messages: Vec::new(), has_more: false }
    }

    fn take(&mut self, found: &Row<'_>) -> Result<ControlFlow<()>> {
        if self.messages.len() == self.limit || self.bytes > MAX_PAGE {
            self.has_more = true;
            return Ok(ControlFlow::Break(()));
        }
        let (message, _) = message_row(found, self.row)?;
        self.bytes += message.content.len() + message.parts.as_json().len();
        self.messages.push(message);
        Ok(ControlFlow::Continue(()))
    }

    fn oldest_first(self) -> MessagePage {
        MessagePage { messages: self.messages, has_more: self.has_more }
    }

    fn newest_first(mut self) -> MessagePage {
        self.messages.reverse();
        self.oldest_first()
    }
}

fn path_page(db: &Connection, row: &SessionRow, query: &MessageQuery) -> Result<MessagePage> {
    let mut page = Page::new(row, query);
    let anchor = |id: &MessageId| locate(db, row.key, id)?.ok_or_else(Error::message_not_found);
    match &query.slice {
        Slice::Newest => {
            walk_back(db, row.key, row.head, SELECT_MESSAGE, |found| page.take(found))?;
            Ok(page.newest_first())
        }
        Slice::Before(id) => {
            let at = anchor(id)?;
            let before = Location { seq: at.seq - 1, ..at };
            walk_back(db, row.key, Some(before), SELECT_MESSAGE, |found| page.take(found))?;
            Ok(page.newest_first())
        }
        Slice::After(id) => {
            let at = anchor(id)?;
            let is_on_path =
                walk_forward(db, row.key, row.head, at, SELECT_MESSAGE, |found| page.take(found))?;
            if !is_on_path {
                return Err(Error::invalid(
                    "after",
                    "must name a message of the active path, or go with view=all",
                ));
            }
            Ok(page.oldest_first())
        }
    }
}

/// A page of all branches, in the order in which the messages were stored.
fn whole_page(db: &Connection, row: &SessionRow, query: &MessageQuery) -> Result<MessagePage> {
    let mut page = Page::new(row, query);
    let seq_of = |id: &MessageId| {
        Ok::<_, Error>(locate(db, row.key, id)?.ok_or_else(Error::message_not_found)?.seq)
    };
    let (first, last, order) = match &query.slice {
        Slice::Newest => (1, MAX_SEQ, "DESC"),
        Slice::Before(id) => (1, seq_of(id)? - 1, "DESC"),
        Slice::After(id) => (seq_of(id)? + 1, MAX_SEQ, "ASC"),
    };
    let sql = format!("{SELECT_MESSAGE} WHERE key BETWEEN ?1 AND ?2 ORDER BY key {order}");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([message_key(row.key, first), message_key(row.key, last)])?;
    while let Some(found) = rows.next()? {
        if page.take(found)?.is_break() {
            break;
        }
    }
    Ok(if order == "ASC" { page.oldest_first() } else { page.newest_first() })
}

fn tail(
    db: &Connection,
    session: &SessionId,
    last: &MessageId,
    bounds: TailBounds,
) -> Result<Vec<Remembered>> {
    let sql = "SELECT key FROM sessions WHERE id = ?1";
    let key: Option<i64> =
        db.prepare_cached(sql)?.query_row([session.as_str()], |row| row.get(0)).optional()?;
    let key = key.ok_or_else(Error::session_not_found)?;
    let at = locate(db, key, last)?.ok_or_else(Error::message_not_found)?;
    let mut found = Vec::new();
    let mut room = bounds.tokens;
    let select = "SELECT key, id, role, content, tokens, parent_id IS NULL FROM messages";
    walk_back(db, key, Some(at), select, |row| {
        let content = row.get_ref(3)?.as_str().map_err(Error::store)?;
        if content.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let tokens: u32 = row.get(4)?;
        let size = tokens.saturating_add(bounds.overhead);
        if found.len() == bounds.messages as usize || size > room {
            return Ok(ControlFlow::Break(()));
        }
        room -= size;
        found.push(Remembered {
            id: MessageId::trusted(row.get::<_, String>(1)?),
            role: word(Role::from_word, row, 2)?,
            content: content.to_owned(),
            tokens,
            is_root: row.get(5)?,
        });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
