//! Turns in MongoDB. Each operation runs its rule in one transaction.

use super::MongoStore;
use super::documents::{ClaimDoc, to_bson_date, to_document};
use super::transaction::{MongoTransaction, transact};
use super::turn_log::to_batch_document;
use crate::domain::title::SessionTitle;
use crate::domain::{SessionId, Timestamp, TurnId};
use crate::error::Result;
use crate::store::transaction::{SessionRow, TurnTransaction};
use crate::store::{
    BeginOutcome, BeginTurn, CancelledTurns, FinishOutcome, FinishTurn, LeaseHolder, LogBatch,
    TurnStore, rules,
};
use async_trait::async_trait;
use mongodb::bson::doc;

#[async_trait]
impl TurnStore for MongoStore {
    async fn begin_turn(&self, begin: BeginTurn) -> Result<BeginOutcome> {
        let begin = &begin;
        transact!(self, |tx| rules::begin_turn(tx, begin).await)
    }

    async fn finish_turn(&self, finish: FinishTurn) -> Result<Option<FinishOutcome>> {
        let finish = &finish;
        transact!(self, |tx| rules::finish_turn(tx, finish).await)
    }

    async fn begin_queued_turn(
        &self,
        lease_holder: &LeaseHolder,
        now: Timestamp,
    ) -> Result<FinishOutcome> {
        transact!(self, |tx| rules::begin_queued_turn(tx, lease_holder, now).await)
    }

    async fn cancel_queued_turns(
        &self,
        session: &SessionId,
        only: Option<&TurnId>,
    ) -> Result<CancelledTurns> {
        transact!(self, |tx| rules::cancel_queued_turns(tx, session, only).await)
    }

    async fn remove_queued_turn(&self, session: &SessionId, turn: &TurnId) -> Result<bool> {
        transact!(self, |tx| rules::remove_queued_turn(tx, session, turn).await)
    }

    async fn set_generated_title(&self, session: &SessionId, title: SessionTitle) -> Result<bool> {
        let title = &title;
        transact!(self, |tx| rules::set_generated_title(tx, session, title).await)
    }
}

impl TurnTransaction for MongoTransaction {
    /// Invariant: at most one turn per session is running. The document has a single field for the
    /// claim, and the commit requires the revision at which it was seen to be free.
    async fn claim(&mut self, row: &SessionRow, lease_holder: &LeaseHolder) -> Result<()> {
        let (turn, payer) = row.new_claim()?;
        let claim = to_document(&ClaimDoc::new(turn, lease_holder, payer))?;
        self.set_fields(doc! { "activeTurn": claim });
        Ok(())
    }

    async fn release(&mut self, _row: &SessionRow) -> Result<()> {
        self.unset_field("activeTurn");
        Ok(())
    }

    async fn finish_log(
        &mut self,
        row: &SessionRow,
        turn: &TurnId,
        last: &LogBatch,
        now: Timestamp,
    ) -> Result<()> {
        let created_revision = self.loaded.as_ref().map(|session| session.created_revision);
        let mut batch = to_batch_document(&row.session.id, created_revision, turn, last);
        batch.insert("endedAt", to_bson_date(now));
        self.last_log_batch = Some(batch);
        self.last_log_bytes = last.frames.len();
        Ok(())
    }
}
