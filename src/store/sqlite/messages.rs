//! Messages in SQLite.

use super::SqliteStore;
use super::paths::{
    add_siblings, find_first_reply, find_message, find_message_by_id, find_newest_message,
    list_siblings, walk_backward, walk_forward,
};
use super::rows::{SELECT_MESSAGE, SEQ_MASK, decode_message, decode_word, message_key};
use super::session_rows::{KeyedSession, find_session_key};
use super::sessions::get_session;
use super::transaction::SqliteTransaction;
use crate::domain::page::{MessageSlice, MessageView};
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, MessageId, Principal, Role, Session, SessionId, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::store::rules::{
    self, FINISH_REASON_WITH_PARTS, HistoryBudget, HistoryDecision, MessagePageBuilder,
    ROLES_WITH_PARTS,
};
use crate::store::stored_values::decode_parts;
use crate::store::transaction::{LocatedMessage, MessageLocation, MessageTransaction, SessionRow};
use crate::store::{
    HistoryLimits, HistoryMessage, MessagePage, MessageQuery, MessageStore, PostMessage,
    UserMessage,
};
use async_trait::async_trait;
use rusqlite::{Connection, Row};
use std::ops::ControlFlow;

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
            let KeyedSession { key, row } =
                get_session(db, &principal, &session, AccessLevel::Participant)?;
            let located = find_message(db, key, &id)?.ok_or_else(Error::message_not_found)?;
            read_message(db, key, &row, located.location.seq)
        })
        .await
    }

    async fn list_siblings(
        &self,
        principal: &Principal,
        session: &SessionId,
        id: &MessageId,
    ) -> Result<Vec<MessageId>> {
        let principal = principal.clone();
        let session = session.clone();
        let id = id.clone();
        self.run_read(move |db| {
            let KeyedSession { key, .. } =
                get_session(db, &principal, &session, AccessLevel::Participant)?;
            let located = find_message(db, key, &id)?.ok_or_else(Error::message_not_found)?;
            let sql = "SELECT parent_id FROM messages WHERE key = ?1";
            let parent: Option<String> = db
                .prepare_cached(sql)?
                .query_row([message_key(key, located.location.seq)], |row| row.get(0))?;
            let parent = parent.map(MessageId::new_unchecked);
            let siblings = list_siblings(db, key, parent.as_ref())?;
            Ok(siblings.into_iter().map(|sibling| sibling.id).collect())
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
            let session = get_session(db, &principal, &session, AccessLevel::Participant)?;
            let mut page = match query.view {
                MessageView::Path => read_path_page(db, &session, &query)?,
                MessageView::All => read_all_page(db, &session, &query)?,
            };
            if query.with_siblings {
                add_siblings(db, session.key, &mut page.messages)?;
            }
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

impl MessageTransaction for SqliteTransaction<'_> {
    async fn find_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        find_message(self.db, self.session_key(row)?, id)
    }

    async fn find_message_by_id(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        find_message_by_id(self.db, self.session_key(row)?, id)
    }

    async fn find_newest_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        find_newest_message(self.db, self.session_key(row)?, id)
    }

    async fn read_message(&mut self, row: &SessionRow, at: MessageLocation) -> Result<Message> {
        read_message(self.db, self.session_key(row)?, row, at.seq)
    }

    async fn read_user_message(
        &mut self,
        row: &SessionRow,
        at: MessageLocation,
    ) -> Result<UserMessage> {
        let sql = "SELECT id, parent_id, role, content, tokens, parts FROM messages WHERE key = ?1";
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([message_key(self.session_key(row)?, at.seq)])?;
        let row = rows.next()?.ok_or_else(Error::message_not_found)?;
        Ok(UserMessage {
            id: MessageId::new_unchecked(row.get::<_, String>(0)?),
            parent_id: row.get::<_, Option<String>>(1)?.map(MessageId::new_unchecked),
            role: decode_word(Role::from_name, row, 2)?,
            content: row.get(3)?,
            tokens: row.get(4)?,
            parts: decode_parts(row.get(5)?)?,
        })
    }

    async fn find_first_reply(
        &mut self,
        row: &SessionRow,
        parent: MessageLocation,
    ) -> Result<Option<MessageLocation>> {
        find_first_reply(self.db, self.session_key(row)?, parent)
    }
}

/// Reads one message with its siblings.
fn read_message(db: &Connection, key: i64, row: &SessionRow, seq: u32) -> Result<Message> {
    let mut statement = db.prepare_cached(&format!("{SELECT_MESSAGE} WHERE key = ?1"))?;
    let mut rows = statement.query([message_key(key, seq)])?;
    let found = rows.next()?.ok_or_else(Error::message_not_found)?;
    let mut message = decode_message(found, row)?;
    add_siblings(db, key, std::slice::from_mut(&mut message))?;
    Ok(message)
}

