//! [`SqliteTransaction`] as the rules see it: the implementation of [`StoreTransaction`].
//!
//! SQLite answers synchronously, so the async functions here never wait.

use super::messages::read_message;
use super::paths::{find_message, find_message_by_id, find_newest_message, list_children};
use super::rows::{decode_word, message_key};
use super::transaction::SqliteTransaction;
use super::{
    append, idempotency, ledger, queue, session_rows, sessions, transfer, tree, turn_log, turns,
};
use crate::domain::node::NodeFill;
use crate::domain::title::SessionTitle;
use crate::domain::{Message, MessageId, Principal, Role, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, Result};
use crate::store::queued_turn::QueuedTurn;
use crate::store::stored_values::decode_parts;
use crate::store::transaction::{
    LocatedMessage, MessageInsert, MessageLocation, NodeHeader, PriorRequest, SessionRow,
    StoreTransaction,
};
use crate::store::{
    DeletionResult, IdempotencyKey, ImportSession, LeaseHolder, LedgerEntry, LogBatch, NewMessage,
    NewSession, SessionUpdate, UsageTotal, UserMessage,
};

impl StoreTransaction for SqliteTransaction<'_> {
    async fn find_session(&mut self, id: &SessionId) -> Result<Option<SessionRow>> {
        session_rows::find_session(self.0, id)
    }

    async fn find_visible_session(
        &mut self,
        principal: &Principal,
        id: &SessionId,
    ) -> Result<Option<SessionRow>> {
        session_rows::find_visible_session(self.0, principal, id)
    }

    async fn insert_session(
        &mut self,
        owner: &UserId,
        id: &SessionId,
        new: &NewSession,
        now: Timestamp,
    ) -> Result<SessionRow> {
        sessions::insert_session(self.0, owner, id, new, now)
    }

    async fn update_session(
        &mut self,
        row: &SessionRow,
        update: SessionUpdate,
        now: Timestamp,
    ) -> Result<()> {
        sessions::update_session(self.0, row, update, now)
    }

    async fn set_title(&mut self, row: &SessionRow, title: &SessionTitle) -> Result<()> {
        sessions::set_title(self.0, row.key, title)
    }

    async fn set_imported_fields(
        &mut self,
        row: &SessionRow,
        imported: &ImportSession,
    ) -> Result<()> {
        transfer::set_imported_fields(self.0, row, imported)
    }

    async fn save_counters(&mut self, row: &SessionRow) -> Result<()> {
        append::save_counters(self.0, row)
    }

    async fn save_read_marks(&mut self, row: &SessionRow) -> Result<()> {
        tree::save_read_marks(self.0, row)
    }

    async fn delete_session(&mut self, row: &SessionRow) -> Result<DeletionResult> {
        sessions::delete_session(self.0, row)
    }

    async fn find_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        find_message(self.0, row.key, id)
    }

    async fn find_message_by_id(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        find_message_by_id(self.0, row.key, id)
    }

    async fn find_newest_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>> {
        find_newest_message(self.0, row.key, id)
    }

    async fn read_message(&mut self, row: &SessionRow, at: MessageLocation) -> Result<Message> {
        read_message(self.0, row, at.seq)
    }

    async fn read_user_message(
        &mut self,
        row: &SessionRow,
        at: MessageLocation,
    ) -> Result<UserMessage> {
        let sql = "SELECT id, parent_id, role, content, tokens, parts FROM messages WHERE key = ?1";
        let mut statement = self.0.prepare_cached(sql)?;
        let mut rows = statement.query([message_key(row.key, at.seq)])?;
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

    async fn list_children(
        &mut self,
        row: &SessionRow,
        parent: MessageLocation,
    ) -> Result<Vec<MessageLocation>> {
        let found = list_children(self.0, row.key, Some(parent))?;
        Ok(found.into_iter().map(|child| child.location).collect())
    }

    async fn node_fill(&mut self, row: &SessionRow, at: MessageLocation) -> Result<NodeFill> {
        append::node_fill(self.0, row.key, at)
    }

    async fn path_tokens(&mut self, row: &SessionRow, at: MessageLocation) -> Result<u64> {
        append::path_tokens(self.0, row.key, at)
    }

    async fn list_nodes(&mut self, row: &SessionRow) -> Result<Vec<NodeHeader>> {
        tree::list_nodes(self.0, row.key)
    }

    async fn node_messages(
        &mut self,
        row: &SessionRow,
        up_to: MessageLocation,
    ) -> Result<Vec<(MessageLocation, NewMessage)>> {
        tree::node_messages(self.0, row, up_to)
    }

    async fn insert_message(&mut self, row: &SessionRow, insert: MessageInsert<'_>) -> Result<()> {
        append::insert_message(self.0, row.key, insert)
    }

    async fn claim(&mut self, row: &SessionRow, lease_holder: &LeaseHolder) -> Result<()> {
        turns::claim(self.0, row, lease_holder)
    }

    async fn record_usage(&mut self, entry: &LedgerEntry, _is_urgent: bool) -> Result<()> {
        // The totals are updated in this transaction, so they are always current.
        ledger::record_usage(self.0, entry)
    }

    async fn usage_total(&mut self, quota_key: &str, since_day: i64) -> Result<UsageTotal> {
        ledger::usage_total(self.0, quota_key, since_day)
    }

    async fn release(&mut self, row: &SessionRow) -> Result<()> {
        turns::release(self.0, row)
    }

    async fn queued_turns(&mut self, row: &SessionRow) -> Result<Vec<QueuedTurn>> {
        queue::queued_turns(self.0, row.key)
    }

    async fn enqueue(&mut self, row: &SessionRow, turn: &QueuedTurn, at_front: bool) -> Result<()> {
        queue::enqueue(self.0, row.key, turn, at_front)
    }

    async fn dequeue(&mut self, row: &SessionRow, turn: &TurnId) -> Result<bool> {
        queue::dequeue(self.0, row.key, turn)
    }

    async fn find_startable_session(&mut self) -> Result<Option<SessionId>> {
        queue::find_startable_session(self.0)
    }

    async fn find_request(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        since: Timestamp,
    ) -> Result<Option<PriorRequest>> {
        idempotency::find_request(self.0, principal, key, since)
    }

    async fn record_request(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        request: &PriorRequest,
        now: Timestamp,
        since: Timestamp,
    ) -> Result<()> {
        idempotency::record_request(self.0, principal, key, request, now, since)
    }

    async fn finish_log(
        &mut self,
        row: &SessionRow,
        turn: &TurnId,
        last: &LogBatch,
        now: Timestamp,
    ) -> Result<()> {
        turn_log::finish_log(self.0, row.key, turn, last, now)
    }
}
