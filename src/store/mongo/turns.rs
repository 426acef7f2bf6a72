//! Turns in MongoDB. Each operation runs its rule in one transaction.

use super::MongoStore;
use super::transaction::transact;
use crate::domain::title::SessionTitle;
use crate::domain::{SessionId, Timestamp, TurnId};
use crate::error::Result;
use crate::store::{
    BeginOutcome, BeginTurn, CancelledTurns, FinishOutcome, FinishTurn, LeaseHolder, TurnStore,
    rules,
};
use async_trait::async_trait;

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
