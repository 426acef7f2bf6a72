//! Messages in SQLite.

use super::SqliteStore;
use super::paths::{add_siblings, find_message, walk_backward, walk_forward};
use super::rows::{SELECT_MESSAGE, decode_message, decode_word, message_key};
use super::sessions::get_session;
use super::transaction::read_message;
use crate::domain::page::{MessageSlice, MessageView};
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, MessageId, Principal, Role, Session, SessionId, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::store::stored_values::decode_parts;
use crate::store::transaction::{MAX_SEQ, MessageLocation, SessionRow};
use crate::store::{
    HistoryLimits, HistoryMessage, MessagePage, MessageQuery, MessageStore, PostMessage, rules,
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};
use std::ops::ControlFlow;

/// A page ends early once it holds this many bytes, because attachments are large.
const MAX_PAGE_BYTES: usize = 8 << 20;

#[async_trait]
impl MessageStore for SqliteStore {
    async fn post_message(
        &self,
        principal: &Principal,
        post: PostMessage,
    ) -> Result<(Message, Session)> {
        let principal = principal.clone();
        self.transact(async move |tx| rules::post_message(tx, &principal, &post).await).await
    }

    async fn get_message(
        &self,
        principal: &Principal,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Message> {
        let principal = principal.clone();
        let session = session.clone();
        let id = id.clone();
        self.run_read(move |db| {
            let row = get_session(db, &principal, &session, AccessLevel::Participant)?;
            let located = find_message(db, row.key, &id)?.ok_or_else(Error::message_not_found)?;
            read_message(db, &row, located.location.seq)
        })
        .await
    }

    async fn list_messages(
        &self,
        principal: &Principal,
        session: &SessionId,
        query: MessageQuery,
    ) -> Result<MessagePage> {
        let principal = principal.clone();
        let session = session.clone();
        self.run_read(move |db| {
            let row = get_session(db, &principal, &session, AccessLevel::Participant)?;
            let mut page = match query.view {
                MessageView::Path => read_path_page(db, &row, &query)?,
                MessageView::All => read_all_page(db, &row, &query)?,
            };
            add_siblings(db, row.key, &mut page.messages)?;
            Ok(page)
        })
        .await
    }

    async fn recent_history(
        &self,
        session: &SessionId,
        last: &MessageId,
        limits: HistoryLimits,
    ) -> Result<Vec<HistoryMessage>> {
        let session = session.clone();
        let last = last.clone();
        self.run_read(move |db| recent_history(db, &session, &last, limits)).await
    }
}

/// Collects messages until it has seen one more than the limit.
struct MessagePageBuilder<'a> {
    row: &'a SessionRow,
    limit: usize,
    bytes: usize,
    messages: Vec<Message>,
    has_more: bool,
}

impl<'a> MessagePageBuilder<'a> {
    fn new(row: &'a SessionRow, query: &MessageQuery) -> Self {
        Self { row, limit: query.limit as usize, bytes: 0, messages: Vec::new(), has_more: false }
    }

    fn push_row(&mut self, found: &Row<'_>) -> Result<ControlFlow<()>> {
        // Checked before a message is added, so a page has at least one, however large.
        if self.messages.len() == self.limit || self.bytes > MAX_PAGE_BYTES {
            self.has_more = true;
            return Ok(ControlFlow::Break(()));
        }
        let message = decode_message(found, self.row)?;
        self.bytes += message.content.len() + message.parts.as_json().len();
        self.messages.push(message);
        Ok(ControlFlow::Continue(()))
    }

    fn into_page(self) -> MessagePage {
        MessagePage { messages: self.messages, has_more: self.has_more }
    }

    fn into_reversed_page(mut self) -> MessagePage {
        self.messages.reverse();
        self.into_page()
    }
}

fn read_path_page(db: &Connection, row: &SessionRow, query: &MessageQuery) -> Result<MessagePage> {
    let mut page = MessagePageBuilder::new(row, query);
    let find_anchor = |id: &MessageId| {
        Ok::<_, Error>(
            find_message(db, row.key, id)?.ok_or_else(Error::message_not_found)?.location,
        )
    };
    match &query.slice {
        MessageSlice::Newest => {
            walk_backward(db, row.key, row.head, SELECT_MESSAGE, |found| page.push_row(found))?;
            Ok(page.into_reversed_page())
        }
        MessageSlice::Before(id) => {
            let at = find_anchor(id)?;
            // A location without a message is fine as an upper bound: if `at` is the first in its
            // node, nothing of that node is in range.
            let before = MessageLocation { seq: at.seq - 1, ..at };
            walk_backward(db, row.key, Some(before), SELECT_MESSAGE, |found| page.push_row(found))?;
            Ok(page.into_reversed_page())
        }
        MessageSlice::After(id) => {
            let at = find_anchor(id)?;
            let is_on_path = walk_forward(db, row.key, row.head, at, SELECT_MESSAGE, |found| {
                page.push_row(found)
            })?;
            if !is_on_path {
                return Err(Error::invalid_field(
                    "after",
                    "must name a message of the active path, or go with view=all",
                ));
            }
            Ok(page.into_page())
        }
    }
}

