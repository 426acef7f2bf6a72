//! One atomic step on SQLite, as the rules of a store see it. SQLite answers at once: nothing here
//! ever waits.

use super::paths::{add_siblings, by_id, children, locate, newest_named};
use super::rows::{SELECT_MESSAGE, message_key, message_row, parts, word};
use super::{SqliteStore, append, idempotency, import, ledger, log, queue, sessions, tree, turns};
use crate::domain::node::NodeFill;
use crate::domain::title::SessionTitle;
use crate::domain::{Message, MessageId, Principal, Role, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, Result};
use crate::store::queued::Waiting;
use crate::store::work::{KnownRequest, Location, NodeLine, Place, Placed, SessionRow, Work};
use crate::store::{
    Batch, Claimant, Deleted, IdempotencyKey, ImportSession, LedgerEntry, NewMessage, NewSession,
    Question, SessionChange, Spent,
};
use futures::FutureExt;
use rusqlite::Connection;

/// A transaction.
pub(super) struct Step<'a>(pub(super) &'a Connection);

impl SqliteStore {
    /// Does a step of the rules in the writer's thread.
    pub(super) async fn step<T, F>(&self, rules: F) -> Result<T>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&mut Step<'_>) -> Result<T> + Send + 'static,
    {
        self.write(move |db| at_once(rules(&mut Step(db)))).await
    }
}

/// What a step of the rules came to.
pub(super) fn at_once<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    step.now_or_never().unwrap_or_else(|| Err(Error::internal("a step on SQLite waited")))
}

