//! Beginning and finishing turns, each in one transaction.

use super::append::{append_message, resolve_parent, save_session};
use super::claim::{
    TurnClaim, claim_for_regeneration, find_answered_message, store_message_and_claim,
};
use super::idempotency::{
    build_repeated_outcome, find_duplicate_message, find_queued_duplicate, find_result_by_key,
    has_same_content,
};
use super::ledger::{build_ledger_entry, check_quotas};
use super::posts::{ensure_idle, ensure_open, ensure_role_allowed};
use super::sessions::{authorize_access, get_session, id_conflict};
use super::{idempotency_keys, queue};
use crate::domain::MessageId;
use crate::domain::principal::AccessLevel;
use crate::domain::quota::UsagePayer;
use crate::error::{ErrorKind, Result};
use crate::store::queued_turn::QueuedTurn;
use crate::store::transaction::{SessionRow, StoreTransaction};
use crate::store::{
    BeginOutcome, BeginTurn, DuplicateIdPolicy, FinishOutcome, FinishTurn, MessageParent,
    MessageSize, NewMessage, NewSession, OnBusy, SessionTarget, TurnInput, TurnSpec,
};

pub(in crate::store) async fn begin_turn(
    tx: &mut impl StoreTransaction,
    begin: &BeginTurn,
) -> Result<BeginOutcome> {
    // Retries come first: they get the result of the first request even if the session is closed,
    // busy or out of quota by now.
    if let Some(key) = &begin.idempotency_key
        && let Some(request) =
            idempotency_keys::find_prior_request(tx, &begin.principal, key, begin.now).await?
        && let Some(repeated) = find_result_by_key(tx, &begin.principal, &request).await?
    {
        return Ok(repeated);
    }
    let row = find_or_create_target(tx, begin).await?;
    let session = row.session.id.clone();
    let outcome = match begin.turn.input.clone() {
        TurnInput::Send { message, parent, on_duplicate_id } => {
            begin_with_message(tx, begin, row, *message, parent, on_duplicate_id).await?
        }
        TurnInput::Regenerate { reply_id: reply } => {
            regenerate_reply(tx, begin, row, reply).await?
        }
    };
    if let Some(key) = &begin.idempotency_key {
        // Recorded in the same transaction as the turn, so that a retry finds both or neither.
        let (message_id, turn_id) = match &outcome {
            BeginOutcome::Repeated { .. } => return Ok(outcome),
            BeginOutcome::HumanTakeover { message_id, .. } => (message_id, None),
            BeginOutcome::Running(_) | BeginOutcome::Queued { .. } => {
                (&begin.turn.reply_id, Some(&begin.turn.turn_id))
            }
        };
        let prior = (&session, message_id, turn_id);
        idempotency_keys::record_request(tx, &begin.principal, key, prior, begin.now).await?;
    }
    Ok(outcome)
}

/// Returns the session of the turn and creates it if the request asks for that.
async fn find_or_create_target(
    tx: &mut impl StoreTransaction,
    begin: &BeginTurn,
) -> Result<SessionRow> {
    let new = NewSession { project_id: begin.project_id.clone(), ..NewSession::default() };
    let owner = &begin.principal.user;
    match &begin.target {
        SessionTarget::New(id) => tx.insert_session(owner, id, &new, begin.now).await,
        SessionTarget::Existing(id) => {
            get_session(tx, &begin.principal, id, AccessLevel::Participant).await
        }
        SessionTarget::Ensure(id) => match tx.find_session(id).await? {
            None => tx.insert_session(owner, id, &new, begin.now).await,
            Some(row) => match authorize_access(row, &begin.principal, AccessLevel::Participant) {
                // The id belongs to a session that the caller may not see, so it can neither be
                // used nor created.
                Err(error) if error.kind == ErrorKind::SessionNotFound => Err(id_conflict()),
                found => found,
            },
        },
    }
}

async fn begin_with_message(
    tx: &mut impl StoreTransaction,
    begin: &BeginTurn,
    row: SessionRow,
    message: NewMessage,
    mut parent: MessageParent,
    on_duplicate_id: DuplicateIdPolicy,
) -> Result<BeginOutcome> {
    // The message of a queued turn is not in the tree yet.
    if let Some(prior) = find_queued_duplicate(tx, &row, &message).await? {
        return Ok(BeginOutcome::Repeated { session: Box::new(row.session), prior });
    }
    if let Some(duplicate) = find_duplicate_message(tx, &row, &message).await? {
        if has_same_content(&duplicate.message, &message) {
            return build_repeated_outcome(tx, row, duplicate).await;
        }
        if on_duplicate_id == DuplicateIdPolicy::Reject {
            return Err(idempotency_keys::key_reused("clientMessageId"));
        }
        // An edit becomes a sibling of the message it replaces.
        parent = duplicate.message.parent_id.map_or(MessageParent::Root, MessageParent::Message);
    }
    ensure_open(&row)?;
    for preceding in &begin.preceding {
        ensure_role_allowed(&row, &begin.principal, preceding.role)?;
    }
    // Admission and quotas are checked before the first write, even if the turn only gets queued:
    // its client is waiting for a response now.
    (begin.admission)(
        &row.session,
        MessageSize::measure(&message.body.content, &message.body.parts, message.tokens),
    )?;
    check_turn_quotas(tx, begin, &row).await?;
    if row.session.active_turn.is_some() {
        // The parent found above is stored with the turn: an edit stays one, whenever it starts.
        let input = TurnInput::Send { message: Box::new(message), parent, on_duplicate_id };
        return enqueue_or_reject(tx, begin, row, input).await;
    }
    store_message_and_claim(tx, row, message, &parent, build_claim(begin)).await
}

