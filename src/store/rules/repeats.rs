//! Requests that came before: found by their key, or by the name that the client gave its message.

use super::requests::reused;
use super::sessions::get;
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, Principal, Role};
use crate::error::Result;
use crate::store::queued::Waiting;
use crate::store::work::{KnownRequest, Location, SessionRow, Work};
use crate::store::{Ask, Began, LedTo, NewMessage};

/// What a repeated request led to; `None` if nothing is left of it.
pub(super) async fn repeated_by_key(
    work: &mut impl Work,
    who: &Principal,
    known: &KnownRequest,
) -> Result<Option<Began>> {
    let row = get(work, who, &known.session, AccessLevel::Participant).await?;
    if let Some(turn) = &known.turn_id {
        let runs = row.session.active_turn.as_ref().is_some_and(|active| active.turn_id == *turn);
        if runs || work.waiting(&row).await?.iter().any(|waiting| waiting.turn.turn_id == *turn) {
            // What a turn leads to is its reply.
            let reply_id = known.message_id.clone();
            let led_to = LedTo::Turn { turn_id: turn.clone(), reply_id };
            return Ok(Some(Began::Repeated { session: Box::new(row.session), led_to }));
        }
    }
    let Some(place) = work.locate(&row, &known.message_id).await? else { return Ok(None) };
    let message = work.message(&row, place.at).await?;
    Ok(Some(match (message.role, &message.parent_id) {
        (Role::Assistant, Some(_)) => {
            let led_to = LedTo::Reply(Box::new(message));
            Began::Repeated { session: Box::new(row.session), led_to }
        }
        _ => Began::HandedOver { session: Box::new(row.session), message_id: message.id },
    }))
}

/// The waiting turn of a message that its client sent before. Errors: `idempotency_key_reused`.
pub(super) async fn waiting_message(
    work: &mut impl Work,
    row: &SessionRow,
    new: &NewMessage,
) -> Result<Option<LedTo>> {
    let Some(id) = &new.client_message_id else { return Ok(None) };
    for Waiting { turn, .. } in work.waiting(row).await? {
        match &turn.ask {
            Ask::Say { message, .. } if message.client_message_id.as_ref() == Some(id) => {
                let (old, new) = (&message.body, &new.body);
                let is_same =
                    old.content == new.content && old.parts.as_json() == new.parts.as_json();
                return if is_same {
                    Ok(Some(LedTo::Turn { turn_id: turn.turn_id, reply_id: turn.reply_id }))
                } else {
                    Err(reused("clientMessageId"))
                };
            }
            _ => {}
        }
    }
    Ok(None)
}

/// A stored message that a client names again.
pub(super) struct KnownMessage {
    pub(super) message: Message,
    at: Location,
}

pub(super) fn says_the_same(known: &Message, new: &NewMessage) -> bool {
    known.role == new.role
        && known.content == new.body.content
        && known.parts.as_json() == new.body.parts.as_json()
}

/// The newest message that has the new one's client id as its id or its client id.
pub(super) async fn known_message(
    work: &mut impl Work,
    row: &SessionRow,
    new: &NewMessage,
) -> Result<Option<KnownMessage>> {
    let Some(id) = &new.client_message_id else { return Ok(None) };
    let Some(place) = work.newest_named(row, id).await? else { return Ok(None) };
    let message = work.message(row, place.at).await?;
    Ok(Some(KnownMessage { message, at: place.at }))
}

/// The first reply is the one that the repeated request got.
pub(super) async fn repeated(
    work: &mut impl Work,
    row: SessionRow,
    known: KnownMessage,
) -> Result<Began> {
    let id = known.message.id;
    let running = row.session.active_turn.as_ref();
    let running = running.filter(|turn| turn.user_message_id.as_ref() == Some(&id));
    let led_to = match running {
        Some(turn) => {
            LedTo::Turn { turn_id: turn.turn_id.clone(), reply_id: turn.message_id.clone() }
        }
        None => match first_reply(work, &row, known.at).await? {
            Some(reply) => LedTo::Reply(Box::new(reply)),
            None => LedTo::Question(id),
        },
    };
    Ok(Began::Repeated { session: Box::new(row.session), led_to })
}

async fn first_reply(
    work: &mut impl Work,
    row: &SessionRow,
    under: Location,
) -> Result<Option<Message>> {
    for at in work.children(row, under).await? {
        let child = work.message(row, at).await?;
        if child.role == Role::Assistant {
            return Ok(Some(child));
        }
    }
    Ok(None)
}
