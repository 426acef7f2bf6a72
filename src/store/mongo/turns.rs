//! Turns in MongoDB: each call one step of the rules.

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
        transact!(self, |step| rules::begin_turn(step, begin).await)
    }

    async fn finish_turn(&self, finish: FinishTurn) -> Result<Option<FinishOutcome>> {
        let finish = &finish;
        transact!(self, |step| rules::finish_turn(step, finish).await)
    }

    async fn begin_queued_turn(
        &self,
        claimant: &LeaseHolder,
        now: Timestamp,
    ) -> Result<FinishOutcome> {
        transact!(self, |step| rules::begin_queued_turn(step, claimant, now).await)
    }

    async fn cancel_queued_turns(
        &self,
        session: &SessionId,
        only: Option<&TurnId>,
    ) -> Result<CancelledTurns> {
        transact!(self, |step| rules::cancel_queued_turns(step, session, only).await)
    }

    async fn remove_queued_turn(&self, session: &SessionId, turn: &TurnId) -> Result<bool> {
        transact!(self, |step| rules::remove_queued_turn(step, session, turn).await)
    }

    async fn set_generated_title(&self, session: &SessionId, title: SessionTitle) -> Result<bool> {
        let title = &title;
        transact!(self, |step| rules::set_generated_title(step, session, title).await)
    }
}
