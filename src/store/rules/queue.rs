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
    work: &mut impl StoreTransaction,
    row: &SessionRow,
    waiting: &QueuedTurn,
    on_busy: OnBusy,
) -> Result<()> {
    if work.queued_turns(row).await?.len() >= MAX_QUEUED as usize {
        let message = format!("{MAX_QUEUED} messages wait in this session already");
        return Err(Error::limit_exceeded(ErrorKind::QueueFull, message, MAX_QUEUED, 1));
    }
    work.enqueue(row, waiting, on_busy == OnBusy::Interrupt).await
}

/// Drops the turns that wait in a session, unless another turn runs than the one that is named.
pub(in crate::store) async fn cancel_queued_turns(
    work: &mut impl StoreTransaction,
    session: &SessionId,
    only: Option<&TurnId>,
) -> Result<CancelledTurns> {
    let Some(row) = work.find_session(session).await? else { return Ok(CancelledTurns::default()) };
    let running = row.session.active_turn.as_ref().map(|turn| turn.turn_id.clone());
    if only.is_some() && only != running.as_ref() {
        return Ok(CancelledTurns::default());
    }
    let mut dropped = Vec::new();
    for QueuedTurn { turn, .. } in work.queued_turns(&row).await? {
        work.dequeue(&row, &turn.turn_id).await?;
        dropped.push(turn.turn_id);
    }
    Ok(CancelledTurns { running, dequeued: dropped })
}

/// Drops one turn that waits. Whether it still did.
pub(in crate::store) async fn remove_queued_turn(
    work: &mut impl StoreTransaction,
    session: &SessionId,
    turn: &TurnId,
) -> Result<bool> {
    match work.find_session(session).await? {
        Some(row) => work.dequeue(&row, turn).await,
        None => Ok(false),
    }
}

/// Begins a waiting turn of any session in which none runs.
pub(in crate::store) async fn begin_queued_turn(
    work: &mut impl StoreTransaction,
    claimant: &LeaseHolder,
    now: Timestamp,
) -> Result<FinishOutcome> {
    let mut finished = FinishOutcome::default();
    while finished.next.is_none()
        && let Some(session) = work.find_startable_session().await?
    {
        let row = work.find_session(&session).await?.ok_or_else(Error::session_not_found)?;
        let before = finished.skipped.len();
        finished.next = begin_next_queued(work, row, claimant, now, &mut finished.skipped).await?;
        if finished.next.is_none() && finished.skipped.len() == before {
            // What waits there cannot be read: it must not keep the others from theirs for ever.
            tracing::error!(session.id = %session, "turns wait that cannot be read");
            break;
        }
    }
    Ok(finished)
}

/// Begins the first turn that waits in an idle session. One that cannot begin any more is passed
/// over, with nothing of it stored.
pub(super) async fn begin_next_queued(
    work: &mut impl StoreTransaction,
    row: SessionRow,
    claimant: &LeaseHolder,
    now: Timestamp,
    passed_over: &mut Vec<TurnId>,
) -> Result<Option<Box<StartedTurn>>> {
    let session = row.session.id.clone();
    let waiting = work.queued_turns(&row).await?;
    let mut fresh = Some(row);
    for QueuedTurn { principal: who, turn, key_id: key } in waiting {
        let payer = UsagePayer { user: who.user, key };
        let row = match fresh.take() {
            Some(row) => row,
            None => work.find_session(&session).await?.ok_or_else(Error::session_not_found)?,
        };
        let waited = turn.turn_id.clone();
        work.dequeue(&row, &waited).await?;
        match try_begin_queued(work, row, turn, payer, claimant, now).await {
            Ok(BeginOutcome::Running(begun)) => return Ok(Some(begun)),
            // Stored, and a person will answer it.
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::StoreUnavailable => return Err(error),
            Err(error) => {
                tracing::warn!(turn.id = %waited, error = %error, "a waiting turn could not begin");
            }
        }
        passed_over.push(waited);
    }
    Ok(None)
}

async fn try_begin_queued(
    work: &mut impl StoreTransaction,
    row: SessionRow,
    turn: TurnSpec,
    payer: UsagePayer,
    claimant: &LeaseHolder,
    now: Timestamp,
) -> Result<BeginOutcome> {
    // It may have been closed since the turn was asked for.
    ensure_open(&row)?;
    let TurnSpec { turn_id, reply_id, input: ask, options } = turn;
    let claim = TurnClaim {
        turn_id,
        reply_id,
        options,
        preceding: Vec::new(),
        payer,
        was_queued: true,
        lease_holder: claimant,
        now,
    };
    match ask {
        TurnInput::Send { mut message, parent, .. } => {
            message.created_at = now;
            if work.find_message_by_id(&row, &message.id).await?.is_some() {
                return Err(Error::new(ErrorKind::IdConflict, "the message is stored already"));
            }
            store_message_and_claim(work, row, *message, &parent, claim).await
        }
        TurnInput::Regenerate { reply_id: reply } => {
            claim_for_regeneration(work, row, reply, claim).await
        }
    }
}