/// A page of all branches, in the order in which the messages were stored.
fn read_all_page(db: &Connection, row: &SessionRow, query: &MessageQuery) -> Result<MessagePage> {
    let mut page = MessagePageBuilder::new(row, query);
    let seq_of = |id: &MessageId| {
        Ok::<_, Error>(
            find_message(db, row.key, id)?.ok_or_else(Error::message_not_found)?.location.seq,
        )
    };
    let (first, last, order) = match &query.slice {
        MessageSlice::Newest => (1, MAX_SEQ, "DESC"),
        MessageSlice::Before(id) => (1, seq_of(id)? - 1, "DESC"),
        MessageSlice::After(id) => (seq_of(id)? + 1, MAX_SEQ, "ASC"),
    };
    let sql = format!("{SELECT_MESSAGE} WHERE key BETWEEN ?1 AND ?2 ORDER BY key {order}");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([message_key(row.key, first), message_key(row.key, last)])?;
    while let Some(found) = rows.next()? {
        if page.push_row(found)?.is_break() {
            break;
        }
    }
    Ok(if order == "ASC" { page.into_page() } else { page.into_reversed_page() })
}

fn recent_history(
    db: &Connection,
    session: &SessionId,
    last: &MessageId,
    limits: HistoryLimits,
) -> Result<Vec<HistoryMessage>> {
    let sql = "SELECT key FROM sessions WHERE id = ?1";
    let key: Option<i64> =
        db.prepare_cached(sql)?.query_row([session.as_str()], |row| row.get(0)).optional()?;
    let key = key.ok_or_else(Error::session_not_found)?;
    let at = find_message(db, key, last)?.ok_or_else(Error::message_not_found)?.location;
    let mut found = Vec::new();
    let mut tokens_left = limits.max_tokens;
    let mut part_bytes_left = limits.max_part_bytes;
    // Parts are large: the column is not read for callers that ignore it, and of replies only those
    // with function calls matter.
    let parts_column = match limits.max_part_bytes {
        0 => "NULL",
        _ => "CASE WHEN role IN ('user', 'tool') OR finish_reason = 'tool-calls' THEN parts END",
    };
    let select = format!(
        "SELECT key, id, role, content, tokens, parent_id, {parts_column}, sender_id, created_at, \
         path_tokens FROM messages"
    );
    walk_backward(db, key, Some(at), &select, |row| {
        let content = row.get_ref(3)?.as_str().map_err(Error::store_unavailable)?;
        let parts = row.get_ref(6)?.as_str_or_null().map_err(Error::store_unavailable)?;
        // Parts that exceed the limit are left out; the text still counts.
        let parts = parts.filter(|parts| parts.len() <= part_bytes_left);
        // Nothing that a model could read, so it does not use up the limits.
        if content.is_empty() && parts.is_none() {
            return Ok(ControlFlow::Continue(()));
        }
        let tokens: u32 = row.get(4)?;
        let size = tokens.saturating_add(limits.token_overhead);
        // The first message that does not fit ends the history: a gap would falsify
        // the conversation.
        if found.len() == limits.max_messages as usize || size > tokens_left {
            return Ok(ControlFlow::Break(()));
        }
        tokens_left -= size;
        part_bytes_left -= parts.map_or(0, str::len);
        found.push(HistoryMessage {
            id: MessageId::new_unchecked(row.get::<_, String>(1)?),
            role: decode_word(Role::from_name, row, 2)?,
            content: content.to_owned(),
            tokens,
            parts: decode_parts(parts.map(str::to_owned))?,
            parent_id: row.get::<_, Option<String>>(5)?.map(MessageId::new_unchecked),
            sender_id: UserId::new_unchecked(row.get::<_, String>(7)?),
            created_at: Timestamp::from_millis(row.get(8)?),
            path_tokens: row.get::<_, i64>(9)?.unsigned_abs(),
        });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
