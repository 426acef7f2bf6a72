//! One atomic step on MongoDB, as the rules of a store see it.

use super::documents::date;
use super::paths::Named;
use super::step::Step;
use crate::domain::node::NodeFill;
use crate::domain::title::SessionTitle;
use crate::domain::{Message, MessageId, Principal, SessionId, Timestamp, TurnId, UserId};
use crate::error::Result;
use crate::store::queued::Waiting;
use crate::store::work::{KnownRequest, Location, NodeLine, Place, Placed, SessionRow, Work};
use crate::store::{
    Batch, Claimant, Deleted, IdempotencyKey, ImportSession, LedgerEntry, NewMessage, NewSession,
    Question, SessionChange, Spent,
};

impl Work for Step {
    async fn session(&mut self, id: &SessionId) -> Result<Option<SessionRow>> {
        self.find_session(id).await
    }

    async fn visible_session(
        &mut self,
        _who: &Principal,
        id: &SessionId,
    ) -> Result<Option<SessionRow>> {
        self.find_session(id).await
    }

    async fn insert_session(
        &mut self,
        owner: &UserId,
        id: &SessionId,
        new: &NewSession,
        now: Timestamp,
    ) -> Result<SessionRow> {
        self.add_session(owner, id, new, now).await
    }

    async fn change_session(
        &mut self,
        row: &SessionRow,
        change: SessionChange,
        now: Timestamp,
    ) -> Result<()> {
        self.change(row, change, now)
    }

    async fn name_session(&mut self, row: &SessionRow, title: &SessionTitle) -> Result<()> {
        self.name(row, title)
    }

    async fn place_imported(&mut self, _row: &SessionRow, import: &ImportSession) -> Result<()> {
        self.place(import)
    }

    async fn save_counters(&mut self, row: &SessionRow) -> Result<()> {
        self.count(row)
    }

    async fn save_read_marks(&mut self, row: &SessionRow) -> Result<()> {
        self.mark_read(row)
    }

    async fn delete_session(&mut self, row: &SessionRow) -> Result<Deleted> {
        self.remove(row).await
    }

    async fn expect_many(&mut self, row: &SessionRow) -> Result<()> {
        self.read_names(&row.session.id).await
    }

    async fn locate(&mut self, row: &SessionRow, id: &MessageId) -> Result<Option<Place>> {
        self.find_message(&row.session.id, id).await
    }

    async fn by_id(&mut self, row: &SessionRow, id: &MessageId) -> Result<Option<Place>> {
        Ok(self.named(&row.session.id, id, Named::ById).await?.pop())
    }

    async fn newest_named(&mut self, row: &SessionRow, id: &MessageId) -> Result<Option<Place>> {
        Ok(self.named(&row.session.id, id, Named::ByAnyName).await?.pop())
    }

    async fn message(&mut self, row: &SessionRow, at: Location) -> Result<Message> {
        self.read_message(row, at).await
    }

    async fn question(&mut self, row: &SessionRow, at: Location) -> Result<Question> {
        self.stored(&row.session.id, at).await?.into_question()
    }

    async fn children(&mut self, row: &SessionRow, under: Location) -> Result<Vec<Location>> {
        let found = self.children_of(&row.session.id, Some(under)).await?;
        Ok(found.into_iter().map(|child| child.at).collect())
    }

    async fn fill(&mut self, row: &SessionRow, at: Location) -> Result<NodeFill> {
        self.node_fill(&row.session.id, at).await
    }

    async fn path_tokens(&mut self, row: &SessionRow, at: Location) -> Result<u64> {
        self.tokens_up_to(&row.session.id, at).await
    }

    async fn nodes(&mut self, row: &SessionRow) -> Result<Vec<NodeLine>> {
        self.node_lines(&row.session.id).await
    }

    async fn run(
        &mut self,
        row: &SessionRow,
        up_to: Location,
    ) -> Result<Vec<(Location, NewMessage)>> {
        self.node_run(row, up_to).await
    }

    async fn put(&mut self, row: &SessionRow, placed: Placed<'_>) -> Result<()> {
        self.put_message(&row.session.id, placed).await
    }

    async fn hold(&mut self, row: &SessionRow, claimant: &Claimant) -> Result<()> {
        self.claim(row, claimant)
    }

    async fn book(&mut self, entry: &LedgerEntry, at_once: bool) -> Result<()> {
        self.book_turn(entry, at_once)
    }

    async fn spent(&mut self, purse: &str, since_day: i64) -> Result<Spent> {
        self.spent_of_purse(purse, since_day).await
    }

    async fn release(&mut self, _row: &SessionRow) -> Result<()> {
        self.unset("activeTurn");
        Ok(())
    }

    async fn waiting(&mut self, _row: &SessionRow) -> Result<Vec<Waiting>> {
        self.queued().await
    }

    async fn push_waiting(
        &mut self,
        row: &SessionRow,
        waiting: &Waiting,
        before_all: bool,
    ) -> Result<()> {
        self.enqueue(&row.session.id, waiting, before_all).await
    }

    async fn drop_waiting(&mut self, _row: &SessionRow, turn: &TurnId) -> Result<bool> {
        Ok(self.dequeue(turn))
    }

    async fn idle_session(&mut self) -> Result<Option<SessionId>> {
        self.idle().await
    }

    async fn known_request(
        &mut self,
        who: &Principal,
        key: &IdempotencyKey,
        since: Timestamp,
    ) -> Result<Option<KnownRequest>> {
        self.find_request(who, key, since).await
    }

    async fn remember_request(
        &mut self,
        who: &Principal,
        key: &IdempotencyKey,
        known: &KnownRequest,
        now: Timestamp,
        _since: Timestamp,
    ) -> Result<()> {
        self.note_request(who, key, known, now).await
    }

    async fn end_log(
        &mut self,
        row: &SessionRow,
        turn: &TurnId,
        last: &Batch,
        now: Timestamp,
    ) -> Result<()> {
        let mut end = super::log::document(&row.session.id, turn, last);
        end.insert("endedAt", date(now));
        self.log_end = Some(end);
        Ok(())
    }
}
