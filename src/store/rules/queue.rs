//! Turns that wait for a session's running turn to end, and how they begin then.

use super::posts::ensure_open;
use super::turns::{Claim, begin_again, begin_saying};
use crate::domain::quota::UsagePayer;
use crate::domain::{SessionId, Timestamp, TurnId};
use crate::error::{Error, Kind, Result};
use crate::store::queued::Waiting;
use crate::store::work::{SessionRow, Work};
use crate::store::{Ask, Began, Begun, Claimant, Finished, MAX_QUEUED, OnBusy, Silenced, TurnSpec};

/// Puts a turn behind those that wait, or before them. Errors: `queue_full`.
pub(super) async fn push(
    work: &mut impl Work,
    row: &SessionRow,
    waiting: &Waiting,
    on_busy: OnBusy,
) -> Result<()> {
    if work.waiting(row).await?.len() >= MAX_QUEUED as usize {
        let message = format!("{MAX_QUEUED} messages wait in this session already");
        return Err(Error::limit_exceeded(Kind::QueueFull, message, MAX_QUEUED, 1));
    }
    work.push_waiting(row, waiting, on_busy == OnBusy::Interrupt).await
}

/// Drops the turns that wait in a session, unless another turn runs than the one that is named.
pub(in crate::store) async fn silence(
    work: &mut impl Work,
    session: &SessionId,
    only: Option<&TurnId>,
) -> Result<Silenced> {
    let Some(row) = work.session(session).await? else { return Ok(Silenced::default()) };
    let running = row.session.active_turn.as_ref().map(|turn| turn.turn_id.clone());
    if only.is_some() && only != running.as_ref() {
        return Ok(Silenced::default());
    }
    let mut dropped = Vec::new();
    for Waiting { turn, .. } in work.waiting(&row).await? {
        work.drop_waiting(&row, &turn.turn_id).await?;
        dropped.push(turn.turn_id);
    }
    Ok(Silenced { running, dropped })
}

/// Drops one turn that waits. Whether it still did.
pub(in crate::store) async fn withdraw(
    work: &mut impl Work,
    session: &SessionId,
    turn: &TurnId,
) -> Result<bool> {
    match work.session(session).await? {
        Some(row) => work.drop_waiting(&row, turn).await,
        None => Ok(false),
    }
}

/// Begins a waiting turn of any session in which none runs.
pub(in crate::store) async fn begin_waiting(
    work: &mut impl Work,
    claimant: &Claimant,
    now: Timestamp,
) -> Result<Finished> {
    let mut finished = Finished::default();
    while finished.next.is_none()
        && let Some(session) = work.idle_session().await?
    {
        let row = work.session(&session).await?.ok_or_else(Error::session_not_found)?;
        let before = finished.passed_over.len();
        finished.next = begin_next(work, row, claimant, now, &mut finished.passed_over).await?;
        if finished.next.is_none() && finished.passed_over.len() == before {
            // What waits there cannot be read: it must not keep the others from theirs for ever.
            tracing::error!(session.id = %session, "turns wait that cannot be read");
            break;
        }
    }
    Ok(finished)
}

/// Begins the first turn that waits in an idle session. One that cannot begin any more is passed
/// over, with nothing of it stored.
pub(super) async fn begin_next(
    work: &mut impl Work,
    row: SessionRow,
    claimant: &Claimant,
    now: Timestamp,
    passed_over: &mut Vec<TurnId>,
) -> Result<Option<Box<Begun>>> {
    let session = row.session.id.clone();
    let waiting = work.waiting(&row).await?;
    let mut fresh = Some(row);
    for Waiting { who, turn, key } in waiting {
        let payer = UsagePayer { user: who.user, key };
        let row = match fresh.take() {
            Some(row) => row,
            None => work.session(&session).await?.ok_or_else(Error::session_not_found)?,
        };
        let waited = turn.turn_id.clone();
        work.drop_waiting(&row, &waited).await?;
        match begin(work, row, turn, payer, claimant, now).await {
            Ok(Began::Running(begun)) => return Ok(Some(begun)),
            // Stored, and a person will answer it.
            Ok(_) => {}
            Err(error) if error.kind == Kind::StoreUnavailable => return Err(error),
            Err(error) => {
                tracing::warn!(turn.id = %waited, error = %error, "a waiting turn could not begin");
            }
        }
        passed_over.push(waited);
    }
    Ok(None)
}

async fn begin(
    work: &mut impl Work,
    row: SessionRow,
    turn: TurnSpec,
    payer: UsagePayer,
    claimant: &Claimant,
    now: Timestamp,
) -> Result<Began> {
    // It may have been closed since the turn was asked for.
    ensure_open(&row)?;
    let TurnSpec { turn_id, reply_id, ask, options } = turn;
    let claim = Claim {
        turn_id,
        reply_id,
        options,
        earlier: Vec::new(),
        payer,
        has_waited: true,
        claimant,
        now,
    };
    match ask {
        Ask::Say { mut message, parent, .. } => {
            message.created_at = now;
            if work.by_id(&row, &message.id).await?.is_some() {
                return Err(Error::new(Kind::IdTaken, "the message is stored already"));
            }
            begin_saying(work, row, *message, &parent, claim).await
        }
        Ask::Again { reply } => begin_again(work, row, reply, claim).await,
    }
}
