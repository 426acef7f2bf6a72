//! Requests that came before: found by their key, or by the name that the client gave its message.

use super::idempotency_keys::key_reused;
use super::sessions::get_session;
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, Principal, Role};
use crate::error::Result;
use crate::store::queued_turn::QueuedTurn;
use crate::store::transaction::{MessageLocation, PriorRequest, SessionRow, StoreTransaction};
use crate::store::{BeginOutcome, NewMessage, PriorResult, TurnInput};

/// What a repeated request led to; `None` if nothing is left of it.
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
            // What a turn leads to is its reply.
            let reply_id = request.message_id.clone();
            let prior = PriorResult::Turn { turn_id: turn.clone(), reply_id };
            return Ok(Some(BeginOutcome::Repeated { session: Box::new(row.session), prior }));
        }
    }
    let Some(located) = tx.find_message(&row, &request.message_id).await? else { return Ok(None) };
    let message = tx.read_message(&row, located.location).await?;
    Ok(Some(match (message.role, &message.parent_id) {
        (Role::Assistant, Some(_)) => {
            let prior = PriorResult::Reply(Box::new(message));
            BeginOutcome::Repeated { session: Box::new(row.session), prior }
        }
        _ => BeginOutcome::HumanTakeover { session: Box::new(row.session), message_id: message.id },
    }))
}

/// The waiting turn of a message that its client sent before. Errors: `idempotency_key_reused`.
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

/// A stored message that a client names again.
pub(super) struct DuplicateMessage {
    pub(super) message: Message,
    location: MessageLocation,
}

pub(super) fn has_same_content(stored: &Message, new: &NewMessage) -> bool {
    stored.role == new.role
        && stored.content == new.body.content
        && stored.parts.as_json() == new.body.parts.as_json()
}

/// The newest message that has the new one's client id as its id or its client id.
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

/// The first reply is the one that the repeated request got.
pub(super) async fn build_repeated_outcome(
    tx: &mut impl StoreTransaction,
    row: SessionRow,
    duplicate: DuplicateMessage,
) -> Result<BeginOutcome> {
    let id = duplicate.message.id;
    let running = row.session.active_turn.as_ref();
    let running = running.filter(|turn| turn.user_message_id.as_ref() == Some(&id));
    let prior = match running {
        Some(turn) => {
            PriorResult::Turn { turn_id: turn.turn_id.clone(), reply_id: turn.message_id.clone() }
        }
        None => match find_first_reply(tx, &row, duplicate.location).await? {
            Some(reply) => PriorResult::Reply(Box::new(reply)),
            None => PriorResult::Unanswered(id),
        },
    };
    Ok(BeginOutcome::Repeated { session: Box::new(row.session), prior })
}

async fn find_first_reply(
    tx: &mut impl StoreTransaction,
    row: &SessionRow,
    parent: MessageLocation,
) -> Result<Option<Message>> {
    for at in tx.list_children(row, parent).await? {
        let child = tx.read_message(row, at).await?;
        if child.role == Role::Assistant {
            return Ok(Some(child));
        }
    }
    Ok(None)
}
