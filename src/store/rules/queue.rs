//! Turns that wait for a session's running turn to end, and how they begin then.

use super::posts::ensure_open;
use super::turns::{TurnClaim, claim_for_regeneration, store_message_and_claim};
use crate::domain::quota::UsagePayer;
use crate::domain::{SessionId, Timestamp, TurnId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::queued_turn::QueuedTurn;
use crate::store::transaction::{SessionRow, StoreTransaction};
use crate::store::{
    BeginOutcome, CancelledTurns, FinishOutcome, LeaseHolder, MAX_QUEUED, OnBusy, StartedTurn,
    TurnInput, TurnSpec,
};

/// Puts a turn behind those that wait, or before them. Errors: `queue_full`.
pub(super) async fn enqueue_turn(
    tx: &mut impl StoreTransaction,
    row: &SessionRow,
    queued: &QueuedTurn,
    on_busy: OnBusy,
) -> Result<()> {
    if tx.queued_turns(row).await?.len() >= MAX_QUEUED as usize {
        let message = format!("{MAX_QUEUED} messages wait in this session already");
        return Err(Error::limit_exceeded(ErrorKind::QueueFull, message, MAX_QUEUED, 1));
    }
    tx.enqueue(row, queued, on_busy == OnBusy::Interrupt).await
}

/// Drops the turns that wait in a session, unless another turn runs than the one that is named.
pub(in crate::store) async fn cancel_queued_turns(
    tx: &mut impl StoreTransaction,
    session: &SessionId,
    only: Option<&TurnId>,
) -> Result<CancelledTurns> {
    let Some(row) = tx.find_session(session).await? else { return Ok(CancelledTurns::default()) };
    let running = row.session.active_turn.as_ref().map(|turn| turn.turn_id.clone());
    if only.is_some() && only != running.as_ref() {
        return Ok(CancelledTurns::default());
    }
    let mut dequeued = Vec::new();
    for QueuedTurn { turn, .. } in tx.queued_turns(&row).await? {
        tx.dequeue(&row, &turn.turn_id).await?;
        dequeued.push(turn.turn_id);
    }
    Ok(CancelledTurns { running, dequeued })
}

/// Drops one turn that waits. Whether it still did.
pub(in crate::store) async fn remove_queued_turn(
    tx: &mut impl StoreTransaction,
    session: &SessionId,
    turn: &TurnId,
) -> Result<bool> {
    match tx.find_session(session).await? {
        Some(row) => tx.dequeue(&row, turn).await,
        None => Ok(false),
    }
}

/// Begins a waiting turn of any session in which none runs.
pub(in crate::store) async fn begin_queued_turn(
    tx: &mut impl StoreTransaction,
    lease_holder: &LeaseHolder,
    now: Timestamp,
) -> Result<FinishOutcome> {
    let mut outcome = FinishOutcome::default();
    while outcome.next.is_none()
        && let Some(session) = tx.find_startable_session().await?
    {
        let row = tx.find_session(&session).await?.ok_or_else(Error::session_not_found)?;
        let before = outcome.skipped.len();
        outcome.next = begin_next_queued(tx, row, lease_holder, now, &mut outcome.skipped).await?;
        if outcome.next.is_none() && outcome.skipped.len() == before {
            // What waits there cannot be read: it must not keep the others from theirs for ever.
            tracing::error!(session.id = %session, "turns wait that cannot be read");
            break;
        }
    }
    Ok(outcome)
}

/// Begins the first turn that waits in an idle session. One that cannot begin any more is passed
/// over, with nothing of it stored.
pub(super) async fn begin_next_queued(
    tx: &mut impl StoreTransaction,
    row: SessionRow,
    lease_holder: &LeaseHolder,
    now: Timestamp,
    skipped: &mut Vec<TurnId>,
) -> Result<Option<Box<StartedTurn>>> {
    let session = row.session.id.clone();
    let queued = tx.queued_turns(&row).await?;
    let mut loaded = Some(row);
    for QueuedTurn { principal, turn, key_id: key } in queued {
        let payer = UsagePayer { user: principal.user, key };
        let row = match loaded.take() {
            Some(row) => row,
            None => tx.find_session(&session).await?.ok_or_else(Error::session_not_found)?,
        };
        let turn_id = turn.turn_id.clone();
        tx.dequeue(&row, &turn_id).await?;
        match try_begin_queued(tx, row, turn, payer, lease_holder, now).await {
            Ok(BeginOutcome::Running(started)) => return Ok(Some(started)),
            // Stored, and a person will answer it.
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::StoreUnavailable => return Err(error),
            Err(error) => {
                tracing::warn!(turn.id = %turn_id, error = %error, "a waiting turn could not begin");
            }
        }
        skipped.push(turn_id);
    }
    Ok(None)
}

async fn try_begin_queued(
    tx: &mut impl StoreTransaction,
    row: SessionRow,
    turn: TurnSpec,
    payer: UsagePayer,
    lease_holder: &LeaseHolder,
    now: Timestamp,
) -> Result<BeginOutcome> {
    // It may have been closed since the turn was asked for.
    ensure_open(&row)?;
    let TurnSpec { turn_id, reply_id, input, options } = turn;
    let claim = TurnClaim {
        turn_id,
        reply_id,
        options,
        preceding: Vec::new(),
        payer,
        was_queued: true,
        lease_holder,
        now,
    };
    match input {
        TurnInput::Send { mut message, parent, .. } => {
            message.created_at = now;
            if tx.find_message_by_id(&row, &message.id).await?.is_some() {
                return Err(Error::new(ErrorKind::IdConflict, "the message is stored already"));
            }
            store_message_and_claim(tx, row, *message, &parent, claim).await
        }
        TurnInput::Regenerate { reply_id: reply } => {
            claim_for_regeneration(tx, row, reply, claim).await
        }
    }
}
