//! Turns that are queued for a session with a running turn, and how they start.

use super::claim::{TurnClaim, claim_for_regeneration, store_message_and_claim};
use super::posts::ensure_open;
use crate::domain::key::KeyId;
use crate::domain::principal::{AccessDecision, AccessLevel};
use crate::domain::quota::UsagePayer;
use crate::domain::{Principal, Session, SessionId, Timestamp, TurnId};
use crate::error::{Error, ErrorKind, Result};
use crate::store::queued_turn::QueuedTurn;
use crate::store::transaction::{SessionRow, StoreTransaction};
use crate::store::{
    BeginOutcome, CancelledTurns, FinishOutcome, LeaseHolder, MAX_QUEUED, OnBusy, SkippedTurn,
    StartedTurn, TurnInput, TurnSpec,
};

/// Adds a turn at the end or at the front of the queue. Errors: `queue_full`.
pub(super) async fn enqueue_turn(
    tx: &mut impl StoreTransaction,
    row: &SessionRow,
    queued: &QueuedTurn,
    on_busy: OnBusy,
) -> Result<()> {
    if tx.queued_turns(row).await?.len() >= MAX_QUEUED as usize {
        let message = format!("the queue of this session is full: {MAX_QUEUED} turns are waiting");
        return Err(Error::limit_exceeded(ErrorKind::QueueFull, message, MAX_QUEUED, 1));
    }
    tx.enqueue(row, queued, on_busy == OnBusy::Interrupt).await
}

/// Empties the queue of a session, unless `only` is given and another turn is running.
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

/// Removes one turn from the queue. Returns whether it was still queued.
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

/// Begins a queued turn of any session that has no running one.
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
            // The queue holds only entries that cannot be read, and they stay in it. Without this
            // stop, the search would return the same session forever.
            tracing::error!(session.id = %session, "queued turns cannot be read");
            break;
        }
    }
    Ok(outcome)
}

/// Begins the first turn in the queue of an idle session that still can begin. Turns before it are
/// removed and added to `skipped`.
pub(super) async fn begin_next_queued(
    tx: &mut impl StoreTransaction,
    row: SessionRow,
    lease_holder: &LeaseHolder,
    now: Timestamp,
    skipped: &mut Vec<SkippedTurn>,
) -> Result<Option<Box<StartedTurn>>> {
    let session = row.session.id.clone();
    let queued = tx.queued_turns(&row).await?;
    let mut loaded = Some(row);
    for QueuedTurn { principal, turn, key_id: key } in queued {
        let row = match loaded.take() {
            Some(row) => row,
            // A skipped turn may have changed the session, for example stored its message.
            None => tx.find_session(&session).await?.ok_or_else(Error::session_not_found)?,
        };
        let turn_id = turn.turn_id.clone();
        // Removed in the transaction that claims the session: after a crash the turn is either
        // still queued or running, never lost.
        tx.dequeue(&row, &turn_id).await?;
        // Access may have gone since the turn was queued.
        if !may_begin_queued(tx, &row, &principal, key.as_ref(), now).await? {
            tracing::info!(turn.id = %turn_id, "queued turn removed: its sender has lost access");
            skipped.push(SkippedTurn { turn_id, has_lost_access: true });
            loaded = Some(row);
            continue;
        }
        let payer = UsagePayer { user: principal.user, key };
        match try_begin_queued(tx, row, turn, payer, lease_holder, now).await {
            Ok(BeginOutcome::Running(started)) => return Ok(Some(started)),
            // The message is stored for a human agent; there is no turn to run.
            Ok(_) => {}
            // The store has failed, not this turn: roll back, so that it stays queued.
            Err(error) if error.kind == ErrorKind::StoreUnavailable => return Err(error),
            Err(error) => {
                tracing::warn!(turn.id = %turn_id, error = %error, "queued turn could not begin; skipping it");
            }
        }
        skipped.push(SkippedTurn { turn_id, has_lost_access: false });
    }
    Ok(None)
}

/// Whether a request that the sender made now, with the same key, would be let in.
async fn may_begin_queued(
    tx: &mut impl StoreTransaction,
    row: &SessionRow,
    sender: &Principal,
    key: Option<&KeyId>,
    now: Timestamp,
) -> Result<bool> {
    let Session { owner, participants, .. } = &row.session;
    let access = sender.authorize(AccessLevel::Participant, owner, participants);
    if access != AccessDecision::Allowed {
        return Ok(false);
    }
    match key {
        Some(key) => tx.is_key_valid(key, now).await,
        None => Ok(true),
    }
}

async fn try_begin_queued(
    tx: &mut impl StoreTransaction,
    row: SessionRow,
    turn: TurnSpec,
    payer: UsagePayer,
    lease_holder: &LeaseHolder,
    now: Timestamp,
) -> Result<BeginOutcome> {
    // The session may have been closed since the turn was queued.
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
            // The message enters the path now, after messages that were written
            // while it was queued.
            message.created_at = now;
            // The id may have been used since the turn was queued, for example by an import.
            if tx.find_message_by_id(&row, &message.id).await?.is_some() {
                return Err(Error::new(ErrorKind::IdConflict, "the message is already stored"));
            }
            store_message_and_claim(tx, row, *message, &parent, claim).await
        }
        TurnInput::Regenerate { reply_id: reply } => {
            claim_for_regeneration(tx, row, reply, claim).await
        }
    }
}
