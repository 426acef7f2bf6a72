//! Turns in MongoDB: each call one step of the rules.

use super::MongoStore;
use super::step::step;
use crate::domain::title::SessionTitle;
use crate::domain::{SessionId, Timestamp, TurnId};
use crate::error::Result;
use crate::store::{Began, BeginTurn, Claimant, FinishTurn, Finished, Silenced, TurnStore, rules};
use async_trait::async_trait;

#[async_trait]
impl TurnStore for MongoStore {
    async fn begin_turn(&self, begin: BeginTurn) -> Result<Began> {
        let begin = &begin;
        step!(self, |step| rules::begin_turn(step, begin).await)
    }

    async fn finish_turn(&self, finish: FinishTurn) -> Result<Option<Finished>> {
        let finish = &finish;
        step!(self, |step| rules::finish_turn(step, finish).await)
    }

    async fn begin_waiting(&self, claimant: &Claimant, now: Timestamp) -> Result<Finished> {
        step!(self, |step| rules::begin_waiting(step, claimant, now).await)
    }

    async fn silence(&self, session: &SessionId, only: Option<&TurnId>) -> Result<Silenced> {
        step!(self, |step| rules::silence(step, session, only).await)
    }

    async fn withdraw(&self, session: &SessionId, turn: &TurnId) -> Result<bool> {
        step!(self, |step| rules::withdraw(step, session, turn).await)
    }

    async fn name_session(&self, session: &SessionId, title: SessionTitle) -> Result<bool> {
        let title = &title;
        step!(self, |step| rules::name_session(step, session, title).await)
    }
}
