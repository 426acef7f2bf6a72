//! Turns in SQLite. The table `turns` holds the claims.

use super::transaction::SqliteTransaction;
use super::{SqliteStore, turn_log};
use crate::domain::title::SessionTitle;
use crate::domain::{SessionId, Timestamp, TurnId};
use crate::error::Result;
use crate::store::transaction::{SessionRow, TurnTransaction};
use crate::store::{
    BeginOutcome, BeginTurn, CancelledTurns, FinishOutcome, FinishTurn, LeaseHolder, LogBatch,
    TurnStore, rules,
};
use async_trait::async_trait;
use rusqlite::params;

#[async_trait]
impl TurnStore for SqliteStore {
    async fn begin_turn(&self, begin: BeginTurn) -> Result<BeginOutcome> {
        self.transact(async move |tx| rules::begin_turn(tx, &begin).await).await
    }

    async fn finish_turn(&self, finish: FinishTurn) -> Result<Option<FinishOutcome>> {
        self.transact(async move |tx| rules::finish_turn(tx, &finish).await).await
    }

    async fn begin_queued_turn(
        &self,
        lease_holder: &LeaseHolder,
        now: Timestamp,
    ) -> Result<FinishOutcome> {
        let lease_holder = lease_holder.clone();
        self.transact(async move |tx| rules::begin_queued_turn(tx, &lease_holder, now).await).await
    }

    async fn cancel_queued_turns(
        &self,
        session: &SessionId,
        only: Option<&TurnId>,
    ) -> Result<CancelledTurns> {
        let session = session.clone();
        let only = only.cloned();
        self.transact(async move |tx| rules::cancel_queued_turns(tx, &session, only.as_ref()).await)
            .await
    }

    async fn remove_queued_turn(&self, session: &SessionId, turn: &TurnId) -> Result<bool> {
        let session = session.clone();
        let turn = turn.clone();
        self.transact(async move |tx| rules::remove_queued_turn(tx, &session, &turn).await).await
    }

    async fn set_generated_title(&self, session: &SessionId, title: SessionTitle) -> Result<bool> {
        let session = session.clone();
        self.transact(async move |tx| rules::set_generated_title(tx, &session, &title).await).await
    }
}

impl TurnTransaction for SqliteTransaction<'_> {
    /// Invariant: at most one running turn per session, because the session is the primary key of
    /// `turns`.
    async fn claim(&mut self, row: &SessionRow, lease_holder: &LeaseHolder) -> Result<()> {
        let (turn, payer) = row.new_claim()?;
        let sql = "INSERT INTO turns VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        self.db.prepare_cached(sql)?.execute(params![
            self.session_key(row)?,
            turn.turn_id.as_str(),
            turn.message_id.as_str(),
            turn.user_message_id.as_ref().map(|id| id.as_str()),
            turn.started_at.as_millis(),
            lease_holder.instance,
            lease_holder.boot,
            payer.user.as_str(),
            payer.key.as_ref().map(|key| key.as_str())
        ])?;
        Ok(())
    }

    async fn release(&mut self, row: &SessionRow) -> Result<()> {
        let sql = "DELETE FROM turns WHERE session = ?1";
        self.db.prepare_cached(sql)?.execute([self.session_key(row)?])?;
        Ok(())
    }

    async fn finish_log(
        &mut self,
        row: &SessionRow,
        turn: &TurnId,
        last: &LogBatch,
        now: Timestamp,
    ) -> Result<()> {
        turn_log::finish_log(self.db, self.session_key(row)?, turn, last, now)
    }
}