/// Rejects a turn whose quotas are exhausted, unless a human agent answers.
async fn check_turn_quotas(
    tx: &mut impl StoreTransaction,
    begin: &BeginTurn,
    row: &SessionRow,
) -> Result<()> {
    if row.session.status.is_agent_assigned() {
        return Ok(());
    }
    check_quotas(tx, &begin.quotas, &build_payer(begin), &row.session, begin.now).await
}

fn build_payer(begin: &BeginTurn) -> UsagePayer {
    UsagePayer { user: begin.principal.user.clone(), key: begin.key_id.clone() }
}

fn build_claim(begin: &BeginTurn) -> TurnClaim<'_> {
    let TurnSpec { turn_id, reply_id, options, .. } = begin.turn.clone();
    TurnClaim {
        turn_id,
        reply_id,
        options,
        preceding: begin.preceding.clone(),
        payer: build_payer(begin),
        was_queued: false,
        lease_holder: &begin.lease_holder,
        now: begin.now,
    }
}

/// Begins another reply to a stored message.
async fn regenerate_reply(
    tx: &mut impl StoreTransaction,
    begin: &BeginTurn,
    row: SessionRow,
    reply: Option<MessageId>,
) -> Result<BeginOutcome> {
    ensure_open(&row)?;
    if row.session.active_turn.is_some() {
        return enqueue_or_reject(tx, begin, row, TurnInput::Regenerate { reply_id: reply }).await;
    }
    let (user_message, _) = find_answered_message(tx, &row, reply.clone()).await?;
    (begin.admission)(
        &row.session,
        MessageSize::measure(&user_message.content, &user_message.parts, user_message.tokens),
    )?;
    check_turn_quotas(tx, begin, &row).await?;
    claim_for_regeneration(tx, row, reply, build_claim(begin)).await
}

/// Queues a turn while another one is running, if its request allows that.
async fn enqueue_or_reject(
    tx: &mut impl StoreTransaction,
    begin: &BeginTurn,
    row: SessionRow,
    input: TurnInput,
) -> Result<BeginOutcome> {
    // A queued turn has a single message; preceding ones would be lost.
    if begin.on_busy == OnBusy::Reject || !begin.preceding.is_empty() {
        ensure_idle(&row)?;
    }
    // A turn that could not begin now cannot begin later either. Fail while the client is waiting.
    match &input {
        TurnInput::Send { parent, .. } => drop(resolve_parent(tx, &row, parent).await?),
        TurnInput::Regenerate { reply_id: reply } => {
            drop(find_answered_message(tx, &row, reply.clone()).await?)
        }
    }
    let turn = TurnSpec { input, ..begin.turn.clone() };
    let queued =
        QueuedTurn { principal: begin.principal.clone(), turn, key_id: begin.key_id.clone() };
    queue::enqueue_turn(tx, &row, &queued, begin.on_busy).await?;
    Ok(BeginOutcome::Queued { session: Box::new(row.session) })
}

pub(in crate::store) async fn finish_turn(
    tx: &mut impl StoreTransaction,
    finish: &FinishTurn,
) -> Result<Option<FinishOutcome>> {
    let Some(mut row) = tx.find_session(&finish.session_id).await? else { return Ok(None) };
    // Both must match: recovery may have given the turn to another process, and after that a late
    // reply must not be stored.
    let holds_claim =
        row.session.active_turn.as_ref().is_some_and(|turn| turn.turn_id == finish.turn_id)
            && row.lease_holder.as_ref() == Some(&finish.lease_holder);
    if !holds_claim {
        let is_stored = is_reply_stored(tx, &row, &finish.reply).await?;
        return Ok(is_stored.then(FinishOutcome::default));
    }
    let now = finish.reply.created_at;
    // Nothing else has moved the head since the turn began, so it is the message to answer.
    let user_message = row.located_head();
    append_message(tx, &mut row, &finish.reply, user_message.as_ref()).await?;
    save_session(tx, &mut row, now).await?;
    // Reply and end of the log are stored together, so that a reader never finds one
    // without the other.
    if let Some(last) = &finish.last_batch {
        tx.finish_log(&row, &finish.turn_id, last, now).await?;
    }
    if let Some(entry) = build_ledger_entry(&row, finish) {
        tx.record_usage(&entry, finish.counts_toward_quota).await?;
    }
    tx.release(&row).await?;
    row.session.active_turn = None;
    row.lease_holder = None;
    row.payer = None;
    let mut skipped = Vec::new();
    // The next turn is claimed before this transaction commits: no other request can slip in
    // between and overtake the queue.
    let next = match &finish.next_lease_holder {
        Some(lease_holder) => {
            queue::begin_next_queued(tx, row, lease_holder, now, &mut skipped).await?
        }
        None => None,
    };
    Ok(Some(FinishOutcome { next, skipped }))
}

/// Whether this very reply is stored already, because the response to an earlier attempt was lost.
async fn is_reply_stored(
    tx: &mut impl StoreTransaction,
    row: &SessionRow,
    reply: &NewMessage,
) -> Result<bool> {
    let Some(located) = tx.find_message_by_id(row, &reply.id).await? else { return Ok(false) };
    let stored = tx.read_message(row, located.location).await?;
    Ok(stored.status == reply.reply.status && stored.content == reply.body.content)
}