impl Work for Step<'_> {
    async fn session(&mut self, id: &SessionId) -> Result<Option<SessionRow>> {
        sessions::find(self.0, id)
    }

    async fn visible_session(
        &mut self,
        who: &Principal,
        id: &SessionId,
    ) -> Result<Option<SessionRow>> {
        sessions::find_visible(self.0, who, id)
    }

    async fn insert_session(
        &mut self,
        owner: &UserId,
        id: &SessionId,
        new: &NewSession,
        now: Timestamp,
    ) -> Result<SessionRow> {
        sessions::insert(self.0, owner, id, new, now)
    }

    async fn change_session(
        &mut self,
        row: &SessionRow,
        change: SessionChange,
        now: Timestamp,
    ) -> Result<()> {
        sessions::change(self.0, row, change, now)
    }

    async fn name_session(&mut self, row: &SessionRow, title: &SessionTitle) -> Result<()> {
        sessions::name(self.0, row.key, title)
    }

    async fn place_imported(&mut self, row: &SessionRow, imported: &ImportSession) -> Result<()> {
        import::place(self.0, row, imported)
    }

    async fn save_counters(&mut self, row: &SessionRow) -> Result<()> {
        append::save_counters(self.0, row)
    }

    async fn save_read_marks(&mut self, row: &SessionRow) -> Result<()> {
        tree::save_read_marks(self.0, row)
    }

    async fn delete_session(&mut self, row: &SessionRow) -> Result<Deleted> {
        sessions::delete(self.0, row)
    }

    async fn locate(&mut self, row: &SessionRow, id: &MessageId) -> Result<Option<Place>> {
        locate(self.0, row.key, id)
    }

    async fn by_id(&mut self, row: &SessionRow, id: &MessageId) -> Result<Option<Place>> {
        by_id(self.0, row.key, id)
    }

    async fn newest_named(&mut self, row: &SessionRow, id: &MessageId) -> Result<Option<Place>> {
        newest_named(self.0, row.key, id)
    }

    async fn message(&mut self, row: &SessionRow, at: Location) -> Result<Message> {
        read_message(self.0, row, at.seq)
    }

    async fn question(&mut self, row: &SessionRow, at: Location) -> Result<Question> {
        let sql = "SELECT id, parent_id, role, content, tokens, parts FROM messages WHERE key = ?1";
        let mut statement = self.0.prepare_cached(sql)?;
        let mut rows = statement.query([message_key(row.key, at.seq)])?;
        let row = rows.next()?.ok_or_else(Error::message_not_found)?;
        Ok(Question {
            id: MessageId::trusted(row.get::<_, String>(0)?),
            parent_id: row.get::<_, Option<String>>(1)?.map(MessageId::trusted),
            role: word(Role::from_word, row, 2)?,
            content: row.get(3)?,
            tokens: row.get(4)?,
            parts: parts(row.get(5)?)?,
        })
    }

    async fn children(&mut self, row: &SessionRow, under: Location) -> Result<Vec<Location>> {
        let found = children(self.0, row.key, Some(under))?;
        Ok(found.into_iter().map(|child| child.at).collect())
    }

    async fn fill(&mut self, row: &SessionRow, at: Location) -> Result<NodeFill> {
        append::fill(self.0, row.key, at)
    }

    async fn path_tokens(&mut self, row: &SessionRow, at: Location) -> Result<u64> {
        append::path_tokens(self.0, row.key, at)
    }

    async fn nodes(&mut self, row: &SessionRow) -> Result<Vec<NodeLine>> {
        tree::nodes(self.0, row.key)
    }

    async fn run(
        &mut self,
        row: &SessionRow,
        up_to: Location,
    ) -> Result<Vec<(Location, NewMessage)>> {
        tree::run(self.0, row, up_to)
    }

    async fn put(&mut self, row: &SessionRow, placed: Placed<'_>) -> Result<()> {
        append::put(self.0, row.key, placed)
    }

    async fn hold(&mut self, row: &SessionRow, claimant: &Claimant) -> Result<()> {
        turns::hold(self.0, row, claimant)
    }

    async fn book(&mut self, entry: &LedgerEntry, _at_once: bool) -> Result<()> {
        ledger::book(self.0, entry)
    }

    async fn spent(&mut self, purse: &str, since_day: i64) -> Result<Spent> {
        ledger::spent(self.0, purse, since_day)
    }

    async fn release(&mut self, row: &SessionRow) -> Result<()> {
        turns::release(self.0, row)
    }

    async fn waiting(&mut self, row: &SessionRow) -> Result<Vec<Waiting>> {
        queue::waiting(self.0, row.key)
    }

    async fn push_waiting(
        &mut self,
        row: &SessionRow,
        waiting: &Waiting,
        before_all: bool,
    ) -> Result<()> {
        queue::push(self.0, row.key, waiting, before_all)
    }

    async fn drop_waiting(&mut self, row: &SessionRow, turn: &TurnId) -> Result<bool> {
        queue::remove(self.0, row.key, turn)
    }

    async fn idle_session(&mut self) -> Result<Option<SessionId>> {
        queue::idle_session(self.0)
    }

    async fn known_request(
        &mut self,
        who: &Principal,
        key: &IdempotencyKey,
        since: Timestamp,
    ) -> Result<Option<KnownRequest>> {
        idempotency::find(self.0, who, key, since)
    }

    async fn remember_request(
        &mut self,
        who: &Principal,
        key: &IdempotencyKey,
        known: &KnownRequest,
        now: Timestamp,
        since: Timestamp,
    ) -> Result<()> {
        idempotency::remember(self.0, who, key, known, now, since)
    }

    async fn end_log(
        &mut self,
        row: &SessionRow,
        turn: &TurnId,
        last: &Batch,
        now: Timestamp,
    ) -> Result<()> {
        log::end_log(self.0, row.key, turn, last, now)
    }
}

/// One message with its siblings.
pub(super) fn read_message(db: &Connection, row: &SessionRow, seq: u32) -> Result<Message> {
    let mut statement = db.prepare_cached(&format!("{SELECT_MESSAGE} WHERE key = ?1"))?;
    let mut rows = statement.query([message_key(row.key, seq)])?;
    let found = rows.next()?.ok_or_else(Error::message_not_found)?;
    let mut message = message_row(found, row)?;
    add_siblings(db, row.key, std::slice::from_mut(&mut message))?;
    Ok(message)
}