/// Adds the message of a row to a page, and breaks once the page is full.
fn push_row(
    page: &mut MessagePageBuilder<Message>,
    found: &Row<'_>,
    session: &SessionRow,
) -> Result<ControlFlow<()>> {
    let message = decode_message(found, session)?;
    let bytes = message.content.len() + message.parts.as_json().len();
    Ok(if page.push(message, bytes) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
}

fn read_path_page(
    db: &Connection,
    session: &KeyedSession,
    query: &MessageQuery,
) -> Result<MessagePage> {
    let KeyedSession { key, row } = session;
    let mut page = MessagePageBuilder::new(query);
    match &query.slice {
        MessageSlice::Newest => {
            walk_backward(db, *key, row.head, SELECT_MESSAGE, |found| {
                push_row(&mut page, found, row)
            })?;
            Ok(to_page(page.reversed()))
        }
        MessageSlice::Before(id) => {
            let at = find_anchor(db, *key, id)?;
            // A location without a message is fine as an upper bound: if `at` is the first in its
            // node, nothing of that node is in range.
            let before = MessageLocation { seq: at.seq - 1, ..at };
            walk_backward(db, *key, Some(before), SELECT_MESSAGE, |found| {
                push_row(&mut page, found, row)
            })?;
            Ok(to_page(page.reversed()))
        }
        MessageSlice::After(id) => {
            let at = find_anchor(db, *key, id)?;
            let is_on_path = walk_forward(db, *key, row.head, at, SELECT_MESSAGE, |found| {
                push_row(&mut page, found, row)
            })?;
            if !is_on_path {
                return Err(rules::anchor_off_path());
            }
            Ok(to_page(page))
        }
    }
}

/// Finds the message that a page starts from.
fn find_anchor(db: &Connection, key: i64, id: &MessageId) -> Result<MessageLocation> {
    Ok(find_message(db, key, id)?.ok_or_else(Error::message_not_found)?.location)
}

fn to_page(page: MessagePageBuilder<Message>) -> MessagePage {
    let (messages, has_more) = page.finish();
    MessagePage { messages, has_more }
}

/// A page of all branches, in the order in which the messages were stored.
fn read_all_page(
    db: &Connection,
    session: &KeyedSession,
    query: &MessageQuery,
) -> Result<MessagePage> {
    let KeyedSession { key, row } = session;
    let (first, last, order) = match &query.slice {
        MessageSlice::Newest => (1, SEQ_MASK, "DESC"),
        MessageSlice::Before(id) => (1, find_anchor(db, *key, id)?.seq - 1, "DESC"),
        MessageSlice::After(id) => (find_anchor(db, *key, id)?.seq + 1, SEQ_MASK, "ASC"),
    };
    let sql = format!("{SELECT_MESSAGE} WHERE key BETWEEN ?1 AND ?2 ORDER BY key {order}");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([message_key(*key, first), message_key(*key, last)])?;
    let mut page = MessagePageBuilder::new(query);
    while let Some(found) = rows.next()? {
        if push_row(&mut page, found, row)?.is_break() {
            break;
        }
    }
    Ok(to_page(if order == "ASC" { page } else { page.reversed() }))
}

fn recent_history(
    db: &Connection,
    session: &SessionId,
    last: &MessageId,
    limits: HistoryLimits,
) -> Result<Vec<HistoryMessage>> {
    let key = find_session_key(db, session)?.ok_or_else(Error::session_not_found)?;
    let at = find_message(db, key, last)?.ok_or_else(Error::message_not_found)?.location;
    let mut found = Vec::new();
    let mut budget = HistoryBudget::new(limits);
    let select = format!(
        "SELECT key, id, role, content, tokens, parent_id, {}, sender_id, created_at, \
         path_tokens FROM messages",
        parts_column(limits)
    );
    walk_backward(db, key, Some(at), &select, |row| {
        let content = row.get_ref(3)?.as_str().map_err(Error::store_unavailable)?;
        let parts = row.get_ref(6)?.as_str_or_null().map_err(Error::store_unavailable)?;
        let tokens = row.get(4)?;
        let with_parts = match budget.admit(content, parts.map_or(0, str::len), tokens) {
            HistoryDecision::Skip => return Ok(ControlFlow::Continue(())),
            HistoryDecision::End => return Ok(ControlFlow::Break(())),
            HistoryDecision::Include { with_parts } => with_parts,
        };
        found.push(HistoryMessage {
            id: MessageId::new_unchecked(row.get::<_, String>(1)?),
            role: decode_word(Role::from_name, row, 2)?,
            content: content.to_owned(),
            tokens,
            parts: decode_parts(parts.filter(|_| with_parts).map(str::to_owned))?,
            parent_id: row.get::<_, Option<String>>(5)?.map(MessageId::new_unchecked),
            sender_id: UserId::new_unchecked(row.get::<_, String>(7)?),
            created_at: Timestamp::from_millis(row.get(8)?),
            path_tokens: row.get::<_, i64>(9)?.unsigned_abs(),
        });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// [`needs_parts`](rules::needs_parts) as a column: SQLite does not read parts that are not needed.
fn parts_column(limits: HistoryLimits) -> String {
    if limits.max_part_bytes == 0 {
        return "NULL".to_owned();
    }
    let roles = ROLES_WITH_PARTS.map(|role| format!("'{}'", role.as_str())).join(", ");
    let finish_reason = FINISH_REASON_WITH_PARTS.as_str();
    format!("CASE WHEN role IN ({roles}) OR finish_reason = '{finish_reason}' THEN parts END")
}
