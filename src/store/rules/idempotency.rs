//! Retries of earlier requests, recognized by their idempotency key or by the client message id.

use super::idempotency_keys::key_reused;
use super::sessions::get_session;
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, Principal, Role};
use crate::error::Result;
use crate::store::queued_turn::QueuedTurn;
use crate::store::transaction::{MessageLocation, PriorRequest, SessionRow, StoreTransaction};
use crate::store::{BeginOutcome, NewMessage, PriorResult, TurnInput};

/// Returns the result of the recorded request; `None` if nothing is left of it.
pub(super) async fn find_result_by_key(
    tx: &mut impl StoreTransaction,
    principal: &Principal,
    request: &PriorRequest,
) -> Result<Option<BeginOutcome>> {
    let row = get_session(tx, principal, &request.session_id, AccessLevel::Participant).await?;
    if let Some(turn) = &request.turn_id {
        let is_running =
            row.session.active_turn.as_ref().is_some_and(|active| active.turn_id == *turn);
        if is_running
            || tx.queued_turns(&row).await?.iter().any(|queued| queued.turn.turn_id == *turn)
        {
            // For a request that started a turn, the recorded message is the reply.
            let reply_id = request.message_id.clone();
            let prior = PriorResult::Turn { turn_id: turn.clone(), reply_id };
            return Ok(Some(BeginOutcome::Repeated { session: Box::new(row.session), prior }));
        }
    }
    // The turn is over, or there was none: the recorded message itself is the result. If it is
    // gone, the request counts as new.
    let Some(located) = tx.find_message(&row, &request.message_id).await? else { return Ok(None) };
    let message = tx.read_message(&row, located.location).await?;
    Ok(Some(match (message.role, &message.parent_id) {
        (Role::Assistant, Some(_)) => {
            let prior = PriorResult::Reply(Box::new(message));
            BeginOutcome::Repeated { session: Box::new(row.session), prior }
        }
        // Not a reply, so the message was left for a human agent.
        _ => BeginOutcome::HumanTakeover { session: Box::new(row.session), message_id: message.id },
    }))
}

/// Finds the queued turn whose message has the same client message id. Errors:
/// `idempotency_key_reused` if the content differs.
pub(super) async fn find_queued_duplicate(
    tx: &mut impl StoreTransaction,
    row: &SessionRow,
    new: &NewMessage,
) -> Result<Option<PriorResult>> {
    let Some(id) = &new.client_message_id else { return Ok(None) };
    for QueuedTurn { turn, .. } in tx.queued_turns(row).await? {
        match &turn.input {
            TurnInput::Send { message, .. } if message.client_message_id.as_ref() == Some(id) => {
                let old = &message.body;
                let new = &new.body;
                let is_same =
                    old.content == new.content && old.parts.as_json() == new.parts.as_json();
                return if is_same {
                    Ok(Some(PriorResult::Turn { turn_id: turn.turn_id, reply_id: turn.reply_id }))
                } else {
                    Err(key_reused("clientMessageId"))
                };
            }
            _ => {}
        }
    }
    Ok(None)
}

/// A stored message that has the same client message id.
pub(super) struct DuplicateMessage {
    pub(super) message: Message,
    location: MessageLocation,
}

pub(super) fn has_same_content(stored: &Message, new: &NewMessage) -> bool {
    stored.role == new.role
        && stored.content == new.body.content
        && stored.parts.as_json() == new.body.parts.as_json()
}

/// Finds the newest message whose id or client message id is the new one's client message id.
pub(super) async fn find_duplicate_message(
    tx: &mut impl StoreTransaction,
    row: &SessionRow,
    new: &NewMessage,
) -> Result<Option<DuplicateMessage>> {
    let Some(id) = &new.client_message_id else { return Ok(None) };
    let Some(located) = tx.find_newest_message(row, id).await? else { return Ok(None) };
    let message = tx.read_message(row, located.location).await?;
    Ok(Some(DuplicateMessage { message, location: located.location }))
}

/// Builds the outcome of a retry: the running turn or else the first reply, which is the one that
/// the original request got.
pub(super) async fn build_repeated_outcome(
    tx: &mut impl StoreTransaction,
    row: SessionRow,
    duplicate: DuplicateMessage,
) -> Result<BeginOutcome> {
    let id = duplicate.message.id;
    let running = row.session.active_turn.as_ref();
    // A turn that answers another message is not a result of this request.
    let running = running.filter(|turn| turn.user_message_id.as_ref() == Some(&id));
    let prior = match running {
        Some(turn) => {
            PriorResult::Turn { turn_id: turn.turn_id.clone(), reply_id: turn.message_id.clone() }
        }
        None => match tx.find_first_reply(&row, duplicate.location).await? {
            Some(at) => PriorResult::Reply(Box::new(tx.read_message(&row, at).await?)),
            None => PriorResult::Unanswered(id),
        },
    };
    Ok(BeginOutcome::Repeated { session: Box::new(row.session), prior })
}
